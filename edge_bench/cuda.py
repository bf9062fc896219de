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

    def __call__(self, name: str, *args: int) -> tuple[int, int]: ...


class Cuda:
    """The few calls of the CUDA runtime that inference needs; pointers are plain integers."""

    HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
    # Of cudaDeviceAttr: the two numbers of the compute capability.
    MAJOR, MINOR = 75, 76

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

    def _checked(self, name: str, *args: int) -> int:
        error, value = self._call(name, *args)
        if error:
            raise RunnerError(f"{name} failed: {self._describe(error)} (CUDA error {error})")
        return value


def open_cuda() -> Cuda:
    """The CUDA runtime, through `cuda-python` if it is installed, or else through libcudart.

    Raises:
        RunnerError: there is no runtime library, no driver or no GPU.
    """
    cuda = cuda_python() or _libcudart()
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

    return Cuda(call, describe)


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


def _libcudart() -> Cuda:
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
