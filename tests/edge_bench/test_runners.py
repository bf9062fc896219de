from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from edge_bench.asked import Covers, RunSettings
from edge_bench.bundle import load_bundle
from edge_bench.cuda import _ARGUMENTS, Cuda, cuda_python, libcudart, open_cuda
from edge_bench.device import ask_nvidia_smi
from edge_bench.errors import RunnerError
from edge_bench.inputs import InputSpec, draw_feed
from edge_bench.registry import open_runners
from edge_bench.rows import row_of
from edge_bench.runners import OnnxRuntimeRunner
from edge_bench.tensorrt_runner import TensorRTRunner
from edge_bench.timing import TimingPlan, measure

ONNX_RUNTIME = OnnxRuntimeRunner


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_computes_the_images(make_model, batch):
    with ONNX_RUNTIME(make_model(final="Identity")) as runner:
        images = runner.infer(np.ones((batch, 4), np.float32))
    # relu(1 * 4) = 4 in each of 8 hidden units, summed.
    assert images.tolist() == [[32.0] * 6] * batch


@pytest.mark.parametrize(
    ("dtype", "expected"), [(TensorProto.FLOAT, "float32"), (TensorProto.FLOAT16, "float16")]
)
def test_latents_have_the_type_and_shape_that_the_model_asks_for(make_model, dtype, expected):
    with ONNX_RUNTIME(make_model(dtype=dtype)) as runner:
        [latents] = draw_feed(runner.inputs, 5, 0, None, {})
        assert (latents.shape, latents.dtype) == ((5, 4), np.dtype(expected))
        assert runner.infer(latents).shape == (5, 6)


def test_onnx_runtime_gives_each_image_its_label(make_model):
    with ONNX_RUNTIME(make_model(final="Identity", n_classes=3)) as runner:
        assert [spec.name for spec in runner.inputs] == ["latents", "labels"]
        images = runner.infer(np.ones((3, 4), np.float32), np.array([2, 0, 1]))
    # 32 without a label, as above, and the label.
    assert images[:, 0].tolist() == [34, 32, 33]


def test_a_label_that_no_class_has_is_one_line(make_model):
    with (
        ONNX_RUNTIME(make_model(n_classes=3)) as runner,
        pytest.raises(RunnerError, match=r"failed at \(1, 4\) and \(1,\)") as caught,
    ):
        runner.infer(np.ones((1, 4), np.float32), np.array([3]))
    assert "\n" not in str(caught.value)


class HostMemory:
    """The calls of the CUDA runtime that a runner makes, with this process for a device.

    A stream that is captured notes what is asked of it, and does it when the graph is launched.
    Calls of the names in `failing` return an error. `log` lists what was done to the device, and
    `alive` what was created and not destroyed; an event happens at the moment of its record.
    """

    def __init__(self, failing=()):
        self.buffers, self.log, self.alive = {}, [], set()
        self.failing, self.now, self.happened = set(failing), 0, {}
        self.capturing, self.graphs, self.kernel = None, {}, None

    def __call__(self, name, *args):
        if name in self.failing:
            if name == "cudaStreamEndCapture":  # what is invalid ends all the same
                self.capturing = None
            return 900, 0
        return 0, getattr(self, name.removeprefix("cuda"), lambda *args: 0)(*args) or 0

    def run(self, kernel):
        self.log.append("run")
        if self.capturing is None:
            kernel()
        else:
            self.capturing.append(kernel)

    def array(self, pointer, shape, dtype):
        return np.frombuffer(self.buffers[pointer], dtype).reshape(shape)

    def create(self, kind):
        self.alive.add((kind, len(self.log) + 1000 + len(self.alive)))
        self.last = max(number for _, number in self.alive)
        return self.last

    def Malloc(self, size):
        buffer = ctypes.create_string_buffer(size)
        self.buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def Free(self, pointer):
        del self.buffers[pointer]

    def MemcpyAsync(self, to, source, size, kind, stream):
        assert self.capturing is None, "memory of the host cannot be part of a graph"
        self.log.append({1: "in", 2: "out"}[kind])
        ctypes.memmove(to, source, size)

    def EventCreate(self):
        return self.create("event")

    def EventDestroy(self, event):
        self.alive.remove(("event", event))

    def EventRecord(self, event, stream):
        self.log.append("event")
        self.now += 3
        self.happened[event] = self.now

    def EventElapsedTime(self, start, end):
        return (self.happened[end] - self.happened[start]) / 1e3  # it counts microseconds

    def StreamBeginCapture(self, stream, mode):
        self.capturing = []

    def StreamEndCapture(self, stream):
        graph = self.create("graph")
        self.graphs[graph], self.capturing = self.capturing, None
        return graph

    def GraphInstantiateWithFlags(self, graph, flags):
        made = self.create("executable")
        self.graphs[made] = self.graphs[graph]
        return made

    def GraphLaunch(self, graph, stream):
        self.log.append("launch")
        for kernel in self.graphs[graph]:
            kernel()

    def GraphDestroy(self, graph):
        self.alive.remove(("graph", graph))

    def GraphExecDestroy(self, graph):
        self.alive.remove(("executable", graph))


class AddsLabels:
    """An execution context of TensorRT whose engine adds its label to a latent of one number."""

    def __init__(self, memory, captured=True):
        self.memory, self.shapes, self.addresses = memory, {}, {}
        self.captured = captured

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name):
        return self.shapes["latents"]

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer

    def execute_async_v3(self, stream):
        if self.memory.capturing is not None and not self.captured:
            return False
        self.memory.run(partial(self.add, dict(self.shapes), dict(self.addresses)))
        return True

    def add(self, shapes, addresses):
        types = {"latents": np.float32, "labels": np.int64}
        z, k = (self.memory.array(addresses[n], shapes[n], t) for n, t in types.items())
        self.memory.array(addresses["images"], z.shape, np.float32)[:] = z + k[:, None]


def adding(memory, captured=True, **asked) -> TensorRTRunner:
    """A runner as it is after its engine was loaded."""
    runner = TensorRTRunner(Path("x.engine"), settings=RunSettings(**asked))
    runner._cuda, runner._context = Cuda(memory, str), AddsLabels(memory, captured)
    runner._output = "images"
    runner._inputs = (
        InputSpec("latents", np.dtype(np.float32), (None, 1)),
        InputSpec("labels", np.dtype(np.int64), (None,)),
    )
    return runner


def feed_of(*labels):
    return np.full((len(labels), 1), 0.5, np.float32), np.array(labels)


def test_tensorrt_sends_latents_and_labels_and_frees_what_it_took():
    memory = HostMemory()
    runner = adding(memory)
    for labels in ([3], [0, 2], [1]):  # another batch, and back
        images = runner.infer(*feed_of(*labels))
        assert images[:, 0].tolist() == [0.5 + label for label in labels]
    assert len(memory.buffers) == 2 * 3  # latents, labels, images of two batch sizes
    runner.__exit__(None, None, None)
    assert memory.buffers == {}


@pytest.mark.parametrize(
    ("transfers", "inside"),
    [
        ("none", ["run"]),
        ("in", ["in", "in", "run"]),
        ("out", ["run", "out"]),
        ("both", ["in", "in", "run", "out"]),
    ],
)
@pytest.mark.parametrize("graph", [False, True])
def test_what_is_timed_makes_the_transfers_that_were_asked_for(transfers, inside, graph):
    memory = HostMemory()
    runner = adding(memory, transfers=transfers, cuda_graph=graph)
    runner.timed.infer(*feed_of(3))  # the first call sends everything
    memory.log.clear()
    images = runner.timed.infer(*feed_of(4))
    launched = [{"run": "launch"}.get(what, what) if graph else what for what in inside]
    assert memory.log == ["event", *launched, "event"]
    assert runner.timed.device_ns() == 3000
    sent = transfers in ("in", "both")
    seen = transfers in ("out", "both")
    assert images[0, 0] == (4.5 if sent and seen else 3.5)
    assert runner.covers(1) == Covers(transfers, graph)
    # Complete images are still to be had, for their quality.
    assert runner.infer(*feed_of(7))[0, 0] == 7.5
    runner.__exit__(None, None, None)
    assert (memory.alive, memory.buffers) == (set(), {})


@pytest.mark.parametrize(
    ("memory", "captured"),
    [
        (HostMemory(), False),
        (HostMemory(["cudaStreamEndCapture"]), True),
        (HostMemory(["cudaGraphInstantiateWithFlags"]), True),
    ],
    ids=["tensorrt", "cuda", "instantiate"],
)
def test_an_engine_that_cannot_be_captured_runs_without_a_graph_and_says_why(memory, captured):
    runner = adding(memory, captured=captured, cuda_graph=True)
    assert runner.timed.infer(*feed_of(3))[0, 0] == 3.5
    memory.log.clear()
    assert runner.timed.infer(*feed_of(4))[0, 0] == 4.5
    assert "launch" not in memory.log
    covers = runner.covers(1)
    assert not covers.cuda_graph
    assert covers.no_cuda_graph is not None
    assert "cannot be captured" in covers.no_cuda_graph
    assert "without a CUDA graph: it cannot be captured" in str(covers)


def test_a_graph_belongs_to_its_batch_size():
    memory = HostMemory()
    runner = adding(memory, cuda_graph=True)
    for labels in ([3], [0, 2], [1]):
        images = runner.timed.infer(*feed_of(*labels))
        assert images[:, 0].tolist() == [0.5 + label for label in labels]
        assert len([kind for kind, _ in memory.alive if kind == "executable"]) == 1
    runner.__exit__(None, None, None)
    assert memory.alive == set()


def test_the_time_of_the_gpu_is_measured_beside_the_clock_of_this_machine():
    memory = HostMemory()
    runner = adding(memory)
    plan = TimingPlan(runs=4, warmup=0, duration_s=0, block=2)
    [timing] = measure([runner.timed], [feed_of(1)], [1], time.perf_counter_ns, plan)
    assert timing.device_ns is not None
    assert timing.device_ns.tolist() == [[3000, 3000], [3000, 3000]]
    row = row_of([timing], [timing], None, None, np.random.default_rng(0))
    assert row.gpu_latency is not None
    assert row.gpu_latency.p50_us == 3.0
    assert row.gpu_speedup is not None
    assert row.gpu_speedup.value == 1.0


def test_every_cuda_call_has_the_arguments_that_cuda_python_takes():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    for name, types in _ARGUMENTS.items():
        head = getattr(runtime, name).__doc__.splitlines()[0]
        taken = [one for one in re.findall(r"\((.*)\)", head)[0].split(",") if one.strip()]
        assert len(taken) == len(types), head


def test_a_session_can_be_passed_in(make_model, tmp_path):
    session = onnxruntime.InferenceSession(make_model(), providers=["CPUExecutionProvider"])
    with ONNX_RUNTIME(tmp_path / "not read", session=session) as runner:
        assert runner.infer(np.zeros((2, 4), np.float32)).shape == (2, 6)


def test_a_fixed_batch_refuses_another_one(make_model):
    with ONNX_RUNTIME(make_model(batch=2)) as runner:
        with pytest.raises(RunnerError, match=r"fixed batch of 2, asked for 64; use batch size 2"):
            draw_feed(runner.inputs, 64, 0, None, {})
        assert runner.infer(*draw_feed(runner.inputs, 2, 0, None, {})).shape == (2, 6)


def test_a_file_that_is_no_model_is_one_line(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"\x00\x01 not a protobuf")
    with pytest.raises(RunnerError, match="does not load it") as caught:
        ONNX_RUNTIME(tmp_path / "noise.onnx").__enter__()
    assert "\n" not in str(caught.value)


def test_latents_that_do_not_fit_are_one_line(make_model):
    with (
        ONNX_RUNTIME(make_model()) as runner,
        pytest.raises(RunnerError, match=r"failed at \(1, 5\)"),
    ):
        runner.infer(np.zeros((1, 5), np.float32))


def test_a_runner_that_is_not_open_says_so(make_model, tmp_path):
    for runner in (ONNX_RUNTIME(make_model()), TensorRTRunner(tmp_path / "x.engine")):
        with pytest.raises(RunnerError, match="with statement"):
            _ = runner.inputs


def test_tensorrt_without_its_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(RunnerError, match="not installed; on a Jetson it comes with JetPack"):
        TensorRTRunner(tmp_path / "x.engine").__enter__()


def test_auto_takes_onnx_runtime_unless_every_bundle_has_an_engine(make_bundle):
    with_engine, without = make_bundle("a"), make_bundle("b")
    (with_engine / "model.engine").write_bytes(b"plan")
    bundles = [load_bundle(with_engine), load_bundle(without)]
    assert [type(r) for r in open_runners(bundles, "auto", RunSettings())] == [
        OnnxRuntimeRunner
    ] * 2


def test_auto_takes_tensorrt_for_a_bare_engine(tmp_path):
    (tmp_path / "model.engine").write_bytes(b"plan")
    bundle = load_bundle(tmp_path / "model.engine")
    assert isinstance(open_runners([bundle], "auto", RunSettings())[0], TensorRTRunner)
    with pytest.raises(RunnerError, match=r"needs model\.onnx"):
        open_runners([bundle], "onnxruntime", RunSettings())


def test_tensorrt_without_an_engine_says_how_to_build_one(make_bundle):
    with pytest.raises(RunnerError, match=r"build it on this device with build_engine\.py"):
        open_runners([load_bundle(make_bundle())], "tensorrt", RunSettings())


def test_a_runner_that_does_not_exist_is_refused(make_bundle):
    with pytest.raises(RunnerError, match=r"one of auto, onnxruntime, .*torch-cuda, tensorrt"):
        open_runners([load_bundle(make_bundle())], "tflite", RunSettings())


def test_without_a_driver_or_gpu_cuda_says_what_is_missing():
    if ask_nvidia_smi() is not None:
        pytest.skip("this machine has a GPU: there is nothing missing")
    with pytest.raises(RunnerError, match="use the onnxruntime runner") as caught:
        open_cuda()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda cuda: cuda.create_stream(),
        lambda cuda: cuda.allocate(16),
        lambda cuda: cuda.copy_to_device(16, np.zeros(4, np.float32), 0),
        lambda cuda: cuda.copy_to_host(np.zeros(4, np.float32), 16, 0),
        lambda cuda: cuda.synchronize(0),
        lambda cuda: cuda.create_event(),
        lambda cuda: cuda.destroy_event(0),
        lambda cuda: cuda.record(0, 0),
        lambda cuda: cuda.elapsed_ns(0, 0),
        lambda cuda: cuda.begin_capture(0),
        lambda cuda: cuda.end_capture(0),
        lambda cuda: cuda.launch(0, 0),
        lambda cuda: cuda.destroy_graph(0),
    ],
    ids=["cudaStreamCreate", "cudaMalloc", "cudaMemcpyAsync", "cudaMemcpyAsync",
         "cudaStreamSynchronize", "cudaEventCreate", "cudaEventDestroy", "cudaEventRecord",
         "cudaEventElapsedTime", "cudaStreamBeginCapture", "cudaStreamEndCapture",
         "cudaGraphLaunch", "cudaGraphExecDestroy"],
)  # fmt: skip
@pytest.mark.parametrize("way", [cuda_python, libcudart])
def test_a_failing_cuda_call_is_named_with_the_reason(call, request, way):
    if ask_nvidia_smi() is not None:
        pytest.skip("this machine has a GPU: nothing fails")
    try:
        cuda = way()
    except RunnerError as error:
        pytest.skip(str(error))
    if cuda is None:
        pytest.skip("cuda-python is not installed")
    name = re.sub(r"\d*$", "", request.node.callspec.id.rpartition("-")[2])
    with pytest.raises(RunnerError, match=rf"^{name} failed: .+ \(CUDA error \d+\)$"):
        call(cuda)


@pytest.mark.gpu
def test_cuda_copies_to_the_device_and_back():
    try:
        cuda = open_cuda()
    except RunnerError as error:
        pytest.skip(str(error))
    sent, received = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
    stream, pointer = cuda.create_stream(), cuda.allocate(sent.nbytes)
    cuda.copy_to_device(pointer, sent, stream)
    cuda.copy_to_host(received, pointer, stream)
    cuda.synchronize(stream)
    cuda.free(pointer)
    cuda.destroy_stream(stream)
    assert received.tolist() == sent.tolist()


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("owner", "methods"),
    [
        ("Runtime", ["deserialize_cuda_engine"]),
        (
            "ICudaEngine",
            ["num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype",
             "get_tensor_shape", "get_tensor_profile_shape", "create_execution_context"],
        ),
        (
            "IExecutionContext",
            ["set_input_shape", "set_tensor_address", "get_tensor_shape", "execute_async_v3"],
        ),
    ],
)  # fmt: skip
def test_every_tensorrt_call_of_the_runner_is_in_the_python_api(owner, methods):
    # TensorRT-RTX has the same Python API and installs without a GPU or NVIDIA's index.
    name = next((n for n in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(n)), None)
    if name is None:
        pytest.skip("neither tensorrt nor tensorrt-rtx is installed")
    trt = importlib.import_module(name)
    assert [m for m in methods if not hasattr(getattr(trt, owner), m)] == []
    assert trt.nptype(trt.float32) is np.float32
    assert trt.nptype(trt.int64) is np.int64
    assert trt.TensorIOMode.INPUT != trt.TensorIOMode.OUTPUT
