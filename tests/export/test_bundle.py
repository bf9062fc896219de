from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import takes
from torch import nn

from export.bundle import BundleSettings, BundleSource, count_macs, count_steps, write_bundle
from export.engines import EngineChoice, EngineJob
from export.errors import BundleError, ExportError
from export.manifest import Engine, read_manifest, verify
from export.to_onnx import GraphSettings
from export.to_tensorrt import TensorRTRTX
from nas_gan.networks.latents import latent_bank, latents_of

pytest.importorskip("onnxsim", reason="onnxsim is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def bundle(upsampler, other_upsampler, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "bundle"
    provenance = {"dataset": "toy", "file": Path("a.pt")}
    source = BundleSource(upsampler, other_upsampler, provenance)
    write_bundle(source, out, BundleSettings(samples=12, seed=5, engines=()))
    return out


def test_a_bundle_is_whole_and_its_hashes_hold(bundle):
    manifest = verify(bundle)
    names = {path.name for path in bundle.iterdir() if path.is_file()}
    assert names == {"manifest.json", *manifest.files}
    assert set(manifest.files) == {"model.onnx", "latents.npy", "build_engine.py", "README.md"}
    assert manifest.provenance == {"dataset": "toy", "file": "a.pt"}
    assert list(bundle.parent.iterdir()) == [bundle]  # nothing temporary is left


def test_the_latents_are_those_of_the_bank(bundle):
    latents = np.load(bundle / "latents.npy")
    assert latents.dtype == np.float32
    np.testing.assert_array_equal(latents, latent_bank(12, 6, seed=5).numpy())
    assert read_manifest(bundle).latents == {"file": "latents.npy", "seed": 5, "samples": 12}


def test_the_dense_generator_is_a_bundle_inside(bundle):
    manifest = read_manifest(bundle)
    dense = verify(bundle / manifest.dense)
    assert (dense.onnx, dense.dense, dense.params) == ("dense.onnx", None, manifest.params)
    assert dense.files["latents.npy"] == manifest.files["latents.npy"]
    assert (bundle / "dense" / "dense.onnx").read_bytes() != (bundle / "model.onnx").read_bytes()


def test_params_and_macs_are_those_counted_by_hand(bundle, upsampler):
    manifest = read_manifest(bundle)
    linears, transposed, rgb = 2 * (3 * 64 + 64), 4 * 9, 4 * 3 * 9 + 3
    assert manifest.params == linears + transposed + rgb + 2 * 4  # batch normalisation: 2 a channel
    # A transposed convolution spreads each of its 4x4 inputs; the last layer has 8x8 outputs.
    assert manifest.macs == 2 * 3 * 64 + 4 * 9 * 16 + 4 * 3 * 9 * 64
    assert count_macs(upsampler) == manifest.macs


def test_the_readme_runs(bundle, tmp_path):
    text = (bundle / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code += "assert images.shape == (12, 3, 8, 8) and abs(images).max() <= 1"
    subprocess.run([sys.executable, "-c", code], cwd=bundle, check=True)
    assert "--stronglyTyped --minShapes=latents:1x6 --optShapes=latents:8x6" in text
    assert not re.search(r"^trtexec.*--fp16", text, re.MULTILINE)


def test_a_bundle_replaces_another_and_keeps_what_is_not_of_it(bundle, upsampler, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()
    old = json.loads((bundle / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(old))
    for name in ("model.onnx", "model.engine", "engine.json", "bench.json"):
        (out / name).write_text("old")
    settings = BundleSettings("half", GraphSettings("fp16"), engines=())
    manifest = write_bundle(BundleSource(upsampler), out, settings)
    assert verify(out) == manifest
    assert manifest.precision == "fp16"
    assert {path.name for path in out.iterdir()} == {"bench.json", "manifest.json", *manifest.files}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_with_other_things_is_not_touched(upsampler, tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(BundleError, match=r"not empty and not a bundle; choose another folder"):
        write_bundle(BundleSource(upsampler), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(BundleError, match="a file, not a folder"):
        write_bundle(BundleSource(upsampler), tmp_path / "thesis.tex")


def test_a_failed_export_leaves_nothing(upsampler, tmp_path):
    broken = copy.deepcopy(upsampler)
    with torch.no_grad():
        broken.l1.weight[0, 0] = math.nan
    with pytest.raises(ExportError, match=r"l1\.weight: holds NaN or infinite values"):
        write_bundle(BundleSource(broken), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../model"}, "name takes letters"),
        ({"samples": 0}, "samples must be 1 or more; got 0"),
    ],
)
def test_unusable_settings_are_refused(change, message):
    with pytest.raises(ExportError, match=message):
        BundleSettings(**change)


def test_a_module_that_does_not_say_its_shapes_is_refused(tmp_path):
    with pytest.raises(ExportError, match="Linear has no latent_dim; set that attribute"):
        write_bundle(BundleSource(nn.Linear(2, 2)), tmp_path / "bundle")


@pytest.mark.tensorrt
def test_engines_are_in_the_manifest_and_so_are_those_that_failed(upsampler, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    steps: list[int] = []
    source = BundleSource(upsampler)
    settings = BundleSettings(engines=(EngineChoice(TensorRTRTX(("8.6", "9.0"))),))
    manifest = write_bundle(source, tmp_path / "bundle", settings, advance=steps.append)
    assert verify(tmp_path / "bundle") == manifest
    assert [engine.file for engine in manifest.engines] == ["model.sm86.engine"]
    assert manifest.files["model.sm86.engine"].bytes > 1000
    assert [entry.compute_capability for entry in manifest.not_built] == ["9.0"]
    assert sum(steps) == count_steps(source, settings) == 2 + 2


class Toy:
    """A runtime of one's own, whose engine is the graph's name."""

    name, install, compute_capabilities = "toy", "pip install toy", ("1.0", "2.0")

    def is_installed(self):
        return True

    def build(self, job: EngineJob, compute_capability):
        if compute_capability == "2.0":
            raise ExportError("too new")
        file = job.onnx_path.with_suffix(".toy")
        file.write_text(job.onnx_path.name)
        return Engine(file.name, self.name, compute_capability, "toy 1")


def test_a_target_from_outside_is_built_like_our_own(upsampler, tmp_path):
    settings = BundleSettings(engines=(EngineChoice(Toy()),))
    manifest = write_bundle(BundleSource(upsampler), tmp_path / "bundle", settings)
    assert verify(tmp_path / "bundle") == manifest
    assert manifest.engines == (Engine("model.toy", "toy", "1.0", "toy 1"),)
    assert (tmp_path / "bundle" / "model.toy").read_text() == "model.onnx"
    assert [(entry.target, entry.reason) for entry in manifest.not_built] == [("toy", "too new")]
    assert "`model.toy`: compute capability 1.0" in (tmp_path / "bundle/README.md").read_text()
    required = BundleSettings(engines=(EngineChoice(Toy(), "require"),))
    with pytest.raises(ExportError, match=r"no engine of toy for compute capability 2\.0: too new"):
        write_bundle(BundleSource(upsampler), tmp_path / "other", required)
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def conditional_bundle(conditional, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "bundle"
    write_bundle(BundleSource(conditional), out, BundleSettings(samples=12, seed=5, engines=()))
    return out


def test_a_conditional_bundle_holds_labels_beside_its_latents(conditional_bundle):
    manifest = verify(conditional_bundle)
    assert manifest.n_classes == 5
    assert [spec.name for spec in manifest.inputs] == ["latents", "labels"]
    bank = latents_of(takes(6, 5), 12, 5)
    files = [manifest.latents[key] for key in ("file", "labels")]
    latents, labels = (np.load(conditional_bundle / name) for name in files)
    np.testing.assert_array_equal(latents, bank[:, :6].numpy())
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(np.eye(5)[labels], bank[:, 6:].numpy())


def test_the_readme_of_a_conditional_bundle_runs(conditional_bundle):
    text = (conditional_bundle / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code += "assert images.shape == (12, 1, 8, 8)"
    subprocess.run([sys.executable, "-c", code], cwd=conditional_bundle, check=True)
    assert "gives the class of each image, 0 to\n4." in text
    assert "--minShapes=latents:1x6,labels:1 --optShapes=latents:8x6,labels:8" in text
