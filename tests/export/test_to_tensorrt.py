from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from torch import nn

from export.engines import EngineBuilds, EngineChoice, EngineJob, build_engines
from export.errors import ExportError, MissingPackageError
from export.manifest import BatchRange, TensorSpec
from export.to_tensorrt import TensorRTRTX

pytestmark = pytest.mark.tensorrt

SPECS = (
    TensorSpec("latents", "float32", ("batch", 120)),
    TensorSpec("images", "float32", ("batch", 3, 32, 32)),
)
AMPERE = TensorRTRTX(("8.6",))


def job(graph: Path, tensors: tuple[TensorSpec, ...] = SPECS) -> EngineJob:
    """TensorRT-RTX reads the ONNX file, and never the network."""
    return EngineJob(nn.Identity(), graph, tensors, BatchRange(1, 4, 16))


@pytest.fixture
def graph(generator_onnx: Path, tmp_path: Path) -> Path:
    """A copy, since engines are written beside the graph."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    return Path(shutil.copy(generator_onnx, tmp_path / "model.onnx"))


def test_an_engine_is_built_for_each_compute_capability(graph):
    built = build_engines(EngineChoice(TensorRTRTX()), job(graph))
    assert built.not_built == ()
    capabilities = [engine.compute_capability for engine in built.engines]
    assert capabilities == list(TensorRTRTX().compute_capabilities)
    assert built.engines[1].file == "model.sm86.engine"
    assert built.engines[1].tool.startswith("tensorrt-rtx 1.")
    weights = 4 * 100_000  # bytes, rounded down, of the 8-channel generator
    for engine in built.engines:
        data = (graph.parent / engine.file).read_bytes()
        assert data.startswith(b"vtrt")
        assert len(data) > weights


def test_a_gpu_that_cannot_run_the_graph_is_recorded_with_the_builders_reason(graph):
    # Turing has no float32 matrix product in TensorRT-RTX; 9.0 is not known to it at all.
    steps: list[int] = []
    built = build_engines(EngineChoice(TensorRTRTX(("7.5", "9.0"))), job(graph), steps.append)
    turing, hopper = built.not_built
    assert built.engines == ()
    assert "FP32 GEMM is not supported" in turing.reason
    assert "9.0" in hopper.reason
    assert "\n" not in turing.reason
    assert steps == [1, 1]
    assert [path.name for path in graph.parent.iterdir()] == ["model.onnx"]


def test_an_engine_of_a_conditional_generator_takes_labels(conditional_onnx, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    graph = Path(shutil.copy(conditional_onnx, tmp_path / "model.onnx"))
    specs = (
        TensorSpec("latents", "float32", ("batch", 6)),
        TensorSpec("labels", "int64", ("batch",)),
        TensorSpec("images", "float32", ("batch", 1, 8, 8)),
    )
    built = build_engines(EngineChoice(AMPERE), job(graph, specs))
    assert (len(built.engines), built.not_built) == (1, ())
    without = (specs[0], specs[2])
    [failed] = build_engines(EngineChoice(AMPERE), job(graph, without)).not_built
    assert "'labels': []" in failed.reason


def test_a_network_with_other_tensors_is_not_built(graph):
    other = (SPECS[0], TensorSpec("images", "float32", ("batch", 3, 64, 64)))
    [failed] = build_engines(EngineChoice(AMPERE), job(graph, other)).not_built
    assert "[3, 32, 32]" in failed.reason
    assert "[3, 64, 64]" in failed.reason


def test_require_raises_what_auto_records(graph):
    graph.write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"no engine of tensorrt-rtx for .* 8\.6: .*parse"):
        build_engines(EngineChoice(AMPERE, "require"), job(graph))


def test_without_the_package_auto_builds_nothing_and_require_says_how_to_get_it(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    graph = tmp_path / "model.onnx"
    assert build_engines(EngineChoice(AMPERE), job(graph)) == EngineBuilds()
    with pytest.raises(MissingPackageError, match=r'pip install "ard-gan\[tensorrt-rtx\]"'):
        build_engines(EngineChoice(AMPERE, "require"), job(graph))


def test_off_builds_nothing(graph):
    assert build_engines(EngineChoice(AMPERE, "off"), job(graph)) == EngineBuilds()
    assert [path.name for path in graph.parent.iterdir()] == ["model.onnx"]
