"""What a runtime that can be timed is, and ONNX Runtime on the CPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_bench.asked import Covers, RunSettings, in_host_memory
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


class Infer(Protocol):
    """A call that takes a feed and returns once the images are complete."""

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]: ...


class Runner(Infer, AbstractContextManager["Runner"], Protocol):
    """A loaded model, as a context manager that owns the runtime's memory.

    `infer` takes one array `(batch, ...)` per entry of `inputs`: the latents, then the labels if
    there are any. It returns when the images are in host memory. `timed` is what is timed of it,
    which leaves out transfers that were not asked for; its images may be those of an earlier call.
    `covers` says what that was at a batch size. `batch_range` is the smallest and the largest
    batch, None if any is taken.
    """

    @property
    def inputs(self) -> tuple[InputSpec, ...]: ...

    @property
    def runtime(self) -> str: ...

    @property
    def batch_range(self) -> tuple[int, int | None]: ...

    @property
    def timed(self) -> Infer: ...

    def covers(self, batch: int) -> Covers: ...


class LoadedModel(ABC):
    """What every runner is: a file that is loaded, described, and freed again.

    A runner adds `_start`, which loads the model and returns its inputs and the number of its
    outputs, `_stop`, which frees whatever was loaded, `runtime` and `infer`.
    """

    def __init__(self, path: Path, settings: RunSettings) -> None:
        self._path = path
        self._settings = settings
        self._inputs: tuple[InputSpec, ...] = ()

    def __enter__(self) -> Self:
        try:
            described, outputs = self._start()
            self._inputs = check_inputs(self._path, described, outputs)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the model is fed: latents, then labels if there are any."""
        if not self._inputs:
            raise RunnerError("the runner is not open; use it in a with statement")
        return self._inputs

    @property
    def batch_range(self) -> tuple[int, int | None]:
        """The smallest and the largest batch; None if any is taken."""
        return batch_range_of(self.inputs)

    @property
    def timed(self) -> Infer:
        """What is timed: the runner itself, unless it can leave transfers out."""
        return self

    def covers(self, batch: int) -> Covers:
        """What a time covers at a batch size; here, a model that runs on the CPU."""
        return in_host_memory(self._settings)

    @property
    @abstractmethod
    def runtime(self) -> str:
        """The version, and what it runs on."""

    @abstractmethod
    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        """The images `(batch, ...)` of a feed, in host memory."""

    @abstractmethod
    def _start(self) -> tuple[Sequence[InputSpec], int]: ...

    @abstractmethod
    def _stop(self) -> None: ...


class GraphRunner(LoadedModel):
    """A runner whose library reads a file of the bundle, and raises errors of its own.

    A runner adds `title`, the library's name, `_run`, which takes the inputs by name, `_reason`,
    which says why in a line, and the types of these errors in `_errors`.
    """

    title = ""

    def __init__(self, path: Path, settings: RunSettings | None = None) -> None:
        super().__init__(path, settings or RunSettings())
        self._errors: tuple[type[Exception], ...] = ()
        self._version = ""

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        """The images `(batch, ...)` of a feed; their memory belongs to the caller."""
        try:
            return self._run(self._named(feed))
        except self._errors as error:
            raise self._failed(feed, error) from None

    def _on_cpu(self, name: str) -> str:
        """A library on the CPU in words, for `runtime`."""
        threads = self._settings.threads
        words = "1 thread" if threads == 1 else f"{threads} threads"
        return f"{name} {self._version} on CPU, {words}"

    def _reason(self, error: Exception) -> str:
        return first_line(error)

    def _named(self, feed: Sequence[NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        return {spec.name: array for spec, array in zip(self.inputs, feed, strict=True)}

    def _failed(self, feed: Sequence[NDArray[np.generic]], error: Exception) -> RunnerError:
        return RunnerError(
            f"{self._path}: {self.title} failed at {shapes_of(feed)} "
            f"({self._reason(error)}); try a smaller batch, or export the model again"
        )

    @abstractmethod
    def _run(self, named: Mapping[str, NDArray[np.generic]]) -> NDArray[np.generic]: ...


class OnnxRuntimeRunner(GraphRunner):
    """ONNX Runtime on the CPU with a fixed number of threads.

    `session` is an `onnxruntime.InferenceSession` to use instead of loading `path`.
    """

    title = "ONNX Runtime"

    def __init__(
        self, path: Path, settings: RunSettings | None = None, session: Any = None
    ) -> None:
        super().__init__(path, settings)
        self._session = session
        self._output = ""

    @property
    def runtime(self) -> str:
        """The version, and the number of threads."""
        return self._on_cpu("onnxruntime")

    def _start(self) -> tuple[Sequence[InputSpec], int]:
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
        self._output = outputs[0].name if outputs else ""
        return [self._describe(tensor) for tensor in self._session.get_inputs()], len(outputs)

    def _stop(self) -> None:
        self._session = None

    def _run(self, named: Mapping[str, NDArray[np.generic]]) -> NDArray[np.generic]:
        images: NDArray[np.generic]
        (images,) = self._session.run([self._output], dict(named))
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
        try:
            return onnxruntime.InferenceSession(
                str(self._path),
                sess_options=self._options(onnxruntime),
                providers=self._providers(),
            )
        except self._errors as error:
            raise RunnerError(
                f"{self._path}: ONNX Runtime does not load it ({first_line(error)}); "
                "export it again, or install an onnxruntime that knows its opset"
            ) from None

    def _options(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._settings.threads
        options.inter_op_num_threads = 1
        # Several sessions take turns: threads of the one that just ran must not spin on a core
        # that the next one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self._configure(options)
        return options

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


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().split("\n")[0]
