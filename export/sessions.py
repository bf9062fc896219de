"""Exported graphs in ONNX Runtime on the CPU: as they are, and as a generator like any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from export.errors import ExportError, MissingPackageError
from export.interface import arrays_of, image_range_of
from nas_gan.networks.interface import HELD, IMAGE_RANGE, GeneratorInterface

if TYPE_CHECKING:
    import onnx

Arrays = Mapping[str, np.ndarray[Any, Any]]
PROVIDER = "CPUExecutionProvider"


class Session:
    """A graph that is open in ONNX Runtime.

    Args:
        graph: The graph, or its file.
        name: What messages call it.
        threads: CPU threads; ONNX Runtime's own choice if None.

    Raises:
        ExportError: ONNX Runtime does not take the graph.
        MissingPackageError: onnxruntime is not installed.
    """

    def __init__(
        self, graph: Path | onnx.ModelProto, name: str, threads: int | None = None
    ) -> None:
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as status
        except ImportError as error:
            raise MissingPackageError(
                "the parity check needs onnxruntime, which is not installed: "
                "pip install onnxruntime"
            ) from error
        self.name = name
        self._errors = (
            status.Fail,
            status.InvalidArgument,
            status.InvalidGraph,
            status.InvalidProtobuf,
            status.NotImplemented,
            status.RuntimeException,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: stderr is for the progress of the command
        if threads is not None:
            options.intra_op_num_threads = threads
        given = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(given, options, providers=[PROVIDER])
        except self._errors as error:
            raise self._refused(error) from error

    def images(self, arrays: Arrays) -> np.ndarray[Any, Any]:
        """The first output for inputs by name.

        Raises:
            ExportError: the graph does not run on them.
        """
        try:
            return np.asarray(self._session.run(None, dict(arrays))[0])
        except self._errors as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ExportError:
        reason = " ".join(str(error).split())[:300]
        return ExportError(f"{self.name} does not run in ONNX Runtime: {reason}")


class OnnxGenerator(nn.Module):
    """An exported graph as a generator: from rows `(n, *row_shape)` to images in [-1, 1].

    Args:
        graph: The exported graph.
        interface: The interface of the generator that it was exported from.
        name: What messages call it.
    """

    def __init__(self, graph: onnx.ModelProto, interface: GeneratorInterface, name: str) -> None:
        super().__init__()
        self.session, self.interface = Session(graph, name), interface
        setattr(self, HELD, interface)

    def forward(self, rows: Tensor) -> Tensor:
        """Images `(n, c, h, w)` of rows."""
        images = self.session.images(arrays_of(self.interface, rows.cpu()))
        (low, high), (black, white) = image_range_of(self.interface), IMAGE_RANGE
        tensor = torch.from_numpy(images)
        if (low, high) == (black, white):
            return tensor
        return (tensor - low) * ((white - black) / (high - low)) + black
