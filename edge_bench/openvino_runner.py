"""OpenVINO on the CPU, which reads ONNX files itself."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import RunnerError
from edge_bench.inputs import InputSpec, batch_range_of, check_inputs, fits, shapes_of

if TYPE_CHECKING:
    from typing import Self


class OpenVINORunner:
    """OpenVINO on the CPU with a fixed number of threads, for the latency of single calls.

    It computes in float32 even where the processor has bfloat16: the images are those of the model,
    as with the other runtimes. Of a model in float16, it keeps the weights and computes in float32.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self._path = path
        self._threads = threads
        self._request: Any = None
        self._inputs: tuple[InputSpec, ...] = ()
        self._version = ""
        self._known: tuple[tuple[int, ...], ...] = ()

    def __enter__(self) -> Self:
        try:
            import openvino
        except ImportError:
            raise RunnerError(
                "openvino is not installed; install it with: pip install openvino"
            ) from None
        self._version = str(openvino.__version__).partition("-")[0]
        settings = {
            "INFERENCE_NUM_THREADS": self._threads,
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
                f"{self._path}: OpenVINO does not load it ({_reason(error)}); export it again, or "
                "use the onnxruntime runner"
            ) from None
        described = [self._describe(tensor) for tensor in model.inputs]
        self._inputs = check_inputs(self._path, described, len(model.outputs))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._request = None

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the model is fed: latents, then labels if there are any."""
        if not self._inputs:
            raise RunnerError("the runner is not open; use it in a with statement")
        return self._inputs

    @property
    def runtime(self) -> str:
        """The version, and the number of threads."""
        threads = "1 thread" if self._threads == 1 else f"{self._threads} threads"
        return f"openvino {self._version} on CPU, {threads}"

    @property
    def batch_range(self) -> tuple[int, int | None]:
        """The smallest and the largest batch; None if any is taken."""
        return batch_range_of(self.inputs)

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        """The images `(batch, ...)`; their memory belongs to the caller."""
        shapes = tuple(array.shape for array in feed)
        if shapes != self._known:  # OpenVINO itself takes them, and returns no image
            if not fits(self.inputs, shapes):
                raise RunnerError(
                    f"{self._path}: OpenVINO failed at {shapes_of(feed)}; the model takes "
                    f"{' and '.join(str(spec.shape) for spec in self.inputs)}"
                )
            self._known = shapes
        named = {spec.name: array for spec, array in zip(self.inputs, feed, strict=True)}
        try:
            found = self._request.infer(named)
        except (RuntimeError, ValueError, TypeError) as error:
            raise RunnerError(
                f"{self._path}: OpenVINO failed at {shapes_of(feed)} ({_reason(error)}); "
                "try a smaller batch, or export the model again"
            ) from None
        images: NDArray[np.generic] = found[0]
        return images

    def _describe(self, tensor: Any) -> InputSpec:
        shape = tuple(
            None if size.is_dynamic else int(size.get_length()) for size in tensor.partial_shape
        )
        return InputSpec(tensor.get_any_name(), np.dtype(tensor.element_type.to_dtype()), shape)


def _reason(error: Exception) -> str:
    """The line that says why: those before it name files of OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (said or lines or [type(error).__name__])[0][:300]
