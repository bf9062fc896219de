import argparse
import gzip
import json
import pathlib
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nas_gan.checkpoint import load_checkpoint
from nas_gan.errors import CheckpointError

STATE = {"0.weight": torch.eye(2), "0.bias": torch.tensor([1.0, 2.0])}


def assert_loads(path):
    loaded = load_checkpoint(path).generator
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in STATE.items())


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pth.tar", ".bin", ".safetensors", ""])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_is_read_by_its_content(suffix, kind, tmp_path):
    path = tmp_path / f"weights{suffix}"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save({"netG": STATE}, path, _use_new_zipfile_serialization=kind == "zip")
    assert_loads(path)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_the_index_of_several_files_reads_them_all(kind, tmp_path):
    for number, name in enumerate(STATE):
        part = {name: STATE[name]}
        path = tmp_path / f"model-{number}.{kind}"
        save_file(part, path) if kind == "safetensors" else torch.save(part, path)
    index = tmp_path / f"model.{kind}.index.json"
    names = {name: f"model-{number}.{kind}" for number, name in enumerate(STATE)}
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert_loads(index)
    (tmp_path / f"model-1.{kind}").unlink()
    with pytest.raises(CheckpointError, match=f"model-1.{kind}: no such file"):
        load_checkpoint(index)


@pytest.mark.parametrize(
    "content",
    ['{"ngf": 64}', "{}", "{1", '{"weight_map": 3}', '{"weight_map": {"a": "../a.pt"}}',
     '{"weight_map": {"a": "i.json"}}', '{"weight_map": {"a": 3, "b": "x"}}'],
)  # fmt: skip
def test_other_json_is_refused(content, tmp_path):
    (tmp_path / "i.json").write_text(content)
    refused(tmp_path / "i.json", "JSON, and not the index|is not the name of a file beside it")


@pytest.mark.parametrize("zipped", [True, False])
def test_options_paths_and_scores_beside_the_weights_do_no_harm(zipped, tmp_path):
    content = {
        "g_ema": STATE,
        "args": argparse.Namespace(size=256, path=pathlib.Path("data"), betas=(0.0, 0.9)),
        "fid": np.float32(3.5), "best": np.int64(3), "history": np.arange(6.0).reshape(2, 3),
        "flags": np.array([True, False]), "rng": np.random.RandomState(0).get_state(),
    }  # fmt: skip
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert_loads(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage")
def test_unusual_tensors_become_plain_ones(tmp_path):
    stored = {
        "0.weight": nn.Parameter(torch.eye(2).double()).to_sparse(),
        "0.bias": torch.quantize_per_tensor(STATE["0.bias"], 0.5, 0, torch.qint8),
    }
    torch.save(stored, tmp_path / "a.pt")
    assert_loads(tmp_path / "a.pt")
    torch.save({"0.weight": torch.empty(2, device="meta")}, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", "0.weight has a shape and no values")


class Options:
    """Stands for somebody's own class: omegaconf's, easydict's."""


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_classes_that_are_refused_are_named(zipped, protocol, tmp_path):
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save({"g": STATE, "cfg": Options()}, tmp_path / "a.pt", **options)
    refused(
        tmp_path / "a.pt",
        r"not loaded \(.*test_weight_files\.Options\); .*torch\.save\(torch\.load\(FILE",
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_named(zipped, tmp_path):
    network = nn.Sequential(nn.Linear(2, 2))
    for content in (network, {"epoch": 1, "model": network}):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        refused(
            tmp_path / "a.pt",
            r"whole pickled module \(torch\.nn\.modules\.container\.Sequential\).*state_dict\(\)",
        )


def test_files_of_other_kinds_say_what_they_are(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(STATE, tmp_path / "good.pt")
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    refused(path, "a TorchScript archive; save its state dict")
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    refused(path, "a numpy array")
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3))
    refused(path, r"an \.npz file")
    with gzip.open(path, "wb") as packed:
        packed.write((tmp_path / "good.pt").read_bytes())
    refused(path, "compressed by gzip; unpack it")
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "good.pt", "good.pt")
    refused(path, "a tar archive; unpack it")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "good.pt", "run/good.pt")
    refused(path, r"a zip archive of run/good\.pt, and not of weights; unpack")
    for page in ("<!DOCTYPE html><html>", "\n  <html lang=en>", "\ufeff<HTML>"):
        path.write_text(page + "Google Drive can't scan this file for viruses" * 9)
        refused(path, "a page of HTML, so the download failed")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(path, "a Git LFS pointer .* run git lfs pull")
    shutil.copy(path, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "a Git LFS pointer")
    refused(tmp_path, r"is a directory; give the path of one of its files: a\.pt, a\.safe.*, good")


def test_of_a_folder_of_shards_their_index_is_offered(tmp_path):
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "a.pt"):
        (tmp_path / name).touch()
    (tmp_path / "model.safetensors.index.json").touch()
    refused(tmp_path, r"one of its files: model\.safetensors\.index\.json, a\.pt$")


def test_an_onnx_model_is_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "empty", [], [])
    for name in ("a.pt", "a.onnx"):
        onnx.save(onnx.helper.make_model(graph), tmp_path / name)
        refused(tmp_path / name, "an ONNX model")


def test_an_exported_program_is_named(tmp_path):
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "a.pt2")
    refused(tmp_path / "a.pt2", r"a program of torch\.export")


def test_a_plain_pickle_says_how_to_save_it(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G": [1.0]}))
    refused(tmp_path / "a.pkl", "save|damaged")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"G": Options()}))
    refused(tmp_path / "b.pkl", r"not loaded \(.*Options\)")
