"""OpenVINO on the CPU, which reads ONNX files itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.asked import RunSettings
from edge_bench.errors import RunnerError
from edge_bench.inputs import InputSpec, fits, shapes_of
from edge_bench.runners import GraphRunner


class OpenVINORunner(GraphRunner):
    """OpenVINO on the CPU with a fixed number of threads, for the latency of single calls.

    It computes in float32 even where the processor has bfloat16: the images are those of the model,
    as with the other runtimes. Of a model in float16, it keeps the weights and computes in float32.
    """

    title = "OpenVINO"

    def __init__(self, path: Path, settings: RunSettings | None = None) -> None:
        super().__init__(path, settings)
        self._errors = (RuntimeError, ValueError, TypeError)
        self._request: Any = None
        self._known: tuple[tuple[int, ...], ...] = ()

    @property
    def runtime(self) -> str:
        """The version, and the number of threads."""
        return self._on_cpu("openvino")

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        """The images `(batch, ...)` of a feed; their memory belongs to the caller."""
        shapes = tuple(array.shape for array in feed)
        if shapes != self._known:  # OpenVINO itself takes them, and returns no image
            if not fits(self.inputs, shapes):
                raise RunnerError(
                    f"{self._path}: OpenVINO failed at {shapes_of(feed)}; the model takes "
                    f"{' and '.join(str(spec.shape) for spec in self.inputs)}"
                )
            self._known = shapes
        return super().infer(*feed)

    def _start(self) -> tuple[Sequence[InputSpec], int]:
        try:
            import openvino
        except ImportError:
            raise RunnerError(
                "openvino is not installed; install it with: pip install openvino"
            ) from None
        self._version = str(openvino.__version__).partition("-")[0]
        settings = {
            "INFERENCE_NUM_THREADS": self._settings.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            core = openvino.Core()
            model = core.compile_model(core.read_model(self._path), "CPU", settings)
            self._request = model.create_infer_request()
        except RuntimeError as error:
            raise RunnerError(
                f"{self._path}: OpenVINO does not load it ({self._reason(error)}); export it "
                "again, or use the onnxruntime runner"
            ) from None
        return [self._describe(tensor) for tensor in model.inputs], len(model.outputs)

    def _stop(self) -> None:
        self._request = None

    def _run(self, named: Mapping[str, NDArray[np.generic]]) -> NDArray[np.generic]:
        images: NDArray[np.generic] = self._request.infer(dict(named))[0]
        return images

    def _reason(self, error: Exception) -> str:
        """The line that says why: those before it name files of OpenVINO's own source."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
        return (said or lines or [type(error).__name__])[0][:300]

    def _describe(self, tensor: Any) -> InputSpec:
        shape = tuple(
            None if size.is_dynamic else int(size.get_length()) for size in tensor.partial_shape
        )
        return InputSpec(tensor.get_any_name(), np.dtype(tensor.element_type.to_dtype()), shape)
