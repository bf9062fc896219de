from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nas_gan.checkpoint import MMD_NAS_KIND, Checkpoint, save_checkpoint
from nas_gan.cli import run
from nas_gan.evaluate import EvaluateConfig, EvaluationReport, evaluate, main, render
from nas_gan.networks import Generator, GeneratorConfig, initialize_

pytestmark = [pytest.mark.onnx, pytest.mark.weights]


def save_generator(path: Path, seed: int, scale: float = 1.0, **provenance: str) -> Path:
    config = GeneratorConfig(gf_dim=8, latent_dim=12, bottom_width=4)
    generator = Generator(config)
    initialize_(generator, "xavier_uniform", torch.Generator().manual_seed(seed))
    state = generator.state_dict()
    state["to_rgb.2.weight"] *= scale
    architecture = {"kind": MMD_NAS_KIND, **config.to_dict()}
    save_checkpoint(Checkpoint(architecture, state, provenance=dict(provenance)), path)
    return path


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return save_generator(tmp_path / "dense.pt", seed=0)


def small(checkpoint: Path, **changes: object) -> EvaluateConfig:
    options = dict(samples=48, features="efficientnet-lite0", reference="dense", batch_size=20)
    return EvaluateConfig(checkpoint, **{**options, **changes})


def test_a_generator_is_measured_against_its_own_other_images(dense: Path):
    report = evaluate(small(dense))
    assert report.reference == "48 images of the dense generator"
    assert (report.extractor, report.comparable) == ("efficientnet-lite0@96", False)
    assert report.fid > 0  # other latents than those of the reference
    assert report.delta_fid is None


def test_the_dense_generator_against_itself_differs_by_nothing(dense: Path):
    report = evaluate(small(dense, against=dense))
    assert report.fid == report.fid_dense
    assert (report.delta_fid, report.ci_low, report.ci_high) == (0, 0, 0)


def test_a_changed_generator_is_paired_with_the_dense_one(dense: Path, tmp_path: Path):
    changed = save_generator(tmp_path / "changed.pt", seed=0, scale=0.5)
    report = evaluate(small(changed, against=dense))
    assert report.delta_fid == pytest.approx(report.fid - report.fid_dense)
    assert report.ci_low < report.delta_fid < report.ci_high
    # The dense side does not depend on what it is compared with.
    assert report.fid_dense == pytest.approx(evaluate(small(dense)).fid, rel=1e-5)


def test_the_command_writes_what_it_prints(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "result.json"
    assert main(small(dense, against=dense, out=out)) == 0
    written = json.loads(out.read_text())
    assert written["n"] == 48
    assert written["seed"] == 20_000
    assert "compare within this extractor only" in written["protocol"]
    printed = capsys.readouterr().out
    assert f"{written['fid']:.4f}" in printed


def test_a_distance_in_another_space_is_not_called_fid():
    shared = dict(checkpoint="a.pt", against=None, protocol="p", n=2, seed=0, reference="r", fid=3)
    other = EvaluationReport(**shared, extractor="efficientnet-lite0@96", comparable=False)
    inception = EvaluationReport(**shared, extractor="inception-v3", comparable=True)
    assert "FID" not in list(render(other).columns[0].cells)
    assert "FID" in list(render(inception).columns[0].cells)


def test_a_reference_file_with_statistics_of_other_features_is_one_line(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    np.savez(tmp_path / "inception.npz", mu=np.zeros(2048), sigma=np.zeros((2048, 2048)))
    arguments = [str(dense), "--reference", str(tmp_path / "inception.npz")]
    arguments += ["--features", "efficientnet-lite0", "--samples", "4"]
    code = run(main, EvaluateConfig, prog="evaluate", description="", args=arguments)
    [line] = capsys.readouterr().err.splitlines()
    assert code == 1
    assert "2048 features do not fit efficientnet-lite0@96, which has 1280" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pt"], "no such file"),
        (["dense.pt"], "names no data set.*--reference dense"),
        (["dense.pt", "--samples", "1"], "--samples must be at least 2"),
        (["dense.pt", "--against", "wide.pt"], "cannot be compared"),
    ],
    ids=["no file", "no reference", "samples", "other shapes"],
)
def test_what_cannot_be_measured_is_one_line(
    dense: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(dense.parent)
    config = GeneratorConfig(gf_dim=8, latent_dim=24, bottom_width=4)
    architecture = {"kind": MMD_NAS_KIND, **config.to_dict()}
    save_checkpoint(Checkpoint(architecture, Generator(config).state_dict()), Path("wide.pt"))
    arguments = [*arguments, "--features", "efficientnet-lite0"]
    assert run(main, EvaluateConfig, prog="evaluate", description="", args=arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


def test_the_named_data_set_is_used_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save_generator(tmp_path / "g.pt", seed=1, dataset="synthetic")
    first, second = (evaluate(small(path, reference="auto")) for _ in range(2))
    assert first.reference == "512 images of synthetic"
    assert [file.name for file in (tmp_path / "cache" / "ard-gan").iterdir()] == [
        "synthetic_32_efficientnet-lite0-96.npz"
    ]
    # Kept in float32.
    assert math.isclose(first.fid, second.fid, rel_tol=1e-4)
