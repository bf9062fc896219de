"""Which runtime a name stands for, and what happens to one that cannot start."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from edge_bench import TimingPlan, benchmark
from edge_bench.__main__ import main
from edge_bench.asked import RunSettings
from edge_bench.bundle import load_bundle
from edge_bench.errors import BundleError, InvalidValueError, RunnerError
from edge_bench.inputs import draw_feed
from edge_bench.listed import listed_engines
from edge_bench.onnx_providers import OnnxRuntimeCudaRunner, OnnxRuntimeTensorRTRunner
from edge_bench.openvino_runner import OpenVINORunner
from edge_bench.registry import KNOWN, ON_GPU, resolve_runners
from edge_bench.report import table
from edge_bench.runners import OnnxRuntimeRunner
from edge_bench.tensorrt_rtx_runner import TARGET, TensorRTRTXRunner

QUICK = TimingPlan(runs=4, warmup=0, duration_s=0, min_warmup_s=0, block=2, repeats=1)
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")


def no_meter(on_gpu):
    return None


# -- openvino


@needs_openvino
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"n_classes": 3}, {"dtype": TensorProto.FLOAT16}, {"batch": 2}, {"final": "Sigmoid"}],
    ids=["plain", "conditional", "fp16", "fixed batch", "sigmoid"],
)
def test_openvino_makes_the_images_of_onnx_runtime(make_model, options, threads):
    model = make_model(width=8, **options)
    with (
        OnnxRuntimeRunner(model) as reference,
        OpenVINORunner(model, RunSettings(threads)) as runner,
    ):
        assert runner.inputs == reference.inputs
        assert runner.batch_range == reference.batch_range
        feed = draw_feed(reference.inputs, 2, 0, options.get("n_classes"), {})
        # Or every pixel would be at the end of its range.
        latents = (feed[0].astype(np.float64) / 100).astype(feed[0].dtype)
        feed = (latents, *feed[1:])
        expected, images = reference.infer(*feed), runner.infer(*feed)
        assert images.dtype == expected.dtype
        assert 0.01 < np.ptp(expected.astype(np.float64)) < 2
        tolerance = 1e-3 if options.get("dtype") == TensorProto.FLOAT16 else 1e-4
        assert np.abs(images.astype(np.float64) - expected.astype(np.float64)).max() < tolerance
        assert f"{threads} thread" in runner.runtime


@needs_openvino
def test_images_of_openvino_are_not_overwritten_by_the_next_call(make_model):
    with OpenVINORunner(make_model(final="Identity")) as runner:
        first = runner.infer(np.ones((1, 4), np.float32))
        runner.infer(np.zeros((1, 4), np.float32))
        assert first.tolist() == [[32.0] * 6]


@needs_openvino
@pytest.mark.parametrize("content", [b"", b"\x00\x01 not a protobuf", b"\n" * 100])
def test_what_openvino_does_not_read_is_one_line(tmp_path, content):
    (tmp_path / "noise.onnx").write_bytes(content)
    with pytest.raises(RunnerError, match="OpenVINO does not load it") as caught:
        OpenVINORunner(tmp_path / "noise.onnx").__enter__()
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


@needs_openvino
@pytest.mark.parametrize(
    ("options", "feed"),
    [
        ({"batch": 2}, (np.zeros((3, 4), np.float32),)),
        ({"n_classes": 3}, (np.zeros((1, 4), np.float32), np.zeros((2,), np.int64))),
        ({}, (np.zeros((1, 5), np.float32),)),
        ({}, (np.zeros((1, 4, 1), np.float32),)),
    ],
    ids=["batch", "labels", "size", "axes"],
)
def test_inputs_that_do_not_fit_openvino_are_one_line(make_model, options, feed):
    with (
        OpenVINORunner(make_model(**options)) as runner,
        pytest.raises(RunnerError, match=r"failed at \(") as caught,
    ):
        runner.infer(*feed)
    assert "\n" not in str(caught.value)


def test_openvino_without_its_package_says_how_to_get_it(make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RunnerError, match="pip install openvino"):
        OpenVINORunner(make_model()).__enter__()


# -- onnx runtime on a gpu


@pytest.mark.parametrize("kind", [OnnxRuntimeCudaRunner, OnnxRuntimeTensorRTRunner])
def test_a_provider_that_is_not_there_is_refused_and_the_cpu_is_not_used_instead(make_model, kind):
    if kind.provider in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    with pytest.raises(RunnerError, match=f"has no {kind.provider}, only .*CPU") as caught:
        kind(make_model()).__enter__()
    assert "onnxruntime-gpu" in str(caught.value)
    assert "\n" not in str(caught.value)


def pretended(available, started, nodes):
    """ONNX Runtime whose provider is listed, and whose session then has these instead."""
    assigned = [
        SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in nodes.items()
    ]

    class Session:
        def __init__(self, path, sess_options, providers):
            self.real = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs

        def get_providers(self):
            return started

        def get_provider_graph_assignment_info(self):
            return assigned

    return SimpleNamespace(
        __version__="1.99",
        InferenceSession=Session,
        SessionOptions=onnxruntime.SessionOptions,
        capi=onnxruntime.capi,
        get_available_providers=lambda: available,
    )


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("started", "nodes", "message"),
    [([CPU], {}, "could not start CUDA"), ([CUDA, CPU], {CPU: 9}, "runs none of the 9 nodes")],
    ids=["not started", "not used"],
)
def test_a_session_that_fell_back_to_the_cpu_is_refused(
    make_model, monkeypatch, started, nodes, message
):
    monkeypatch.setitem(sys.modules, "onnxruntime", pretended([CUDA, CPU], started, nodes))
    with pytest.raises(RunnerError, match=message) as caught:
        OnnxRuntimeCudaRunner(make_model()).__enter__()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [({CUDA: 9}, "on GPU"), ({CUDA: 7, CPU: 2}, "on GPU, 2 of 9 nodes on the CPU")],
)
def test_what_a_provider_leaves_to_the_cpu_is_said(make_model, monkeypatch, nodes, said):
    monkeypatch.setitem(sys.modules, "onnxruntime", pretended([CUDA, CPU], [CUDA, CPU], nodes))
    with OnnxRuntimeCudaRunner(make_model()) as runner:
        assert runner.runtime.startswith("onnxruntime 1.99 with CUDA on GPU")
        assert runner.runtime.endswith(said)


def test_this_onnx_runtime_can_say_which_provider_runs_a_node(make_model):
    class OnCpu(OnnxRuntimeCudaRunner):
        provider = CPU

        def _providers(self):
            return [CPU]

    with pytest.raises(RunnerError, match="runs none of the 4 nodes"):
        OnCpu(make_model()).__enter__()


# -- tensorrt-rtx


def with_engines(folder, **engines):
    manifest = json.loads((folder / "manifest.json").read_text())
    for capability, name in engines.items():
        (folder / name).write_bytes(b"plan")
        manifest["files"][name] = {"sha256": f"hash of {name}", "bytes": 4}
        manifest.setdefault("engines", []).append(
            {"file": name, "target": "tensorrt-rtx", "compute_capability": capability[2:]}
        )
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load_bundle(folder)


def test_engines_of_a_bundle_are_found_by_compute_capability(make_bundle):
    bundle = with_engines(make_bundle(), **{"cc8.6": "model.sm86.engine", "cc12.0": "x.engine"})
    assert listed_engines(bundle, TARGET) == {
        "8.6": (bundle.path / "model.sm86.engine", "hash of model.sm86.engine"),
        "12.0": (bundle.path / "x.engine", "hash of x.engine"),
    }
    assert listed_engines(load_bundle(make_bundle("none")), TARGET) == {}


@pytest.mark.parametrize(
    "engines",
    [[1], {"a": 1}, "x", [{"target": "tensorrt-rtx"}],
     [{"target": "tensorrt-rtx", "compute_capability": "8.6", "file": "../x"}],
     [{"target": "tensorrt-rtx", "compute_capability": "8.6", "file": "x"}]],
)  # fmt: skip
def test_a_damaged_list_of_engines_is_one_line(make_bundle, engines):
    bundle = load_bundle(make_bundle(changes={"engines": engines}))
    with pytest.raises(BundleError) as caught:
        listed_engines(bundle, TARGET)
    assert "\n" not in str(caught.value)


def test_tensorrt_rtx_without_its_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(RunnerError, match="tensorrt_rtx package is not installed"):
        TensorRTRTXRunner(tmp_path / "x.engine").__enter__()


# -- several


def test_every_runtime_is_measured_once_by_whatever_name(make_bundle):
    bundles = [load_bundle(make_bundle())]
    assert resolve_runners(bundles, ["auto", "openvino", "onnxruntime"]) == (
        "onnxruntime",
        "openvino",
    )
    with pytest.raises(InvalidValueError, match="runner needs a name"):
        resolve_runners(bundles, [])
    with pytest.raises(RunnerError, match="'tflite' is not known"):
        resolve_runners(bundles, ["onnxruntime", "tflite"])
    assert {name for name in KNOWN if "cuda" in name or "tensorrt" in name} == ON_GPU


def test_a_runtime_that_cannot_start_is_a_row_with_its_reason(make_bundle):
    bundles = [make_bundle("a"), make_bundle("b")]
    report = benchmark(
        bundles, [1, 2], plan=QUICK, runner=["tensorrt", "onnxruntime"], find_meter=no_meter
    )
    assert [(r.bundle, r.batch, r.runner) for r in report.rows] == [
        (bundle, batch, "onnxruntime") for batch in (1, 2) for bundle in "ab"
    ]
    assert [(r.bundle, r.batch, r.runner) for r in report.failed] == [
        (bundle, batch, "tensorrt") for batch in (1, 2) for bundle in "ab"
    ]
    assert len(report.runtimes) == 2
    lines = table(report).splitlines()
    assert lines[6].split() == ["a", "1", "tensorrt", *"-------"]
    [note] = [line for line in lines if line.startswith("tensorrt: not measured: ")]
    assert "build it on this device" in note


@pytest.mark.parametrize("repeats", [1, 2])
def test_several_runtimes_each_compare_with_the_first_bundle_in_the_same_one(make_bundle, repeats):
    pytest.importorskip("openvino", reason="openvino is not installed")
    bundles = [make_bundle("a"), make_bundle("b")]
    plan = TimingPlan(runs=4, warmup=0, duration_s=0, block=2, repeats=repeats)
    report = benchmark(
        bundles, [1], plan=plan, runner=["onnxruntime", "openvino"], find_meter=no_meter
    )
    assert [(r.bundle, r.runner, r.speedup is None) for r in report.rows] == [
        ("a", "onnxruntime", True), ("b", "onnxruntime", False),
        ("a", "openvino", True), ("b", "openvino", False),
    ]  # fmt: skip
    assert report.row("b", 1).runner == "onnxruntime"
    assert report.row("b", 1, "openvino") is report.rows[3]
    assert len(report.processes) == 2 * repeats


def test_if_no_runtime_can_start_the_command_fails(make_model, tmp_path, capsys):
    given = [str(make_model()), "--out", str(tmp_path), "--runs", "1", "--repeats", "1"]
    assert main([*given, "--runner", "tensorrt", "tensorrt-rtx"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no runner could measure. tensorrt: ")
    assert "; tensorrt-rtx: " in error
    assert error.count("\n") == 1
    assert list(tmp_path.glob("bench.json")) == []


@pytest.mark.parametrize("name", ["bad\udcff.onnx", "two\nlines.onnx", "bell\x07.onnx"])
@pytest.mark.parametrize("runner", ["onnxruntime", "openvino"])
def test_a_name_that_a_runtime_may_not_open_is_one_line(make_model, tmp_path, name, runner):
    path = make_model().rename(tmp_path / name)
    with pytest.raises(RunnerError, match="rename it") as caught:
        benchmark([path], [1], plan=QUICK, runner=runner, find_meter=no_meter)
    assert str(caught.value).isprintable()
