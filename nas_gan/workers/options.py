"""The options of every command that can spread its work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

from nas_gan.devices import full_float32
from nas_gan.errors import InvalidValueError, UsageError
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.panels import WORKERS
from nas_gan.settings import check_at_least
from nas_gan.workers.executors import Executor, SerialExecutor
from nas_gan.workers.ray_executor import RayExecutor


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Where the work runs."""

    executor: Annotated[Literal["local", "ray"], WORKERS] = "local"
    """Where the work runs: local is this process, ray the workers of a Ray cluster."""
    ray_address: Annotated[str, WORKERS] = "auto"
    """Cluster to use: auto is the running one, or a new one on this machine if there is none; local
    is always a new one; or HOST:PORT of a cluster's head."""
    workers: Annotated[int | None, WORKERS] = None
    """Workers to start; as many as the cluster has room for if not given."""
    gpus_per_worker: Annotated[float, WORKERS] = 0.0
    """GPUs of a worker; below 1, several workers share a GPU."""
    cpu_workers: Annotated[int, WORKERS] = 0
    """Workers without a GPU to start beside those with one; they measure, and train nothing."""

    @property
    def spread(self) -> bool:
        """Whether the work leaves this process."""
        return self.executor == "ray"


def check_workers(options: WorkerOptions, device: str) -> None:
    """Check the options without any cluster.

    Raises:
        InvalidValueError: a number is out of range, or the device does not fit the workers.
        UsageError: an option says something about workers, and there are none.
    """
    check_at_least("workers", options.workers, 1)
    check_at_least("gpus_per_worker", options.gpus_per_worker, 0)
    check_at_least("cpu_workers", options.cpu_workers, 0)
    if not options.spread:
        given = (
            ("ray_address", options.ray_address != "auto"),
            ("workers", options.workers is not None),
            ("gpus_per_worker", options.gpus_per_worker > 0),
            ("cpu_workers", options.cpu_workers > 0),
        )
        for name, is_given in given:
            if is_given:
                raise UsageError("needs the executor ray; the work runs here", setting=name)
        return
    if device.startswith("cuda:"):
        raise InvalidValueError(
            f"is {device}, but Ray gives every worker a GPU of its own; use cuda", setting="device"
        )
    if (device == "cuda") != (options.gpus_per_worker > 0):
        raise InvalidValueError(
            f"is {options.gpus_per_worker:g}, but the device is {device}; use a share of a GPU, "
            "such as 1 or 0.5, for cuda, and 0 for any other device",
            setting="gpus_per_worker",
        )
    if options.cpu_workers and device != "cuda":
        raise InvalidValueError(
            f"is {options.cpu_workers}, but the device is {device}, and no worker has a GPU; "
            "use workers alone, or the device cuda",
            setting="cpu_workers",
        )


def check_one_kind(options: WorkerOptions, reason: str) -> None:
    """Refuse workers without a GPU beside those with one, for work that depends on the device.

    Args:
        options: where the work runs.
        reason: why it depends on the device, as a sentence goes on after "but".

    Raises:
        InvalidValueError: there are some.
    """
    if options.cpu_workers:
        raise InvalidValueError(
            f"is {options.cpu_workers}, but {reason}; use workers of one kind, and 0 here",
            setting="cpu_workers",
        )


def check_alike(options: WorkerOptions, interface: GeneratorInterface) -> None:
    """Refuse workers of two kinds of devices for a generator that they would run differently.

    Raises:
        InvalidValueError: there are such workers, and the generator draws random numbers itself.
    """
    if interface.calling is not None and interface.calling.random:
        check_one_kind(
            options,
            "this generator draws random numbers of its own, which are others on a GPU than on "
            "a CPU",
        )


@contextmanager
def opened_executor(options: WorkerOptions, device: str, threads: int | None) -> Iterator[Executor]:
    """The executor that the options describe, until the block ends.

    Args:
        options: where the work runs.
        device: the device that the work runs on.
        threads: CPU threads of one worker; 1 if None.

    Raises:
        NasGanError: the options contradict each other, or there is no such cluster.
    """
    check_workers(options, device)
    if not options.spread:
        yield SerialExecutor()
        return
    with (
        full_float32(options.cpu_workers > 0),  # here as on the workers
        RayExecutor(
            options.workers,
            threads=threads or 1,
            gpus=options.gpus_per_worker,
            cpu_workers=options.cpu_workers,
            address=options.ray_address,
        ) as executor,
    ):
        yield executor
