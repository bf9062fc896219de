from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.__main__ import Config, main
from export.manifest import verify
from nas_gan.checkpoint import Checkpoint, build_generator, load_checkpoint, save_checkpoint
from nas_gan.cli import run

pytest.importorskip("onnxsim", reason="onnxsim is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.onnx


def command(*args: str | Path) -> int:
    texts = [str(arg) for arg in args]
    return run(main, Config, prog="python -m export", description="test", args=texts)


@pytest.fixture(scope="module")
def checkpoint(generator, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "ckpt.pt"
    architecture = {"kind": "mmd-nas", **generator.config.to_dict()}
    provenance = {"dataset": "toy"}
    save_checkpoint(Checkpoint(architecture, generator.state_dict(), provenance=provenance), path)
    return path


@pytest.fixture
def run_dir(checkpoint, tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "compressed.pt").write_bytes(checkpoint.read_bytes())
    (folder / "config.json").write_text(json.dumps({"checkpoint": str(checkpoint)}))
    return folder


def test_a_run_directory_becomes_a_bundle_with_the_dense_generator_in_it(run_dir, capfd):
    out = run_dir / "bundle"
    args = ["--precision", "fp16", "--tensorrt-rtx", "off", "--samples", "8", "--no-rewrites"]
    args += ["--batch", "1", "2", "4"]
    assert command(run_dir, "--out", out, *args) == 0
    manifest, printed = verify(out), capfd.readouterr()
    assert (manifest.precision, manifest.batch.max) == ("fp16", 4)
    assert manifest.provenance["dataset"] == "toy"
    assert manifest.provenance["file"] == "compressed.pt"
    assert verify(out / "dense").parity["psnr_db"] > 60
    assert b"BatchNormalization" in (out / "model.onnx").read_bytes()  # a rewrite folds it
    assert f"{manifest.params:,}" in printed.out
    assert "dense.onnx" in printed.out
    assert printed.out.rstrip().endswith("manifest.json")
    assert "torch.onnx" not in printed.out + printed.err


def test_a_shipped_checkpoint_is_found_by_its_name(run_dir, tmp_path):
    shipped, out = Path("zoo:adversarial_nas"), tmp_path / "bundle"
    (run_dir / "config.json").write_text(json.dumps({"checkpoint": str(shipped)}))
    assert command(run_dir, "--out", out, "--tensorrt-rtx", "off", "--samples", "2") == 0
    expected = build_generator(load_checkpoint(shipped))
    assert verify(out / "dense").params == sum(p.numel() for p in expected.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config.json: does not name the checkpoint"),
        ("{}", "config.json: does not name the checkpoint"),
        ('{"checkpoint": "moved.pt"}', "moved.pt: the checkpoint that"),
    ],
)
def test_a_run_whose_dense_checkpoint_is_gone_says_how_to_go_on(run_dir, config, message, capfd):
    (run_dir / "config.json").unlink()
    if config is not None:
        (run_dir / "config.json").write_text(config)
    assert command(run_dir, "--out", run_dir / "bundle") == 1
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "use --no-dense" in error
    assert not (run_dir / "bundle").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path, capfd):
    assert command(tmp_path, "--out", tmp_path / "bundle") == 1
    assert "no compressed.pt in it" in capfd.readouterr().err


def test_a_missing_checkpoint_is_one_line(tmp_path, capfd):
    assert command(tmp_path / "no.pt", "--out", tmp_path / "bundle") == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_opset_out_of_range_leaves_nothing(checkpoint, tmp_path, capfd):
    assert command(checkpoint, "--out", tmp_path / "bundle", "--opset", "16") == 1
    assert "--opset must be 17 to 24; got 16" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_wrong_usage(checkpoint, tmp_path):
    assert command(checkpoint, "--out", tmp_path / "bundle", "--precision", "int3") == 2
