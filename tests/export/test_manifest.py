from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from export.errors import BundleError
from export.manifest import (
    BatchRange,
    Engine,
    FileEntry,
    Manifest,
    NotBuilt,
    TensorSpec,
    read_manifest,
    verify,
    write_manifest,
)

CONTENT = b"graph"
MANIFEST = Manifest(
    name="model",
    onnx="model.onnx",
    files={
        name: FileEntry(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
        for name in ("model.onnx", "model.sm86.engine")
    },
    inputs=(TensorSpec("latents", "float32", ("batch", 120)),),
    outputs=(TensorSpec("images", "float32", ("batch", 3, 32, 32)),),
    opset=18,
    precision="fp16",
    batch=BatchRange(1, 8, 64),
    tools={"onnx": "1.17"},
    latents={"file": "latents.npy", "seed": 3, "samples": 64},
    parity={"max_abs": 0.0, "psnr_db": None, "samples": 64},
    params=10,
    engines=(Engine("model.sm86.engine", "tensorrt-rtx", "8.6", "tensorrt-rtx 1.7"),),
    not_built=(NotBuilt("tensorrt-rtx", "7.5", "FP32 GEMM is not supported"),),
    provenance={"dataset": "fashion_mnist"},
    n_classes=0,
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for name in MANIFEST.files:
        (tmp_path / name).write_bytes(CONTENT)
    write_manifest(MANIFEST, tmp_path)
    return tmp_path


def test_what_is_written_is_read_back(bundle):
    assert read_manifest(bundle) == MANIFEST
    assert read_manifest(bundle / "manifest.json") == MANIFEST
    assert verify(bundle) == MANIFEST


def test_the_file_has_the_keys_that_other_programs_read(bundle):
    data = json.loads((bundle / "manifest.json").read_text())
    assert data["format"] == 1
    assert data["inputs"] == [{"name": "latents", "dtype": "float32", "shape": ["batch", 120]}]
    assert data["files"]["model.onnx"]["bytes"] == 5
    assert data["batch"] == {"min": 1, "opt": 8, "max": 64}
    assert data["engines"][0]["compute_capability"] == "8.6"
    assert set(data) == {
        *("format", "name", "onnx", "files", "inputs", "outputs", "opset", "precision", "batch"),
        *("engines", "not_built", "tools", "latents", "parity", "params", "macs", "dense"),
        *("image_range", "provenance"),
    }


def test_a_conditional_one_says_how_many_classes_it_has(tmp_path):
    labels = TensorSpec("labels", "int64", ("batch",))
    conditional = replace(MANIFEST, n_classes=10, inputs=(*MANIFEST.inputs, labels))
    write_manifest(conditional, tmp_path)
    assert read_manifest(tmp_path) == conditional
    data = json.loads((tmp_path / "manifest.json").read_text())
    assert data["n_classes"] == 10
    assert data["inputs"][1] == {"name": "labels", "dtype": "int64", "shape": ["batch"]}


def test_a_key_of_a_later_version_is_ignored(bundle):
    data = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**data, "later": 1}))
    assert read_manifest(bundle) == MANIFEST


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "format None is not known"),
        ('{"format": 2}', "format 2 is not known; this version reads 1"),
        ('{"format": 1}', "files is missing"),
    ],
)
def test_another_file_is_refused(bundle, text, message):
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        read_manifest(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"manifest\.json: no such file"):
        read_manifest(tmp_path)


def test_one_changed_byte_is_found(bundle):
    (bundle / "model.onnx").write_bytes(b"gRaph")
    with pytest.raises(BundleError, match=r"model\.onnx: 5 bytes with sha256"):
        verify(bundle)


def test_a_missing_file_is_found(bundle):
    (bundle / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: listed in the manifest and missing"):
        verify(bundle)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname"])
def test_a_manifest_cannot_point_out_of_its_bundle(bundle, name):
    write_manifest(replace(MANIFEST, files={name: FileEntry("0", 0)}), bundle)
    with pytest.raises(BundleError, match="not the name of a file beside it"):
        verify(bundle)
    write_manifest(replace(MANIFEST, dense=name), bundle)
    with pytest.raises(BundleError, match="not the name of a file beside it"):
        verify(bundle)


def test_the_bundle_inside_is_verified_too(bundle):
    (bundle / "dense").mkdir()
    write_manifest(MANIFEST, bundle / "dense")
    write_manifest(replace(MANIFEST, dense="dense"), bundle)
    with pytest.raises(BundleError, match=r"dense/model\.onnx: listed in the manifest and missing"):
        verify(bundle)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (4, 2, 8), (1, 9, 8)])
def test_batch_sizes_out_of_order_are_refused(sizes):
    with pytest.raises(BundleError, match="min <= opt <= max"):
        BatchRange(*sizes)


def changed(bundle: Path, **changes: object) -> None:
    """Replace entries of the manifest in a bundle, whatever they may be."""
    data = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(data | changes))


@pytest.mark.parametrize("key", ["name", "onnx", "dense"])
@pytest.mark.parametrize(
    "name", ["", ".", "..", "../evil", "/tmp/evil", "a\\b", "a\nb", "a;b|c", 3]
)
def test_every_name_is_that_of_a_file_in_the_folder(bundle, key, name):
    changed(bundle, **{key: name})
    with pytest.raises(BundleError, match=key):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("params", True),
        ("params", -1),
        ("params", 1.5),
        ("macs", "many"),
        ("opset", None),
        ("batch", {"min": 1, "opt": 8}),
        ("batch", {"min": 1, "opt": True, "max": 64}),
        ("inputs", {"name": "latents"}),
        ("inputs", [{"name": "latents", "dtype": "float32", "shape": ["batch", 0]}]),
        ("inputs", [{"name": "$(reboot)|", "dtype": "float32", "shape": ["batch"]}]),
        ("files", {"model.onnx": {"sha256": "0", "bytes": 5}}),
        ("files", {"model.onnx": 5}),
        ("image_range", [1, -1]),
        ("image_range", "01"),
        ("n_classes", -3),
        ("latents", {"file": "../latents.npy", "seed": 0, "samples": 64}),
        ("parity", {"max_abs": "0", "psnr_db": None, "samples": 1}),
        (
            "engines",
            [{"file": "../x.engine", "target": "t", "compute_capability": "8", "tool": ""}],
        ),
    ],
)
def test_a_value_of_another_kind_is_one_line_that_names_its_key(bundle, key, value):
    changed(bundle, **{key: value})
    with pytest.raises(BundleError, match=key) as error:
        read_manifest(bundle)
    assert str(bundle / "manifest.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_an_engine_that_is_not_among_the_files_is_refused(bundle):
    files = {"model.onnx": MANIFEST.files["model.onnx"]}
    write_manifest(replace(MANIFEST, files=files), bundle)
    with pytest.raises(BundleError, match="an engine whose hash is not in the manifest"):
        verify(bundle)


def test_a_link_that_leads_out_is_refused_and_one_within_is_not(bundle, tmp_path):
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    outside.write_bytes(CONTENT)
    (bundle / "model.onnx").rename(bundle / "moved")
    (bundle / "model.onnx").symlink_to(bundle / "moved")
    verify(bundle)
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        verify(bundle)


def test_bundles_lie_in_each_other_once(bundle):
    for depth in ("dense", "dense/dense"):
        (bundle / depth).mkdir()
        for name in MANIFEST.files:
            (bundle / depth / name).write_bytes(CONTENT)
        write_manifest(replace(MANIFEST, dense="dense"), bundle / depth)
    write_manifest(replace(MANIFEST, dense="dense"), bundle)
    with pytest.raises(BundleError, match="holds no other bundle"):
        verify(bundle)
