"""What a bundle can be made for, by name.

To add a runtime, write its `EngineTarget` in a file of its own, and a line in `BUILDERS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from export.engines import Choice, EngineChoice, EngineTarget
from export.errors import ExportError, MissingPackageError
from export.manifest import NotBuilt
from export.operators import TENSORRT_10_3, TENSORRT_11_4, Runtime, refusals
from export.to_ncnn import Ncnn
from export.to_openvino import OpenVINO
from export.to_tensorrt import TensorRTRTX
from export.to_torch import Torch
from export.to_torch_tensorrt import TorchTensorRT

if TYPE_CHECKING:
    import onnx

TargetName = Literal["onnx", "rtx", "jetson-orin", "jetson-thor", "openvino", "ncnn", "torch"]
Via = Literal["onnx", "torch-tensorrt"]

BUILDERS: Mapping[str, EngineTarget] = {
    "rtx": TensorRTRTX(),
    "openvino": OpenVINO(),
    "ncnn": Ncnn(),
    "torch": Torch(),
    "torch-tensorrt": TorchTensorRT(),
}


@dataclass(frozen=True)
class Board:
    """A device that builds its own engine from the graph, and what its TensorRT can run."""

    name: str
    compute_capability: str
    runtime: Runtime


# JetPack 6 keeps TensorRT 10.3, and 7 has 11.4.
BOARDS = (
    Board("jetson-orin", "8.7", TENSORRT_10_3),
    Board("jetson-thor", "11.0", TENSORRT_11_4),
)


@dataclass(frozen=True)
class Targets:
    """What a bundle is for: the engines that are built now, and boards that must run the graph."""

    engines: tuple[EngineChoice, ...] = (EngineChoice(BUILDERS["rtx"]),)
    boards: tuple[str, ...] = ()

    @classmethod
    def of(cls, named: Sequence[TargetName], rtx: Choice = "auto", via: Via = "onnx") -> Targets:
        """The targets of a command.

        Args:
            named: What was asked for; all of it must succeed. If nothing was, or if TensorRT-RTX is
                not among it, its engines are built as `rtx` says.
            rtx: When engines of TensorRT-RTX are built.
            via: What makes an engine for the GPU of this machine.
        """
        wanted = [*named, *([via] if via != "onnx" else [])]
        rtx = "require" if "rtx" in wanted else "off" if wanted and rtx == "auto" else rtx
        required = [name for name in BUILDERS if name in wanted and name != "rtx"]
        return cls(
            (
                EngineChoice(BUILDERS["rtx"], rtx),
                *(EngineChoice(BUILDERS[name], "require") for name in required),
            ),
            tuple(board.name for board in BOARDS if board.name in wanted),
        )

    def check(self) -> None:
        """Refuse what cannot be built here, before anything is exported.

        Raises:
            MissingPackageError: a required builder, or what it needs, is not there.
        """
        for wanted in self.engines:
            if wanted.choice == "require" and not wanted.target.is_installed():
                raise MissingPackageError(
                    f"{wanted.target.name} engines cannot be built here: {wanted.target.install}"
                )


def unfit(graph: onnx.ModelProto, required: Sequence[str]) -> Iterator[NotBuilt]:
    """The boards whose TensorRT does not run a graph, and why.

    Args:
        graph: The graph.
        required: The names of boards that must run it.

    Raises:
        ExportError: One of those that must does not.
    """
    for board in BOARDS:
        reason = next(refusals(graph, board.runtime), None)
        if reason is not None and board.name in required:
            raise ExportError(f"{board.name} does not run this graph: {reason}")
        if reason is not None:
            yield NotBuilt(board.name, board.compute_capability, reason)
