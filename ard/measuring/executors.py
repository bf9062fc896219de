"""The executors of `nas_gan.workers`, under the names that `ard` offers."""

from nas_gan.workers.executors import Executor as Executor
from nas_gan.workers.executors import Item as Item
from nas_gan.workers.executors import Result as Result
from nas_gan.workers.executors import SerialExecutor as SerialExecutor
from nas_gan.workers.ray_executor import RayExecutor as RayExecutor
