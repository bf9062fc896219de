from __future__ import annotations

import ctypes
import importlib.util
import sys

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from edge_bench.bundle import load_bundle
from edge_bench.cuda import Cuda, cuda_python, open_cuda
from edge_bench.device import ask_nvidia_smi
from edge_bench.errors import RunnerError
from edge_bench.inputs import InputSpec, draw_feed
from edge_bench.registry import open_runners
from edge_bench.runners import OnnxRuntimeRunner
from edge_bench.tensorrt_runner import TensorRTRunner

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
    """The calls of the CUDA runtime that a runner makes, with this process for a device."""

    def __init__(self):
        self.buffers = {}

    def __call__(self, name, *args):
        if name == "cudaMalloc":
            buffer = ctypes.create_string_buffer(args[0])
            self.buffers[ctypes.addressof(buffer)] = buffer
            return 0, ctypes.addressof(buffer)
        if name == "cudaMemcpyAsync":
            ctypes.memmove(*args[:3])
        if name == "cudaFree":
            del self.buffers[args[0]]
        return 0, 0

    def array(self, pointer, shape, dtype):
        return np.frombuffer(self.buffers[pointer], dtype).reshape(shape)


class AddsLabels:
    """An execution context of TensorRT whose engine adds its label to a latent of one number."""

    def __init__(self, memory):
        self.memory, self.shapes, self.addresses = memory, {}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name):
        return self.shapes["latents"]

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer

    def execute_async_v3(self, stream):
        types = {"latents": np.float32, "labels": np.int64}
        z, k = (self.memory.array(self.addresses[n], self.shapes[n], t) for n, t in types.items())
        self.memory.array(self.addresses["images"], z.shape, np.float32)[:] = z + k[:, None]
        return True


def test_tensorrt_sends_latents_and_labels_and_frees_what_it_took(tmp_path):
    memory = HostMemory()
    runner = TensorRTRunner(tmp_path / "x.engine")
    runner._cuda, runner._context, runner._output = Cuda(memory, str), AddsLabels(memory), "images"
    runner._inputs = (
        InputSpec("latents", np.dtype(np.float32), (None, 1)),
        InputSpec("labels", np.dtype(np.int64), (None,)),
    )
    for labels in ([3], [0, 2], [1]):  # another batch, and back
        latents = np.full((len(labels), 1), 0.5, np.float32)
        images = runner.infer(latents, np.array(labels))
        assert images[:, 0].tolist() == [0.5 + label for label in labels]
    assert len(memory.buffers) == 2 * 3  # latents, labels, images of two batch sizes
    runner.__exit__(None, None, None)
    assert memory.buffers == {}


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
    assert [type(r) for r in open_runners(bundles, "auto", 1)] == [OnnxRuntimeRunner] * 2


def test_auto_takes_tensorrt_for_a_bare_engine(tmp_path):
    (tmp_path / "model.engine").write_bytes(b"plan")
    bundle = load_bundle(tmp_path / "model.engine")
    assert isinstance(open_runners([bundle], "auto", 1)[0], TensorRTRunner)
    with pytest.raises(RunnerError, match=r"needs model\.onnx"):
        open_runners([bundle], "onnxruntime", 1)


def test_tensorrt_without_an_engine_says_how_to_build_one(make_bundle):
    with pytest.raises(RunnerError, match=r"build it on this device with build_engine\.py"):
        open_runners([load_bundle(make_bundle())], "tensorrt", 1)


def test_a_runner_that_does_not_exist_is_refused(make_bundle):
    with pytest.raises(RunnerError, match=r"one of auto, onnxruntime, .*openvino, tensorrt"):
        open_runners([load_bundle(make_bundle())], "tflite", 1)


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
    ],
    ids=["cudaStreamCreate", "cudaMalloc", "cudaMemcpyAsync", "cudaMemcpyAsync",
         "cudaStreamSynchronize"],
)  # fmt: skip
def test_a_failing_cuda_call_is_named_with_the_reason(call, request):
    if ask_nvidia_smi() is not None:
        pytest.skip("this machine has a GPU: nothing fails")
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed")
    name = request.node.callspec.id.rstrip("0123456789")
    with pytest.raises(RunnerError, match=rf"^{name} failed: .+ \(CUDA error \d+\)$"):
        call(cuda_python())


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
