"""The runtimes whose engines can be part of a bundle.

To add one, write its `EngineTarget` in a file of its own, and a field here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from export.engines import Choice, EngineChoice
from export.to_tensorrt import TensorRTRTX

TARGET = "target"


@dataclass(frozen=True)
class Targets:
    """The engines that are built ahead of time, on this machine."""

    tensorrt_rtx: Choice = field(default="auto", metadata={TARGET: TensorRTRTX()})
    """Build TensorRT-RTX engines: if possible (auto), or else fail (require), or never (off)."""

    def choices(self) -> tuple[EngineChoice, ...]:
        """The same as values, in the order of the fields; `write_bundle` takes them."""
        return tuple(
            EngineChoice(entry.metadata[TARGET], getattr(self, entry.name))
            for entry in fields(self)
        )
