"""The public names of `export`; each is imported when it is first used."""

from .bundle import BundleSettings as BundleSettings
from .bundle import BundleSource as BundleSource
from .bundle import write_bundle as write_bundle
from .errors import BundleError as BundleError
from .errors import ExportError as ExportError
from .errors import MissingPackageError as MissingPackageError
from .manifest import BatchRange as BatchRange
from .manifest import Manifest as Manifest
from .manifest import read_manifest as read_manifest
from .manifest import verify as verify
from .parity import Parity as Parity
from .parity import check_parity as check_parity
from .precision_plan import Budgets as Budgets
from .precision_plan import PrecisionPlanner as PrecisionPlanner
from .quality import Measuring as Measuring
from .speed import Timing as Timing
from .to_onnx import GraphSettings as GraphSettings
from .to_onnx import write_onnx as write_onnx
