"""TensorRT on an NVIDIA GPU."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.asked import Covers, RunSettings
from edge_bench.cuda import Cuda, open_cuda
from edge_bench.errors import RunnerError
from edge_bench.inputs import InputSpec, batch_range_of, check_inputs, shapes_of
from edge_bench.runners import LoadedModel


class TensorRTRunner(LoadedModel):
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

    def __init__(
        self, engine: Path, sha256: str | None = None, settings: RunSettings | None = None
    ) -> None:
        super().__init__(engine, settings or RunSettings())
        self._sha256 = sha256
        self._cuda: Cuda | None = None
        self._stream = 0
        self._engine: Any = None
        self._context: Any = None
        self._keep: list[Any] = []
        self._output = ""
        self._output_dtype: np.dtype[Any] = np.dtype(np.float32)
        self._version = ""
        self._buffers: dict[_Shapes, _Buffers] = {}
        self._bound: _Shapes | None = None
        self._timed: TimedEngine | None = None

    @property
    def source(self) -> tuple[Path, str | None]:
        """The file of the engine, and the hash that it must have."""
        return self._path, self._sha256

    @property
    def runtime(self) -> str:
        """The version of TensorRT."""
        return f"{self.name} {self._version} on GPU"

    @property
    def batch_range(self) -> tuple[int, int | None]:
        """The batches that the engine was built for."""
        low, high = batch_range_of(self.inputs)
        if high is None:  # each input has a range of its own
            profiles = [self._engine.get_tensor_profile_shape(spec.name, 0) for spec in self.inputs]
            low = max(int(least[0]) for least, _, _ in profiles)
            high = min(int(most[0]) for _, _, most in profiles)
        return low, high

    @property
    def timed(self) -> TimedEngine:
        """The engine with the transfers and the launch that were asked for."""
        if self._timed is None:
            self._timed = TimedEngine(self, self._settings)
        return self._timed

    def covers(self, batch: int) -> Covers:
        """What was timed at a batch size."""
        return self.timed.covers(batch)

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        """The images of a feed, which the next call of the same batch size overwrites."""
        cuda = self._open()
        buffers = self._bind(cuda, feed)
        sent = self._send(cuda, buffers, feed)
        self._execute(feed)
        cuda.copy_to_host(buffers.host, buffers.images, self._stream)
        cuda.synchronize(self._stream)
        del sent
        return buffers.host

    def _start(self) -> tuple[Sequence[InputSpec], int]:
        try:
            trt = importlib.import_module(self.package)
        except ImportError:
            raise RunnerError(self.missing) from None
        self._version = str(trt.__version__)
        self._cuda = open_cuda()
        return self._load(trt)

    def _send(
        self, cuda: Cuda, buffers: _Buffers, feed: Sequence[NDArray[np.generic]]
    ) -> list[NDArray[np.generic]]:
        """Copy the inputs; what is returned must live until the stream is done with it."""
        sent = [np.ascontiguousarray(array) for array in feed]
        for pointer, array in zip(buffers.inputs, sent, strict=True):
            cuda.copy_to_device(pointer, array, self._stream)
        return sent

    def _execute(self, feed: Sequence[NDArray[np.generic]]) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise RunnerError(
                f"{self._path}: TensorRT could not run the engine at {shapes_of(feed)}; "
                "its own message is above"
            )

    def _load(self, trt: Any) -> tuple[Sequence[InputSpec], int]:
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
        check_inputs(self._path, described, len(outputs))
        self._output = outputs[0]
        self._output_dtype = self._numpy_type(trt, outputs[0])
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RunnerError(
                f"{self._path}: no memory for an execution context; stop other programs on the "
                "GPU or build the engine with a smaller workspace"
            )
        self._stream = cuda.create_stream()
        return described, len(outputs)

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

    def _bind(self, cuda: Cuda, feed: Sequence[NDArray[np.generic]]) -> _Buffers:
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

    def _open(self) -> Cuda:
        if self._cuda is None:
            raise RunnerError("the runner is not open; use it in a with statement")
        return self._cuda

    def _stop(self) -> None:
        """Free in the order that TensorRT asks for: context, engine, then its runtime."""
        if self._timed is not None:
            self._timed.close()
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
        self._timed = None


class TimedEngine:
    """What is timed of an engine: a run with the transfers that were asked for, and no others.

    The GPU keeps the time too, between two events on the stream: one before the first copy, one
    after the last. The first call with some shapes is a whole one: it fills the buffers, and lets
    TensorRT prepare itself, which it does not do while a graph is captured. A graph holds the
    kernels only. It belongs to the shapes that the context has, and is captured anew when they
    change. If TensorRT launches something that a graph cannot hold, the kernels are launched one by
    one, and `covers` says why.
    """

    def __init__(self, runner: TensorRTRunner, settings: RunSettings) -> None:
        self._runner, self._settings = runner, settings
        self._cuda = runner._open()
        self._start, self._end = self._cuda.create_event(), self._cuda.create_event()
        self._ready: _Shapes | None = None
        self._graph: int | None = None
        self._refused: dict[int, str] = {}

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        """Run the engine; without the transfer of the images, they are those of the first call."""
        runner, cuda, stream = self._runner, self._cuda, self._runner._stream
        shapes = tuple(array.shape for array in feed)
        if shapes != self._ready:
            self._prepare(feed)
            self._ready = shapes
        buffers = runner._bind(cuda, feed)
        sent: list[NDArray[np.generic]] = []
        cuda.record(self._start, stream)
        if self._settings.sends_inputs:
            sent = runner._send(cuda, buffers, feed)
        if self._graph is None:
            runner._execute(feed)
        else:
            cuda.launch(self._graph, stream)
        if self._settings.fetches_images:
            cuda.copy_to_host(buffers.host, buffers.images, stream)
        cuda.record(self._end, stream)
        cuda.synchronize(stream)
        del sent
        return buffers.host

    def device_ns(self) -> int:
        """Nanoseconds between the two events of the last call."""
        return self._cuda.elapsed_ns(self._start, self._end)

    def covers(self, batch: int) -> Covers:
        """What was timed at a batch size."""
        return self._settings.covers(self._refused.get(batch))

    def close(self) -> None:
        """Free the events and the graph."""
        self._forget_graph()
        self._cuda.destroy_event(self._start)
        self._cuda.destroy_event(self._end)

    def _prepare(self, feed: Sequence[NDArray[np.generic]]) -> None:
        self._forget_graph()
        self._runner.infer(*feed)
        if not self._settings.cuda_graph:
            return
        stream = self._runner._stream
        self._cuda.begin_capture(stream)
        failed = None
        try:
            self._runner._execute(feed)
        except RunnerError as error:
            failed = error
        try:
            graph = self._cuda.end_capture(stream)
        except RunnerError as error:
            failed = failed or error
        else:
            self._graph = graph
        if failed is not None:
            self._forget_graph()
            self._refused[len(feed[0])] = f"it cannot be captured ({failed})"
            # TensorRT may have been stopped halfway.
            self._runner.infer(*feed)

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
            self._graph = None


# The shape of each input.
_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Buffers:
    inputs: tuple[int, ...]
    images: int
    host: NDArray[np.generic]
