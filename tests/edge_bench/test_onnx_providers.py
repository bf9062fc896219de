"""CUDA graphs and transfers of ONNX Runtime's providers, as far as a machine without a GPU goes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_inference_collection import check_and_normalize_provider_args

from edge_bench.asked import Covers, RunSettings
from edge_bench.errors import RunnerError
from edge_bench.onnx_providers import (
    OnnxRuntimeCudaRunner,
    OnnxRuntimeTensorRTRunner,
    graph_providers,
    why_no_graph,
)

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


class OnCpu(OnnxRuntimeCudaRunner):
    """The runner of a GPU with the provider and the memory that every machine has."""

    provider = CPU
    memory = "cpu"

    def _providers(self):
        return [CPU]

    def _left_to_cpu(self, session):
        return ""  # that all nodes run there is no reason to refuse it here


def latents(value: float, batch: int = 1) -> np.ndarray:
    return np.full((batch, 4), value, np.float32)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("transfers", ["none", "in", "out", "both"])
def test_what_is_timed_makes_the_transfers_that_were_asked_for(make_model, transfers, graph):
    with OnCpu(make_model(final="Identity"), RunSettings(1, transfers, graph)) as runner:
        runner.timed.infer(latents(1))  # the first call sends everything
        images = runner.timed.infer(latents(2))
        sent, seen = transfers in ("in", "both"), transfers in ("out", "both")
        assert images[0, 0] == (64 if sent and seen else 32)
        # Complete images are still to be had, for their quality.
        assert runner.infer(latents(3))[0, 0] == 96
        assert runner.covers(1).transfers == transfers


def test_a_plain_call_is_timed_as_it_was(make_model):
    with OnCpu(make_model()) as runner:
        assert runner.timed is runner
        assert runner.covers(1) == Covers("both")


def test_each_batch_size_has_buffers_of_its_own(make_model):
    with OnCpu(make_model(final="Identity"), RunSettings(1, "both", True)) as runner:
        for batch, value in ((1, 1), (3, 2), (1, 3), (3, 4)):
            images = runner.timed.infer(latents(value, batch))
            assert images.tolist() == [[32.0 * value] * 6] * batch


def test_a_provider_that_captures_nothing_runs_without_a_graph_and_says_why(make_model):
    with OnCpu(make_model(final="Identity"), RunSettings(1, "both", True)) as runner:
        assert runner.timed.infer(latents(1))[0, 0] == 32
        assert runner.timed.infer(latents(2))[0, 0] == 64
        covers = runner.covers(1)
        assert not covers.cuda_graph
        assert covers.no_cuda_graph is not None
        assert "CPUExecutionProvider of this onnxruntime has no enable_cuda_graph" in str(covers)


def test_a_graph_is_asked_for_in_a_session_that_does_not_fall_back(make_model):
    """A model that cannot be opened is this model's reason, and nothing is run in its place."""
    path = make_model(final="Identity")
    with OnCpu(path, RunSettings(1, "both", True)) as runner:
        path.write_bytes(b"\x00\x01 not a protobuf")
        with pytest.raises(RunnerError) as caught:
            runner.open_with_graph()
        assert "\n" not in str(caught.value)
        assert runner.timed.infer(latents(1))[0, 0] == 32  # the plain session goes on
        assert "cannot be captured" in str(runner.covers(1))


def test_inputs_that_do_not_fit_are_one_line(make_model):
    with (
        OnCpu(make_model(), RunSettings(1, "none")) as runner,
        pytest.raises(RunnerError, match=r"failed at \(1, 5\)") as caught,
    ):
        runner.timed.infer(np.zeros((1, 5), np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (OnnxRuntimeCudaRunner, [(CUDA, {"enable_cuda_graph": "True"}), (CPU, {})]),
        (OnnxRuntimeTensorRTRunner,
         [(TENSORRT, {"trt_cuda_graph_enable": "True"}), (CUDA, {}), (CPU, {})]),
    ],
)  # fmt: skip
def test_onnx_runtime_takes_the_providers_and_hands_the_option_to_the_one_that_captures(
    make_model, kind, expected
):
    runner = kind(make_model())
    asked = graph_providers(runner._providers(), kind.provider, kind.graph_option)
    names, options = check_and_normalize_provider_args(asked, None, [TENSORRT, CUDA, CPU])
    assert list(zip(names, options, strict=True)) == expected


@pytest.mark.parametrize("kind", [OnnxRuntimeCudaRunner, OnnxRuntimeTensorRTRunner])
def test_a_provider_knows_the_option_of_its_graph_and_takes_its_value(make_model, kind):
    """Options are read before the GPU is looked for, so that its libraries alone can tell."""
    if kind.provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {kind.provider}")

    def refusal(option: str) -> str:
        providers = graph_providers([kind.provider, CPU], kind.provider, option)
        try:
            onnxruntime.InferenceSession(make_model(), providers=providers, enable_fallback=0)
        except Exception as error:
            return str(error)
        return ""

    if "option" not in refusal("no_such_option"):
        pytest.skip(f"the library of {kind.provider} does not load")
    told = refusal(kind.graph_option)
    for complaint in ("Unknown provider option", "Invalid", "should be", "Failed to parse"):
        assert complaint not in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({CUDA: {"enable_cuda_graph": "1", "device_id": "0"}, CPU: {}}, None),
        ({CUDA: {"enable_cuda_graph": "True"}}, None),
        ({CUDA: {"enable_cuda_graph": "0"}, CPU: {}}, "has no enable_cuda_graph"),
        ({CUDA: {"device_id": "0"}, CPU: {}}, "has no enable_cuda_graph"),
        ({CPU: {}}, "took CPUExecutionProvider in place of CUDAExecutionProvider"),
    ],
)
def test_a_session_tells_by_its_options_whether_it_launches_a_graph(options, said):
    found = why_no_graph(options, CUDA, "enable_cuda_graph")
    assert (found is None) == (said is None)
    assert said is None or said in (found or "")
