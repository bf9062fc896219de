"""What a runtime that can be timed is, and ONNX Runtime on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import RunnerError
from edge_bench.inputs import InputSpec, batch_range_of, check_inputs, shapes_of

if TYPE_CHECKING:
    # Python 3.10, whose TensorRT binding JetPack 6 ships, does not have it.
    from typing import Self

# ONNX Runtime's names of the types that latents and labels can have.
ONNX_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class Runner(AbstractContextManager["Runner"], Protocol):
    """A loaded model, as a context manager that owns the runtime's memory.

    `infer` takes one array `(batch, ...)` per entry of `inputs`: the latents, then the labels if
    there are any. It returns when the images are in host memory, so transfers to and from a device
    are part of the call. `batch_range` is the smallest and the largest batch, None if any is taken.
    """

    @property
    def inputs(self) -> tuple[InputSpec, ...]: ...

    @property
    def runtime(self) -> str: ...

    @property
    def batch_range(self) -> tuple[int, int | None]: ...

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]: ...


class OnnxRuntimeRunner:
    """ONNX Runtime on the CPU with a fixed number of threads.

    `session` is an `onnxruntime.InferenceSession` to use instead of loading `path`.
    """

    def __init__(self, path: Path, threads: int = 1, session: Any = None) -> None:
        self._path = path
        self._threads = threads
        self._session = session
        self._inputs: tuple[InputSpec, ...] = ()
        self._output = ""
        self._version = ""
        self._errors: tuple[type[Exception], ...] = ()

    def __enter__(self) -> Self:
        try:
            import onnxruntime
        except ImportError:
            raise RunnerError(
                "onnxruntime is not installed; install it with: pip install onnxruntime"
            ) from None
        self._version = str(onnxruntime.__version__)
        self._errors = onnxruntime_errors()
        if self._session is None:
            self._session = self._load(onnxruntime)
        outputs = self._session.get_outputs()
        inputs = [self._describe(tensor) for tensor in self._session.get_inputs()]
        self._inputs = check_inputs(self._path, inputs, len(outputs))
        self._output = outputs[0].name
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = None

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        if not self._inputs:
            raise RunnerError("the runner is not open; use it in a with statement")
        return self._inputs

    @property
    def runtime(self) -> str:
        threads = "1 thread" if self._threads == 1 else f"{self._threads} threads"
        return f"onnxruntime {self._version} on CPU, {threads}"

    @property
    def batch_range(self) -> tuple[int, int | None]:
        return batch_range_of(self.inputs)

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        images: NDArray[np.generic]
        named = {spec.name: array for spec, array in zip(self.inputs, feed, strict=True)}
        try:
            (images,) = self._session.run([self._output], named)
        except self._errors as error:
            raise RunnerError(
                f"{self._path}: ONNX Runtime failed at {shapes_of(feed)} "
                f"({_first_line(error)}); try a smaller batch, or export the model again"
            ) from None
        return images

    def _describe(self, tensor: Any) -> InputSpec:
        if tensor.type not in ONNX_TYPES:
            raise RunnerError(
                f"{self._path}: input {tensor.name!r} is {tensor.type}; "
                f"one of {', '.join(ONNX_TYPES)} is expected"
            )
        shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
        return InputSpec(tensor.name, np.dtype(ONNX_TYPES[tensor.type]), shape)

    def _load(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Several sessions take turns: threads of the one that just ran must not spin on a core
        # that the next one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self._configure(options)
        try:
            return onnxruntime.InferenceSession(
                str(self._path), sess_options=options, providers=self._providers()
            )
        except self._errors as error:
            raise RunnerError(
                f"{self._path}: ONNX Runtime does not load it ({_first_line(error)}); "
                "export it again, or install an onnxruntime that knows its opset"
            ) from None

    def _providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def _configure(self, options: Any) -> None:
        """Settings of the session that a provider needs; the CPU needs none."""


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """The exceptions that a session raises on a model it refuses; they share no base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile",
             "NotImplemented", "RuntimeException")  # fmt: skip
    return tuple(getattr(state, name) for name in names if hasattr(state, name))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
