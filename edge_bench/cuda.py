"""The few calls of the CUDA runtime that running an engine needs, without a package of NVIDIA's."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import RunnerError


class CudaCall(Protocol):
    """Call a function of the CUDA runtime: its error number, then what it returned."""

    def __call__(self, name: str, *args: int) -> tuple[int, int | float]: ...


class Cuda:
    """The few calls of the CUDA runtime that inference needs; pointers are plain integers."""

    HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
    # Of cudaDeviceAttr: the two numbers of the compute capability.
    MAJOR, MINOR = 75, 76
    # Of cudaStreamCaptureMode: what other threads do, such as those of a profiler, is no error.
    THREAD_LOCAL = 1

    def __init__(self, call: CudaCall, describe: Any) -> None:
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

    def create_event(self) -> int:
        return self._checked("cudaEventCreate")

    def destroy_event(self, event: int) -> None:
        self._checked("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Note the time at which the stream has done what was asked of it so far."""
        self._checked("cudaEventRecord", event, stream)

    def elapsed_ns(self, start: int, end: int) -> int:
        """Nanoseconds between two events that have happened, 1 or more; the clock has 0.5 us."""
        return max(1, round(self._value("cudaEventElapsedTime", start, end) * 1e6))

    def begin_capture(self, stream: int) -> None:
        """From now on, what is asked of the stream is written into a graph and not done."""
        self._checked("cudaStreamBeginCapture", stream, self.THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """The graph, ready to be launched.

        Raises:
            RunnerError: Something that was asked of the stream cannot be part of a graph. The
                stream works as before.
        """
        try:
            graph = self._checked("cudaStreamEndCapture", stream)
        except RunnerError:
            self._call("cudaGetLastError")  # or a later call would report it again
            raise
        try:
            return self._checked("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._checked("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._checked("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._checked("cudaGraphExecDestroy", graph)

    def _checked(self, name: str, *args: int) -> int:
        return int(self._value(name, *args))

    def _value(self, name: str, *args: int) -> int | float:
        error, value = self._call(name, *args)
        if error:
            raise RunnerError(f"{name} failed: {self._describe(error)} (CUDA error {error})")
        return value


def open_cuda() -> Cuda:
    """The CUDA runtime, through `cuda-python` if it is installed, or else through libcudart.

    Raises:
        RunnerError: there is no runtime library, no driver or no GPU.
    """
    cuda = cuda_python() or libcudart()
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


def cuda_python() -> Cuda | None:
    """The CUDA runtime by the package `cuda-python`; None if that is not installed."""
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return None

    def call(name: str, *args: int) -> tuple[int, int | float]:
        given: list[Any] = list(args)
        if name in _ENUMS:
            place, kind = _ENUMS[name]
            given[place] = getattr(runtime, kind)(given[place])
        error, *values = getattr(runtime, name)(*given)
        value = values[0] if values else None
        if isinstance(value, float):
            return int(error), value
        return int(error), 0 if value is None else int(value)

    def describe(error: int) -> str:
        _, text = runtime.cudaGetErrorString(runtime.cudaError_t(error))
        return str(text.decode())

    return Cuda(call, describe)


# Arguments that cuda-python takes as an enum: their place, and its name.
_ENUMS: dict[str, tuple[int, str]] = {
    "cudaMemcpyAsync": (3, "cudaMemcpyKind"),
    "cudaDeviceGetAttribute": (0, "cudaDeviceAttr"),
    "cudaStreamBeginCapture": (1, "cudaStreamCaptureMode"),
}
# Functions that hand a value back through an argument, and the type of that value. It is the first
# argument, but for those in _OUT_LAST.
_OUT: dict[str, Any] = {
    "cudaGetDeviceCount": ctypes.c_int,
    "cudaDeviceGetAttribute": ctypes.c_int,
    "cudaStreamCreate": ctypes.c_void_p,
    "cudaMalloc": ctypes.c_void_p,
    "cudaEventCreate": ctypes.c_void_p,
    "cudaEventElapsedTime": ctypes.c_float,
    "cudaStreamEndCapture": ctypes.c_void_p,
    "cudaGraphInstantiateWithFlags": ctypes.c_void_p,
}
_OUT_LAST = frozenset({"cudaStreamEndCapture"})
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
    "cudaEventCreate": [],
    "cudaEventRecord": [ctypes.c_void_p, ctypes.c_void_p],
    "cudaEventElapsedTime": [ctypes.c_void_p, ctypes.c_void_p],
    "cudaEventDestroy": [ctypes.c_void_p],
    "cudaStreamBeginCapture": [ctypes.c_void_p, ctypes.c_int],
    "cudaStreamEndCapture": [ctypes.c_void_p],
    "cudaGraphInstantiateWithFlags": [ctypes.c_void_p, ctypes.c_ulonglong],
    "cudaGraphLaunch": [ctypes.c_void_p, ctypes.c_void_p],
    "cudaGraphExecDestroy": [ctypes.c_void_p],
    "cudaGraphDestroy": [ctypes.c_void_p],
    "cudaGetLastError": [],
}  # fmt: skip


def libcudart() -> Cuda:
    """The CUDA runtime by its library alone.

    Raises:
        RunnerError: It is not found.
    """
    library = _load_library(
        ctypes.util.find_library("cudart"),
        "libcudart.so.13",
        "libcudart.so.12",
        "libcudart.so",
        "/usr/local/cuda/lib64/libcudart.so",
    )
    library.cudaGetErrorString.argtypes = [ctypes.c_int]
    library.cudaGetErrorString.restype = ctypes.c_char_p

    def call(name: str, *args: int) -> tuple[int, int | float]:
        function = getattr(library, name)
        function.restype = ctypes.c_int
        if name not in _OUT:
            function.argtypes = _ARGUMENTS[name]
            return function(*args), 0
        value = _OUT[name]()
        types, given = [ctypes.POINTER(_OUT[name])], [ctypes.byref(value)]
        if name in _OUT_LAST:
            function.argtypes = [*_ARGUMENTS[name], *types]
            return function(*args, *given), value.value or 0
        function.argtypes = [*types, *_ARGUMENTS[name]]
        return function(*given, *args), value.value or 0

    def describe(error: int) -> str:
        text: bytes = library.cudaGetErrorString(error)
        return text.decode()

    return Cuda(call, describe)


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
