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
from torch import nn

from export.bundle import count_macs, count_steps, write_bundle
from export.errors import BundleError, ExportError
from export.manifest import read_manifest, verify
from nas_gan.metrics.sampling import latent_bank

pytest.importorskip("onnxsim", reason="onnxsim is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def bundle(upsampler, other_upsampler, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "bundle"
    write_bundle(
        upsampler,
        out,
        seed=5,
        samples=12,
        provenance={"dataset": "toy", "file": Path("a.pt")},
        dense=other_upsampler,
        tensorrt_rtx="off",
    )
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
    manifest = write_bundle(upsampler, out, name="half", precision="fp16", tensorrt_rtx="off")
    assert verify(out) == manifest
    assert manifest.precision == "fp16"
    assert {path.name for path in out.iterdir()} == {"bench.json", "manifest.json", *manifest.files}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_with_other_things_is_not_touched(upsampler, tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(BundleError, match=r"not empty and not a bundle; choose another --out"):
        write_bundle(upsampler, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(BundleError, match="a file, not a folder"):
        write_bundle(upsampler, tmp_path / "thesis.tex")


def test_a_failed_export_leaves_nothing(upsampler, tmp_path):
    broken = copy.deepcopy(upsampler)
    with torch.no_grad():
        broken.l1.weight[0, 0] = math.nan
    with pytest.raises(ExportError, match=r"l1\.weight: holds NaN or infinite values"):
        write_bundle(broken, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../model"}, "--name takes letters"),
        ({"samples": 0}, "--samples must be 1 or more; got 0"),
    ],
)
def test_unusable_settings_are_refused(upsampler, tmp_path, change, message):
    with pytest.raises(ExportError, match=message):
        write_bundle(upsampler, tmp_path / "bundle", **change)


def test_a_module_that_does_not_say_its_shapes_is_refused(tmp_path):
    with pytest.raises(ExportError, match="Linear needs latent_dim: int and image_shape"):
        write_bundle(nn.Linear(2, 2), tmp_path / "bundle")


@pytest.mark.tensorrt
def test_engines_are_in_the_manifest_and_so_are_those_that_failed(upsampler, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    steps: list[int] = []
    capabilities = ("8.6", "9.0")
    manifest = write_bundle(
        upsampler, tmp_path / "bundle", compute_capabilities=capabilities, advance=steps.append
    )
    assert verify(tmp_path / "bundle") == manifest
    assert [engine.file for engine in manifest.engines] == ["model.sm86.engine"]
    assert manifest.files["model.sm86.engine"].bytes > 1000
    assert [entry.compute_capability for entry in manifest.not_built] == ["9.0"]
    assert sum(steps) == count_steps(
        dense=False, tensorrt_rtx="auto", compute_capabilities=capabilities
    )


@pytest.fixture(scope="module")
def conditional_bundle(conditional, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "bundle"
    write_bundle(conditional, out, seed=5, samples=12, tensorrt_rtx="off")
    return out


def test_a_conditional_bundle_holds_labels_beside_its_latents(conditional_bundle):
    manifest = verify(conditional_bundle)
    assert manifest.n_classes == 5
    assert [spec.name for spec in manifest.inputs] == ["latents", "labels"]
    bank = latent_bank(12, 6, 5, n_classes=5)
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
    assert "which class each image is to be of, 0 to\n4." in text
    assert "--minShapes=latents:1x6,labels:1 --optShapes=latents:8x6,labels:8" in text
