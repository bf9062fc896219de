"""The program for torch: exported beside the graph, and run where torch is."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from edge_bench import TimingPlan, benchmark
from edge_bench.asked import RunSettings
from edge_bench.bundle import load_bundle
from edge_bench.errors import BundleError, RunnerError
from edge_bench.registry import open_runners
from edge_bench.torch_runner import TorchRunner, program_of, refuse_pickles
from export.bundle import BundleSettings, BundleSource, write_bundle
from export.engines import EngineChoice
from export.errors import ExportError
from export.manifest import read_manifest, verify
from export.parity import onnx_images
from export.targets import BUILDERS, Targets
from export.to_onnx import GraphSettings

QUICK = TimingPlan(runs=4, warmup=0, duration_s=0, min_warmup_s=0, block=2, repeats=1)


def no_meter(on_gpu):
    return None


class Small(torch.nn.Module):
    """Two layers from latents to images of 2 x 2."""

    latent_dim, image_shape, n_classes = 3, (1, 2, 2), 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(z)).reshape(-1, 1, 2, 2)


class Classes(Small):
    """One of them for each of two classes: a row is the latents, and the class as one-hot."""

    n_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 4)


def export(
    network: torch.nn.Module, out: Path, precision: Literal["fp32", "fp16"] = "fp32"
) -> Path:
    torch.manual_seed(0)
    settings = BundleSettings(
        graph=GraphSettings(precision), samples=6, engines=Targets.of(("torch",)).engines
    )
    write_bundle(BundleSource(network.eval()), out, settings)
    return out


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return export(Small(), tmp_path_factory.mktemp("torch") / "bundle")


def test_the_program_is_in_the_manifest_with_its_hash(bundle):
    manifest = verify(bundle)
    [engine] = manifest.engines
    assert (engine.file, engine.target, engine.compute_capability) == ("model.pt2", "torch", "any")
    assert engine.tool == f"torch {torch.__version__}"
    assert "model.pt2" in manifest.files
    assert "`model.pt2`: for torch" in (bundle / "README.md").read_text()


@pytest.mark.parametrize("kind", [Small, Classes])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torch_draws_the_images_of_the_graph_for_every_batch(tmp_path, kind, precision):
    out = export(kind(), tmp_path / "b", precision)
    [runner] = open_runners([load_bundle(out)], "torch", RunSettings(2))
    with runner:
        names = [spec.name for spec in runner.inputs]
        feed = [np.load(out / f"{name}.npy") for name in names]
        expected = onnx_images(out / "model.onnx", dict(zip(names, feed, strict=True)))
        assert runner.runtime == f"torch {torch.__version__} on CPU, 2 threads"
        for batch in (1, 2, 6):
            images = runner.infer(*(rows[:batch] for rows in feed))
            assert images.dtype == np.float32
            atol = 1e-5 if precision == "fp32" else 5e-3
            np.testing.assert_allclose(images.astype(np.float32), expected[:batch], atol=atol)


def test_it_is_measured_beside_the_graph(bundle):
    report = benchmark(
        [bundle], [1, 2], plan=QUICK, runner=["onnxruntime", "torch"], find_meter=no_meter
    )
    assert [(row.runner, row.batch) for row in report.rows] == [
        ("onnxruntime", 1), ("torch", 1), ("onnxruntime", 2), ("torch", 2),
    ]  # fmt: skip
    assert report.failed == ()


def test_a_bundle_without_a_program_and_a_machine_without_a_gpu_are_rows_with_their_reason(
    bundle, make_bundle
):
    found = benchmark(
        [make_bundle()], [1], plan=QUICK, runner=["torch", "onnxruntime"], find_meter=no_meter
    )
    [failed] = found.failed
    assert (failed.runner, "export the bundle for the target torch" in failed.reason) == (
        "torch", True,
    )  # fmt: skip
    if not torch.cuda.is_available():
        found = benchmark(
            [bundle], [1], plan=QUICK, runner=["torch-cuda", "onnxruntime"], find_meter=no_meter
        )
        assert "sees no NVIDIA GPU" in found.failed[0].reason


def test_a_machine_without_torch_says_so(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RunnerError, match="torch is not installed"):
        TorchRunner(*program_of(load_bundle(bundle))).__enter__()


def test_inputs_that_do_not_fit_are_one_line(bundle):
    with (
        TorchRunner(*program_of(load_bundle(bundle))) as runner,
        pytest.raises(RunnerError, match=r"torch failed at \(1, 5\)") as caught,
    ):
        runner.infer(np.zeros((1, 5), np.float32))
    assert "\n" not in str(caught.value)


def test_another_file_than_the_exported_one_is_not_loaded(tmp_path):
    out = export(Small(), tmp_path / "b")
    (out / "model.pt2").write_bytes((out / "model.pt2").read_bytes() + b"x")
    with pytest.raises(RunnerError, match="not the file that the manifest states"):
        program_of(load_bundle(out))


@pytest.mark.parametrize("inputs", [None, [1], [{"name": "z"}], [{"name": "z", "dtype": "?!"}]])
def test_inputs_that_are_not_listed_as_expected_are_one_line(bundle, tmp_path, inputs):
    out = export(Small(), tmp_path / "b")
    manifest = json.loads((out / "manifest.json").read_text()) | {"inputs": inputs}
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="inputs are not listed"):
        program_of(load_bundle(out))


def rewritten(source: Path, path: Path, name: str, content: bytes) -> Path:
    """A program in which a member is replaced, or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            if not member.endswith(name):
                new.writestr(member, old.read(member))
        folder = old.namelist()[0].split("/")[0]
        new.writestr(f"{folder}/{name}", content)
    return path


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def list_with_pickle() -> bytes:
    return json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data/sample_inputs/model.pt", pickle.dumps(Bomb())),
        ("data/weights/model_weights_config.json", list_with_pickle()),
        ("data/constants/model_constants_config.json", list_with_pickle()),
        ("data/weights/model.pt", pickle.dumps(Bomb())),
        ("data/constants/custom_obj_0", pickle.dumps(Bomb())),
    ],
)
def test_a_program_that_holds_a_pickle_is_refused_and_nothing_of_it_runs(
    bundle, tmp_path, name, content
):
    path = rewritten(bundle / "model.pt2", tmp_path / "bad.pt2", name, content)
    with pytest.raises(RunnerError, match=r"not a program of torch\.export") as caught:
        refuse_pickles(path, torch)
    assert "\n" not in str(caught.value)
    refuse_pickles(bundle / "model.pt2", torch)  # the real one is fine


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x00" * 100])
def test_noise_is_no_program(tmp_path, content):
    (tmp_path / "noise.pt2").write_bytes(content)
    with pytest.raises(RunnerError, match="not a program"):
        refuse_pickles(tmp_path / "noise.pt2", torch)


def test_an_int8_graph_has_no_program(tmp_path):
    from export.engines import EngineJob
    from export.manifest import BatchRange

    job = EngineJob(Small(), tmp_path / "m.onnx", (), BatchRange(), precision="int8")
    with pytest.raises(ExportError, match="torch runs the network before int8"):
        BUILDERS["torch"].build(job, "any")


def test_images_that_differ_are_refused_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("export.bundle.onnx_images", lambda *args: onnx_images(*args) + 0.1)
    settings = BundleSettings(samples=2, engines=(EngineChoice(BUILDERS["torch"], "require"),))
    with pytest.raises(ExportError, match=r"in torch images differ by 0\.1 "):
        write_bundle(BundleSource(Small().eval()), tmp_path / "b", settings)
    assert not (tmp_path / "b").exists()


def test_the_manifest_can_be_read_again(bundle):
    assert read_manifest(bundle).engines[0].target == "torch"
