import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nas_gan.architecture_search.config import SearchConfig
from nas_gan.cli import run
from nas_gan.search import main
from nas_gan.training.preset import PRESETS, preset_from_arguments


def command(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["search", *map(str, args)])
    return run(
        main,
        SearchConfig,
        prog="search",
        description=None,
        default=lambda: preset_from_arguments(SearchConfig),
    )


SMOKE = PRESETS / "search_smoke.toml"


def test_the_command_searches_a_preset_with_overrides(tmp_path, monkeypatch, capsys):
    args = ["--config", SMOKE, "--steps", 1, "--gf-dim", 2, "--df-dim", 2, "--batch-size", 4]
    assert command(monkeypatch, *args, "--run-dir", tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert out.endswith(f"1 steps, {tmp_path / 'run' / 'genotype.json'}\n")
    assert (tmp_path / "run" / "samples" / "000001.png").is_file()
    for name in ("genotype.png", "discriminator.png", "genotypes.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def reference(tmp_path):
    """Statistics of features that no generator was made for."""
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((1280, 16))
    path = tmp_path / "real.npz"
    np.savez(path, mu=rng.uniform(0, 0.2, 1280), sigma=factor @ factor.T, n=17)
    return path


def test_the_command_trains_finalists_and_shows_them_in_the_order_of_their_fid(
    reference, tmp_path, monkeypatch, capsys
):
    args = ["--config", SMOKE, "--steps", 1, "--gf-dim", 2, "--df-dim", 2, "--batch-size", 4]
    args += ["--finalists", 2, "--finalist-steps", 1, "--eval-samples", 12]
    args += ["--features", "efficientnet-lite0", "--reference", reference]
    run_dir = tmp_path / "run"
    assert command(monkeypatch, *args, "--run-dir", run_dir) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "/finalists/" in line]
    fids = [float(row[2]) for row in rows]
    assert len(fids) == 2
    assert fids == sorted(fids)
    assert [row[1] for row in rows] == ["1", "1"]
    best = json.loads((run_dir / "finalist.json").read_text())
    assert f"{best['fid']:.4g}" == rows[0][2]
    assert best["rows"] == json.loads(Path(rows[0][0], "genotype.json").read_text())["rows"]
    assert (run_dir / "finalist.png").is_file()


def test_the_command_measures_derived_generators_and_draws_the_curve(
    reference, tmp_path, monkeypatch, capsys
):
    args = ["--config", SMOKE, "--steps", 2, "--gf-dim", 2, "--df-dim", 2, "--batch-size", 4]
    args += ["--eval-every", 1, "--eval-metrics", "fid", "is", "--eval-samples", 12]
    args += ["--features", "efficientnet-lite0", "--reference", reference]
    run_dir = tmp_path / "run"
    assert command(monkeypatch, *args, "--run-dir", run_dir) == 0
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "fid" in row]
    assert [row["step"] for row in measured] == [1, 2]
    assert all(row["class_score"] >= 1 for row in measured)
    best = json.loads((run_dir / "best_genotype.json").read_text())
    assert best["fid"] == {row["step"]: row["fid"] for row in measured}[best["step"]]
    out = capsys.readouterr().out
    assert f"best FID {best['fid']:.4g} ± {best['fid_se']:.2g} at step {best['step']}, " in out
    for name in ("curve.png", "best_genotype.png"):
        assert (run_dir / name).is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "none.toml"], "error: none.toml: no such preset"),
        (["--loss", "hing"], "error: loss 'hing' is not known; did you mean 'hinge'?"),
        (["--loss", "wasserstein"], "error: a search takes losses of scores alone"),
        (["--dataset", "imagenet"], "error: data set 'imagenet' is not known"),
        (["--activation", "reluu"], "error: activation 'reluu' is not known"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_told_in_one_line(
    args, message, monkeypatch, capsys, tmp_path
):
    tiny = ["--dataset", "synthetic", "--gf-dim", 2, "--df-dim", 2, "--run-dir", tmp_path / "run"]
    assert command(monkeypatch, *tiny, *args) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(message)
    assert not (tmp_path / "run").exists()
