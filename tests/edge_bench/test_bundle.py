from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from edge_bench.asked import RunSettings
from edge_bench.bundle import load_bundle, load_bundles, load_samples
from edge_bench.errors import BundleError, RunnerError
from edge_bench.registry import open_runners
from edge_bench.runners import OnnxRuntimeRunner


def test_a_folder_gives_its_model_and_what_the_manifest_says(make_bundle):
    folder = make_bundle("compressed", width=2)
    bundle = load_bundle(folder)
    assert (bundle.name, bundle.precision, bundle.params) == ("compressed", "fp32", 80)
    assert bundle.model is not None
    assert bundle.model == folder / "model.onnx"
    assert bundle.model_sha256 == hashlib.sha256(bundle.model.read_bytes()).hexdigest()


def test_a_bare_model_is_a_bundle_that_says_nothing_of_itself(make_model):
    bundle = load_bundle(make_model("wide.onnx"))
    assert (bundle.name, bundle.engine, bundle.params) == ("wide", None, None)


@pytest.mark.parametrize(("changes", "expected"), [({"n_classes": 10}, 10), ({}, None)])
def test_the_manifest_of_a_conditional_model_counts_its_classes(make_bundle, changes, expected):
    assert load_bundle(make_bundle(changes=changes)).n_classes == expected


def test_a_bare_engine_is_a_bundle_without_a_model(tmp_path):
    (tmp_path / "orin.engine").write_bytes(b"plan")
    bundle = load_bundle(tmp_path / "orin.engine")
    assert (bundle.name, bundle.model) == ("orin", None)
    assert bundle.engine_sha256 == hashlib.sha256(b"plan").hexdigest()


def record_engine(folder: Path, **changes: str) -> None:
    """engine.json, as build_engine.py writes it beside model.engine."""
    record = {
        "engine": "model.engine",
        "sha256": hashlib.sha256((folder / "model.engine").read_bytes()).hexdigest(),
        "onnx_sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
    }
    (folder / "engine.json").write_text(json.dumps(record | changes))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "engine.json").unlink(), "has no engine.json"),
        (lambda folder: (folder / "model.engine").write_bytes(b"another"), "is not the engine"),
        (lambda folder: record_engine(folder, onnx_sha256="0" * 64), "another model"),
    ],
)
def test_an_engine_whose_hash_nothing_states_is_not_used(make_bundle, change, reason):
    folder = make_bundle()
    (folder / "model.engine").write_bytes(b"built here")
    record_engine(folder)
    change(folder)
    bundle = load_bundle(folder)
    assert bundle.engine is None
    with pytest.raises(RunnerError, match=reason):
        open_runners([bundle], "tensorrt", RunSettings())
    [runner] = open_runners([bundle], "auto", RunSettings())
    assert isinstance(runner, OnnxRuntimeRunner)


@pytest.mark.parametrize("key", ["onnx", "dense", "latents"])
@pytest.mark.parametrize("name", ["", ".", "..", "/etc/hostname", "a/b", "a\\b", "\0", 5, None, []])
def test_a_manifest_names_nothing_outside_of_its_folder(make_bundle, key, name):
    if key != "onnx" and name is None:
        pytest.skip("None says that there is none")
    changes = {key: {"file": name} if key == "latents" else name}
    folder = make_bundle()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    with pytest.raises(BundleError, match="not a name inside the bundle"):
        load_bundle(folder)


def test_a_link_does_not_lead_out_of_a_bundle(make_bundle, tmp_path):
    folder = make_bundle()
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' * 200, '{"format": 1e999}', '{"format": NaN}', "9" * 5000]
)
def test_a_manifest_beyond_the_limits_is_one_line(make_bundle, text):
    folder = make_bundle()
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError) as error:
        load_bundle(folder)
    assert str(folder / "manifest.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_an_engine_built_on_the_device_is_found_and_a_shipped_one_is_not(make_bundle):
    folder = make_bundle()
    (folder / "model.engine").write_bytes(b"built here")
    record_engine(folder)
    assert load_bundle(folder).engine == folder / "model.engine"
    manifest = folder / "manifest.json"
    listed = '"files": {"model.engine": {}, '
    manifest.write_text(manifest.read_text().replace('"files": {', listed))
    assert load_bundle(folder).engine is None


def test_two_engines_ask_which_one_is_meant(make_bundle):
    folder = make_bundle()
    for name in ("fp16.engine", "int8.plan"):
        (folder / name).write_bytes(b"plan")
    with pytest.raises(BundleError, match=r"fp16\.engine, int8\.plan"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": None}, "the key 'files' is missing"),
        ({"files": {}}, "the key 'files / model.onnx' is missing"),
        ({"files": {"model.onnx": {"bytes": 1}}}, "'files / model.onnx / sha256' is missing"),
        ({"format": None}, "the key 'format' is missing"),
        ({"format": 2}, "format 2, this program reads format 1"),
        ({"onnx": "../other.onnx"}, "not a name inside the bundle"),
        ({"dense": ".."}, "not a name inside the bundle"),
        ({"n_classes": "ten"}, "n_classes is 'ten', not a count"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_what_is_wrong(make_bundle, changes, message):
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(make_bundle(changes=changes))
    assert "\n" not in str(caught.value)


def test_a_truncated_model_is_told_by_its_hash(make_bundle):
    model = make_bundle() / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BundleError, match="copy or export the bundle again"):
        load_bundle(model.parent)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object_is_refused(make_bundle, content):
    folder = make_bundle()
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match="export the bundle again"):
        load_bundle(folder)


def test_what_is_no_bundle_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.onnx").touch()
    for name in ("absent", "notes.txt", "empty.onnx", "."):
        with pytest.raises(BundleError, match=str(tmp_path)):
            load_bundle(tmp_path / name)


def test_a_bundle_that_holds_its_dense_counterpart_is_two_dense_first(make_bundle):
    folder = make_bundle("bundle", changes={"dense": "dense"})
    make_bundle("bundle/dense")
    assert [bundle.name for bundle in load_bundles([folder])] == ["dense", "bundle"]
    assert len(load_bundles([folder, folder / "dense"])) == 2


def test_equal_names_are_told_apart_by_their_folders_then_by_a_number(make_bundle):
    a, b = make_bundle("a/bundle"), make_bundle("b/bundle")
    assert [bundle.name for bundle in load_bundles([a, b])] == ["a/bundle", "b/bundle"]
    assert [bundle.name for bundle in load_bundles([a, a])] == ["bundle (1)", "bundle (2)"]


def test_a_folder_given_as_a_dot_has_its_own_name(make_bundle, monkeypatch):
    monkeypatch.chdir(make_bundle("generator"))
    assert load_bundle(Path()).name == "generator"


def with_samples(folder: Path, array: object) -> Path:
    """The bundle with a file of inputs, listed as the exporter does."""
    np.save(folder / "latents.npy", array)  # type: ignore[arg-type]
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "latents.npy").read_bytes()).hexdigest()
    manifest["files"]["latents.npy"] = {"sha256": digest}
    manifest["latents"] = {"file": "latents.npy", "seed": 0, "samples": 3}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_inputs_of_a_bundle_are_read_by_the_name_of_the_input(make_bundle):
    bundle = load_bundle(with_samples(make_bundle(), np.ones((3, 4), np.float32)))
    samples = load_samples(bundle)
    assert samples["latents"].tolist() == np.ones((3, 4)).tolist()
    assert load_samples(load_bundle(make_bundle("without"))) == {}


def test_inputs_that_are_not_the_exported_ones_are_refused(make_bundle):
    folder = with_samples(make_bundle(), np.ones((3, 4), np.float32))
    np.save(folder / "latents.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(BundleError, match=r"latents\.npy: sha256 is"):
        load_bundle(folder)


@pytest.mark.parametrize("array", [np.array(["a"]), np.zeros((0, 4))])
def test_inputs_that_are_no_numbers_are_refused(make_bundle, array):
    bundle = load_bundle(with_samples(make_bundle(), array))
    with pytest.raises(BundleError, match="export the bundle again"):
        load_samples(bundle)
