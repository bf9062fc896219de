"""Runtimes that can be timed: ONNX Runtime on the CPU, TensorRT on an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_bench.bundle import Bundle
from edge_bench.errors import RunnerError

if TYPE_CHECKING:
    # Python 3.10, whose TensorRT binding JetPack 6 ships, does not have it.
    from typing import Self

RUNNERS = ("auto", "onnxruntime", "tensorrt")

# What ONNX Runtime calls the types that a generator's latents can have.
ONNX_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


@dataclass(frozen=True)
class InputSpec:
    """The one input of a model: `shape` begins with the batch, `None` where any size goes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def latents(self, batch: int, rng: np.random.Generator) -> NDArray[np.generic]:
        """`batch` standard normal latents of this shape.

        Raises:
            RunnerError: the model was made for another batch size, or leaves a latent size open.
        """
        fixed, *rest = self.shape
        if fixed is not None and fixed != batch:
            raise RunnerError(
                f"input {self.name!r} has a fixed batch of {fixed}, asked for {batch}; "
                f"use --batch {fixed} or export with a dynamic batch"
            )
        sizes = [size for size in rest if size is not None]
        if not rest or len(sizes) != len(rest):
            raise RunnerError(
                f"input {self.name!r} has shape {self.shape}; a batch and a fixed latent size, "
                "as in (None, 128), are expected"
            )
        return rng.standard_normal((batch, *sizes), dtype=np.float32).astype(self.dtype)


class Runner(AbstractContextManager["Runner"], Protocol):
    """A loaded model: a context manager that owns the runtime's memory.

    `infer` takes latents `(batch, ...)` of the type and shape of `input`, and returns when the
    images are in host memory: transfers to and from a device are part of the call.
    """

    @property
    def input(self) -> InputSpec: ...

    @property
    def runtime(self) -> str: ...

    def infer(self, latents: NDArray[np.generic]) -> NDArray[np.generic]: ...


def open_runners(bundles: Sequence[Bundle], name: str, threads: int) -> list[Runner]:
    """One runner for each bundle, not entered yet, all of the same runtime.

    `auto` is TensorRT where every bundle has an engine and the `tensorrt` package is there, else
    ONNX Runtime: a ratio between two runtimes would say nothing about the models.

    Raises:
        RunnerError: the name is not known, or a bundle lacks what the runtime runs.
    """
    if name not in RUNNERS:
        raise RunnerError(f"runner {name!r} is not known; choose one of {', '.join(RUNNERS)}")
    if name == "auto":
        engines = all(bundle.engine for bundle in bundles)
        only_engines = any(bundle.model is None for bundle in bundles)
        tensorrt = engines and (only_engines or importlib.util.find_spec("tensorrt") is not None)
        name = "tensorrt" if tensorrt else "onnxruntime"
    runners: list[Runner] = []
    for bundle in bundles:
        if name == "tensorrt":
            if bundle.engine is None:
                raise RunnerError(
                    f"{bundle.path}: no TensorRT engine; build it on this device with "
                    "build_engine.py of the bundle, or take --runner onnxruntime"
                )
            runners.append(TensorRTRunner(bundle.engine))
        else:
            if bundle.model is None:
                raise RunnerError(f"{bundle.path}: ONNX Runtime needs model.onnx, not an engine")
            runners.append(OnnxRuntimeRunner(bundle.model, threads))
    return runners


class OnnxRuntimeRunner:
    """ONNX Runtime on the CPU with a fixed number of threads.

    `session` is an `onnxruntime.InferenceSession` to use instead of loading `path`.
    """

    def __init__(self, path: Path, threads: int = 1, session: Any = None) -> None:
        self._path = path
        self._threads = threads
        self._session = session
        self._input: InputSpec | None = None
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
        self._errors = _onnxruntime_errors()
        if self._session is None:
            self._session = self._load(onnxruntime)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise RunnerError(
                f"{self._path}: one input (latents) and one output (images) are expected, "
                f"found {len(inputs)} and {len(outputs)}"
            )
        if inputs[0].type not in ONNX_TYPES:
            raise RunnerError(
                f"{self._path}: input {inputs[0].name!r} is {inputs[0].type}; "
                f"one of {', '.join(ONNX_TYPES)} is expected"
            )
        shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
        dtype = np.dtype(ONNX_TYPES[inputs[0].type])
        self._input = InputSpec(inputs[0].name, dtype, shape)
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
    def input(self) -> InputSpec:
        if self._input is None:
            raise RunnerError("the runner is not open; use it in a with statement")
        return self._input

    @property
    def runtime(self) -> str:
        threads = "1 thread" if self._threads == 1 else f"{self._threads} threads"
        return f"onnxruntime {self._version} on CPU, {threads}"

    def infer(self, latents: NDArray[np.generic]) -> NDArray[np.generic]:
        images: NDArray[np.generic]
        try:
            (images,) = self._session.run([self._output], {self.input.name: latents})
        except self._errors as error:
            raise RunnerError(
                f"{self._path}: ONNX Runtime failed at {latents.shape} "
                f"({_first_line(error)}); try a smaller --batch, or export the model again"
            ) from None
        return images

    def _load(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Several sessions take turns: threads of the one that just ran must not spin on a core
        # that the next one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                str(self._path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            raise RunnerError(
                f"{self._path}: ONNX Runtime does not load it ({_first_line(error)}); "
                "export it again, or install an onnxruntime that knows its opset"
            ) from None


def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    """The exceptions a session raises on a model it cannot take; they share no base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile",
             "NotImplemented", "RuntimeException")  # fmt: skip
    return tuple(getattr(state, name) for name in names if hasattr(state, name))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


class TensorRTRunner:
    """A serialized TensorRT engine (10.3 to 11) on the first NVIDIA GPU.

    Latents are copied to the device and images back on one stream, which is then synchronized, so
    that nothing is still under way when `infer` returns. Buffers are kept for each batch size: the
    images that `infer` returns are overwritten by the next call with that size.
    """

    def __init__(self, engine: Path) -> None:
        self._path = engine
        self._cuda: _Cuda | None = None
        self._stream = 0
        self._engine: Any = None
        self._context: Any = None
        self._keep: list[Any] = []
        self._input: InputSpec | None = None
        self._output = ""
        self._output_dtype: np.dtype[Any] = np.dtype(np.float32)
        self._version = ""
        self._buffers: dict[tuple[int, ...], _Buffers] = {}
        self._bound: tuple[int, ...] | None = None

    def __enter__(self) -> Self:
        try:
            import tensorrt as trt
        except ImportError:
            raise RunnerError(
                "the tensorrt package is not installed; on a Jetson it comes with JetPack "
                "(apt install python3-libnvinfer, and a virtual environment made with "
                '--system-site-packages), elsewhere: pip install "ard-gan[tensorrt]"; '
                "or take --runner onnxruntime"
            ) from None
        self._version = str(trt.__version__)
        self._cuda = open_cuda()
        try:
            self._load(trt)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    @property
    def input(self) -> InputSpec:
        if self._input is None:
            raise RunnerError("the runner is not open; use it in a with statement")
        return self._input

    @property
    def runtime(self) -> str:
        return f"tensorrt {self._version} on GPU, transfers included"

    def infer(self, latents: NDArray[np.generic]) -> NDArray[np.generic]:
        cuda = self._open()
        if self._bound != latents.shape:
            self._bind(cuda, latents)
        buffers = self._buffers[latents.shape]
        latents = np.ascontiguousarray(latents)
        cuda.copy_to_device(buffers.latents, latents, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise RunnerError(
                f"{self._path}: TensorRT could not run the engine at {latents.shape}; "
                "its own message is above"
            )
        cuda.copy_to_host(buffers.host, buffers.images, self._stream)
        cuda.synchronize(self._stream)
        return buffers.host

    def _load(self, trt: Any) -> None:
        cuda = self._open()
        logger = trt.Logger(trt.Logger.ERROR)
        runtime = trt.Runtime(logger)
        self._engine = runtime.deserialize_cuda_engine(self._path.read_bytes())
        # TensorRT keeps bare pointers to both: they must live as long as the engine.
        self._keep = [logger, runtime]
        if self._engine is None:
            raise RunnerError(
                f"{self._path}: TensorRT {self._version} does not load this engine (built for "
                "another TensorRT version or GPU?); build it again on this device with "
                "build_engine.py of the bundle"
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1:
            raise RunnerError(
                f"{self._path}: one input (latents) and one output (images) are expected, "
                f"found {len(inputs)} and {len(outputs)}"
            )
        shape = tuple(
            None if size == -1 else int(size) for size in self._engine.get_tensor_shape(inputs[0])
        )
        dtype = self._numpy_type(trt, inputs[0])
        self._input = InputSpec(inputs[0], dtype, shape)
        self._output = outputs[0]
        self._output_dtype = self._numpy_type(trt, outputs[0])
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RunnerError(
                f"{self._path}: no memory for an execution context; stop other programs on the "
                "GPU or build the engine with a smaller workspace"
            )
        self._stream = cuda.create_stream()

    def _numpy_type(self, trt: Any, tensor: str) -> np.dtype[Any]:
        found = self._engine.get_tensor_dtype(tensor)
        try:
            return np.dtype(trt.nptype(found))
        except TypeError:
            raise RunnerError(
                f"{self._path}: {tensor!r} is {found}, which numpy does not have; "
                "build the engine with float inputs and outputs"
            ) from None

    def _bind(self, cuda: _Cuda, latents: NDArray[np.generic]) -> None:
        """Set the shape and the addresses, with buffers made on a shape's first use."""
        name = self.input.name
        if not self._context.set_input_shape(name, latents.shape):
            low, _, high = self._engine.get_tensor_profile_shape(name, 0)
            raise RunnerError(
                f"{self._path}: the engine takes shapes from {tuple(low)} to {tuple(high)}, asked "
                f"for {latents.shape}; choose another --batch or build the engine for it"
            )
        if latents.shape not in self._buffers:
            shape = tuple(int(size) for size in self._context.get_tensor_shape(self._output))
            host = np.empty(shape, self._output_dtype)
            on_device = cuda.allocate(latents.nbytes)
            self._buffers[latents.shape] = _Buffers(on_device, cuda.allocate(host.nbytes), host)
        buffers = self._buffers[latents.shape]
        self._context.set_tensor_address(name, buffers.latents)
        self._context.set_tensor_address(self._output, buffers.images)
        self._bound = latents.shape

    def _open(self) -> _Cuda:
        if self._cuda is None:
            raise RunnerError("the runner is not open; use it in a with statement")
        return self._cuda

    def _close(self) -> None:
        """Free in the order that TensorRT asks for: context, engine, then its runtime."""
        self._context = None
        self._engine = None
        self._keep = []
        if self._cuda is not None:
            for buffers in self._buffers.values():
                self._cuda.free(buffers.latents)
                self._cuda.free(buffers.images)
            if self._stream:
                self._cuda.destroy_stream(self._stream)
        self._buffers, self._bound, self._stream, self._cuda = {}, None, 0, None


@dataclass(frozen=True)
class _Buffers:
    latents: int
    images: int
    host: NDArray[np.generic]


class _CudaCall(Protocol):
    """Call a function of the CUDA runtime: its error number, then what it returned."""

    def __call__(self, name: str, *args: int) -> tuple[int, int]: ...


class _Cuda:
    """The few calls of the CUDA runtime that inference needs; pointers are plain integers."""

    HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2

    def __init__(self, call: _CudaCall, describe: Any) -> None:
        self._call = call
        self._describe = describe

    def device_count(self) -> int:
        return self._checked("cudaGetDeviceCount")

    def create_stream(self) -> int:
        return self._checked("cudaStreamCreate")

    def destroy_stream(self, stream: int) -> None:
        self._checked("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._checked("cudaStreamSynchronize", stream)

    def allocate(self, size: int) -> int:
        return self._checked("cudaMalloc", size)

    def free(self, pointer: int) -> None:
        self._checked("cudaFree", pointer)

    def copy_to_device(self, pointer: int, array: NDArray[np.generic], stream: int) -> None:
        self._checked(
            "cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, self.HOST_TO_DEVICE, stream
        )

    def copy_to_host(self, array: NDArray[np.generic], pointer: int, stream: int) -> None:
        self._checked(
            "cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, self.DEVICE_TO_HOST, stream
        )

    def _checked(self, name: str, *args: int) -> int:
        error, value = self._call(name, *args)
        if error:
            raise RunnerError(f"{name} failed: {self._describe(error)} (CUDA error {error})")
        return value


def open_cuda() -> _Cuda:
    """The CUDA runtime, through `cuda-python` where it is installed, else through libcudart.

    Raises:
        RunnerError: there is no runtime library, no driver or no GPU.
    """
    cuda = _cuda_python() or _libcudart()
    try:
        count = cuda.device_count()
    except RunnerError as error:
        raise RunnerError(
            f"no usable NVIDIA driver: {error}; install or update the driver, "
            "or take --runner onnxruntime"
        ) from None
    if count == 0:
        raise RunnerError("no NVIDIA GPU on this machine; take --runner onnxruntime")
    return cuda


def _cuda_python() -> _Cuda | None:
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return None

    def call(name: str, *args: int) -> tuple[int, int]:
        if name == "cudaMemcpyAsync":
            to, source, size, kind, stream = args
            result = runtime.cudaMemcpyAsync(to, source, size, runtime.cudaMemcpyKind(kind), stream)
        else:
            result = getattr(runtime, name)(*args)
        error, *values = result
        return int(error), int(values[0]) if values and values[0] is not None else 0

    def describe(error: int) -> str:
        _, text = runtime.cudaGetErrorString(runtime.cudaError_t(error))
        return str(text.decode())

    return _Cuda(call, describe)


# Functions that hand a value back through their first argument, and the type of that value.
_OUT: dict[str, Any] = {
    "cudaGetDeviceCount": ctypes.c_int,
    "cudaStreamCreate": ctypes.c_void_p,
    "cudaMalloc": ctypes.c_void_p,
}
_ARGUMENTS: dict[str, list[Any]] = {
    "cudaGetDeviceCount": [],
    "cudaStreamCreate": [],
    "cudaMalloc": [ctypes.c_size_t],
    "cudaFree": [ctypes.c_void_p],
    "cudaStreamDestroy": [ctypes.c_void_p],
    "cudaStreamSynchronize": [ctypes.c_void_p],
    "cudaMemcpyAsync": [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p,
    ],
}  # fmt: skip


def _libcudart() -> _Cuda:
    library = _load_library(
        ctypes.util.find_library("cudart"),
        "libcudart.so.13",
        "libcudart.so.12",
        "libcudart.so",
        "/usr/local/cuda/lib64/libcudart.so",
    )
    library.cudaGetErrorString.argtypes = [ctypes.c_int]
    library.cudaGetErrorString.restype = ctypes.c_char_p

    def call(name: str, *args: int) -> tuple[int, int]:
        function = getattr(library, name)
        function.restype = ctypes.c_int
        if name not in _OUT:
            function.argtypes = _ARGUMENTS[name]
            return function(*args), 0
        value = _OUT[name]()
        function.argtypes = [ctypes.POINTER(_OUT[name]), *_ARGUMENTS[name]]
        return function(ctypes.byref(value), *args), value.value or 0

    def describe(error: int) -> str:
        text: bytes = library.cudaGetErrorString(error)
        return text.decode()

    return _Cuda(call, describe)


def _load_library(*names: str | None) -> ctypes.CDLL:
    for name in names:
        if name is None:
            continue
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RunnerError(
        "the CUDA runtime library (libcudart) is not found; install CUDA or "
        "`pip install cuda-python`, or take --runner onnxruntime"
    )
