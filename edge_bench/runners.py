"""Runtimes that can be timed: ONNX Runtime on the CPU, TensorRT on an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
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


class TensorRTRunner:
    """A serialized TensorRT engine (10.3 to 11) on the first NVIDIA GPU.

    Inputs are copied to the device and images back on one stream, which is then synchronized, so
    that nothing is pending when `infer` returns. Buffers are kept per batch size: the images that
    `infer` returns are overwritten by the next call with the same size. An engine with another hash
    than `sha256`, if that is given, is not loaded.
    """

    package = "tensorrt"
    missing = (
        "the tensorrt package is not installed; on a Jetson it comes with JetPack "
        "(apt install python3-libnvinfer, and a virtual environment that sees the system's "
        'packages), elsewhere: pip install "ard-gan[tensorrt]"; '
        "or use the onnxruntime runner"
    )
    name = "tensorrt"
    rebuild = "build it again on this device with build_engine.py of the bundle"

    def __init__(self, engine: Path, sha256: str | None = None) -> None:
        self._path, self._sha256 = engine, sha256
        self._cuda: _Cuda | None = None
        self._stream = 0
        self._engine: Any = None
        self._context: Any = None
        self._keep: list[Any] = []
        self._inputs: tuple[InputSpec, ...] = ()
        self._output = ""
        self._output_dtype: np.dtype[Any] = np.dtype(np.float32)
        self._version = ""
        self._buffers: dict[_Shapes, _Buffers] = {}
        self._bound: _Shapes | None = None

    def __enter__(self) -> Self:
        try:
            trt = importlib.import_module(self.package)
        except ImportError:
            raise RunnerError(self.missing) from None
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
    def inputs(self) -> tuple[InputSpec, ...]:
        if not self._inputs:
            raise RunnerError("the runner is not open; use it in a with statement")
        return self._inputs

    @property
    def runtime(self) -> str:
        return f"{self.name} {self._version} on GPU, transfers included"

    @property
    def batch_range(self) -> tuple[int, int | None]:
        low, high = batch_range_of(self.inputs)
        if high is None:  # each input has a range of its own
            profiles = [self._engine.get_tensor_profile_shape(spec.name, 0) for spec in self.inputs]
            low = max(int(least[0]) for least, _, _ in profiles)
            high = min(int(most[0]) for _, _, most in profiles)
        return low, high

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        cuda = self._open()
        buffers = self._bind(cuda, feed)
        # In a name, so that a copy lives until the stream is done with it.
        sent = [np.ascontiguousarray(array) for array in feed]
        for pointer, array in zip(buffers.inputs, sent, strict=True):
            cuda.copy_to_device(pointer, array, self._stream)
        self._execute(feed)
        cuda.copy_to_host(buffers.host, buffers.images, self._stream)
        cuda.synchronize(self._stream)
        return buffers.host

    def _execute(self, feed: Sequence[NDArray[np.generic]]) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise RunnerError(
                f"{self._path}: TensorRT could not run the engine at {shapes_of(feed)}; "
                "its own message is above"
            )

    def _load(self, trt: Any) -> None:
        cuda = self._open()
        logger = trt.Logger(trt.Logger.ERROR)
        runtime = trt.Runtime(logger)
        content = self._path.read_bytes()
        if self._sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise RunnerError(f"{self._path}: changed since it was checked; start again")
        self._engine = runtime.deserialize_cuda_engine(content)
        # TensorRT keeps bare pointers to both: they must live as long as the engine.
        self._keep = [logger, runtime]
        if self._engine is None:
            raise RunnerError(
                f"{self._path}: {self.name} {self._version} does not load this engine (built for "
                f"another version or GPU?); {self.rebuild}"
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        described = [self._describe(trt, name) for name in inputs]
        self._inputs = check_inputs(self._path, described, len(outputs))
        self._output = outputs[0]
        self._output_dtype = self._numpy_type(trt, outputs[0])
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RunnerError(
                f"{self._path}: no memory for an execution context; stop other programs on the "
                "GPU or build the engine with a smaller workspace"
            )
        self._stream = cuda.create_stream()

    def _describe(self, trt: Any, tensor: str) -> InputSpec:
        sizes = self._engine.get_tensor_shape(tensor)
        shape = tuple(None if size == -1 else int(size) for size in sizes)
        return InputSpec(tensor, self._numpy_type(trt, tensor), shape)

    def _numpy_type(self, trt: Any, tensor: str) -> np.dtype[Any]:
        found = self._engine.get_tensor_dtype(tensor)
        try:
            return np.dtype(trt.nptype(found))
        except TypeError:
            raise RunnerError(
                f"{self._path}: {tensor!r} is {found}, which numpy does not have; "
                "build the engine with float inputs and outputs"
            ) from None

    def _bind(self, cuda: _Cuda, feed: Sequence[NDArray[np.generic]]) -> _Buffers:
        """Set shapes and addresses if they have changed; buffers are allocated on first use."""
        shapes = tuple(array.shape for array in feed)
        if self._bound == shapes:
            return self._buffers[shapes]
        self._bound = None  # the context may take one shape and refuse the next
        for spec, array in zip(self.inputs, feed, strict=True):
            if not self._context.set_input_shape(spec.name, array.shape):
                low, _, high = self._engine.get_tensor_profile_shape(spec.name, 0)
                raise RunnerError(
                    f"{self._path}: the engine takes shapes from {tuple(low)} to {tuple(high)}, "
                    f"asked for {array.shape}; choose another batch size or build the engine for it"
                )
        if shapes not in self._buffers:
            shape = tuple(int(size) for size in self._context.get_tensor_shape(self._output))
            host = np.empty(shape, self._output_dtype)
            inputs = tuple(cuda.allocate(array.nbytes) for array in feed)
            self._buffers[shapes] = _Buffers(inputs, cuda.allocate(host.nbytes), host)
        buffers = self._buffers[shapes]
        for spec, pointer in zip(self.inputs, buffers.inputs, strict=True):
            self._context.set_tensor_address(spec.name, pointer)
        self._context.set_tensor_address(self._output, buffers.images)
        self._bound = shapes
        return buffers

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
                for pointer in (*buffers.inputs, buffers.images):
                    self._cuda.free(pointer)
            if self._stream:
                self._cuda.destroy_stream(self._stream)
        self._buffers, self._bound, self._stream, self._cuda = {}, None, 0, None


# The shape of each input.
_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Buffers:
    inputs: tuple[int, ...]
    images: int
    host: NDArray[np.generic]


class _CudaCall(Protocol):
    """Call a function of the CUDA runtime: its error number, then what it returned."""

    def __call__(self, name: str, *args: int) -> tuple[int, int]: ...


class _Cuda:
    """The few calls of the CUDA runtime that inference needs; pointers are plain integers."""

    HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
    # Of cudaDeviceAttr: the two numbers of the compute capability.
    MAJOR, MINOR = 75, 76

    def __init__(self, call: _CudaCall, describe: Any) -> None:
        self._call = call
        self._describe = describe

    def device_count(self) -> int:
        return self._checked("cudaGetDeviceCount")

    def compute_capability(self) -> str:
        """That of the first GPU, such as 8.6."""
        major, minor = (
            self._checked("cudaDeviceGetAttribute", attribute, 0)
            for attribute in (self.MAJOR, self.MINOR)
        )
        return f"{major}.{minor}"

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
    """The CUDA runtime, through `cuda-python` if it is installed, or else through libcudart.

    Raises:
        RunnerError: there is no runtime library, no driver or no GPU.
    """
    cuda = _cuda_python() or _libcudart()
    try:
        count = cuda.device_count()
    except RunnerError as error:
        raise RunnerError(
            f"no usable NVIDIA driver: {error}; install or update the driver, "
            "or use the onnxruntime runner"
        ) from None
    if count == 0:
        raise RunnerError("no NVIDIA GPU on this machine; use the onnxruntime runner")
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
        elif name == "cudaDeviceGetAttribute":
            attribute, device = args
            result = runtime.cudaDeviceGetAttribute(runtime.cudaDeviceAttr(attribute), device)
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
    "cudaDeviceGetAttribute": ctypes.c_int,
    "cudaStreamCreate": ctypes.c_void_p,
    "cudaMalloc": ctypes.c_void_p,
}
_ARGUMENTS: dict[str, list[Any]] = {
    "cudaGetDeviceCount": [],
    "cudaDeviceGetAttribute": [ctypes.c_int, ctypes.c_int],
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
        "`pip install cuda-python`, or use the onnxruntime runner"
    )
