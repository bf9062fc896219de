"""Engines that are built ahead of time: what a target is, and how its engines are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from export.errors import ExportError, MissingPackageError
from export.manifest import BatchRange, Engine, NotBuilt, TensorSpec
from export.precision import Delivered

if TYPE_CHECKING:
    from torch import nn

Choice = Literal["auto", "require", "off"]
ANY = "any"


@dataclass(frozen=True)
class Sample:
    """Inputs by name, what draws the graph's images of them, and the range of these."""

    inputs: Mapping[str, np.ndarray[Any, Any]]
    draw: Callable[[], np.ndarray[Any, Any]]
    image_range: tuple[float, float]

    @cached_property
    def images(self) -> np.ndarray[Any, Any]:
        """The images `(n, c, h, w)`, which only targets that can run here ask for."""
        return self.draw()


@dataclass(frozen=True)
class EngineJob:
    """What an engine is built from.

    A target reads the ONNX file or the generator, depending on its builder. `tensors` are the
    inputs and outputs that the engine must have, `batch` the sizes that it must accept, and
    `sample` what it is checked with if it can run here. `precision` is the graph's.
    """

    generator: nn.Module
    onnx_path: Path
    tensors: tuple[TensorSpec, ...]
    batch: BatchRange
    sample: Sample | None = None
    precision: Delivered = "fp32"


class EngineTarget(Protocol):
    """A runtime whose engines can be built on this machine, one per compute capability.

    A runtime that is not for GPUs has the one compute capability `ANY`.
    """

    @property
    def name(self) -> str:
        """Its name in the manifest."""

    @property
    def install(self) -> str:
        """The command that installs its builder."""

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """The compute capabilities of the GPUs that it builds for."""

    def is_installed(self) -> bool:
        """Whether its builder can be imported."""

    def build(self, job: EngineJob, compute_capability: str) -> Engine:
        """Write one engine beside the ONNX file.

        Raises:
            ExportError: The builder refused; the message is its reason, on one line.
        """


@dataclass(frozen=True)
class EngineChoice:
    """A target and when its engines are built.

    `auto` builds if the target is installed, and records which engines could not be built.
    `require` raises an error if the target is not installed or an engine cannot be built. `off`
    builds nothing.
    """

    target: EngineTarget
    choice: Choice = "auto"

    @property
    def n_engines(self) -> int:
        """Number of engines that will be attempted."""
        tried = self.choice != "off" and self.target.is_installed()
        return len(self.target.compute_capabilities) if tried else 0


@dataclass(frozen=True)
class EngineBuilds:
    """The engines that were built, and those that were not."""

    engines: tuple[Engine, ...] = ()
    not_built: tuple[NotBuilt, ...] = ()


def build_engines(
    wanted: EngineChoice, job: EngineJob, advance: Callable[[int], None] = lambda n: None
) -> EngineBuilds:
    """Build the engines of one target; `advance(1)` follows each of them.

    Raises:
        ExportError: A required engine could not be built.
        MissingPackageError: A required target is not installed.
    """
    target, required = wanted.target, wanted.choice == "require"
    if required and not target.is_installed():
        raise MissingPackageError(
            f"the builder of {target.name} engines is not installed: {target.install}"
        )
    if not wanted.n_engines:
        return EngineBuilds()
    engines, failed = [], []
    for capability in target.compute_capabilities:
        try:
            engines.append(target.build(job, capability))
        except ExportError as error:
            if required:
                device = "" if capability == ANY else f" for compute capability {capability}"
                raise ExportError(f"no engine of {target.name}{device}: {error}") from error
            failed.append(NotBuilt(target.name, capability, str(error)))
        advance(1)
    return EngineBuilds(tuple(engines), tuple(failed))
