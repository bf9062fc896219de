import csv
import json
import re

import pytest

from nas_gan.cli import run
from nas_gan.errors import InvalidValueError
from nas_gan.experiments import (
    ExperimentsConfig,
    Grid,
    Outcome,
    Skip,
    main,
    plan_runs,
    read_grid,
    run_experiment,
    summarise,
    to_csv,
    to_toml,
)
from nas_gan.training.preset import read_toml

# SiLU on CIFAR-10 as published: six seeds, 5.78 with a deviation of 0.17.
FIDS = [6.01, 5.80, 5.89, 5.60, 5.57, 5.83]
SLOTS = {
    "output_activation": ["default", "bhsa", "bhana"],
    "d_output_activation": ["default", "bhsa"],
    "hidden_activation": ["default", "mida"],
    "d_hidden_activation": ["default", "mida", "mish"],
}


def write(tmp_path, text):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return path


def outcome(seed=0, fid=None, reason="", variant="default"):
    metrics = {} if fid is None else {"fid": fid}
    return Outcome("dcgan", variant, seed, metrics, reason, 1.0)


def test_mean_and_deviation_are_the_published_ones():
    (row,) = summarise(outcome(seed, fid) for seed, fid in enumerate(FIDS))
    assert (round(row.mean["fid"], 2), round(row.deviation["fid"], 2)) == (5.78, 0.17)


def test_failed_runs_are_counted_and_spoil_no_mean():
    rows = summarise(
        [outcome(0, 4.0), outcome(1, 99.0, "diverged"), outcome(2, variant="b", reason="killed")]
    )
    assert [(row.finished, row.failed) for row in rows] == [(1, 1), (0, 1)]
    assert (rows[0].mean, rows[0].deviation) == ({"fid": 4.0}, {})
    lines = list(csv.reader(to_csv(rows, ["fid", "loss/g"]).splitlines()))
    assert lines[0] == ["preset", "variant", "finished", "failed", "fid mean", "fid deviation"]
    assert lines[1:] == [
        ["dcgan", "default", "1", "1", "4.0", ""],
        ["dcgan", "b", "0", "1", "", ""],
    ]


def test_hidden_and_output_changes_never_meet():
    changes = Grid(("dcgan",), (0,), variants=SLOTS).combinations()
    assert len(changes) == 1 + (3 * 2 - 1) + (2 * 3 - 1)
    assert not any("output" in str(c) and "hidden" in str(c) for c in changes)
    assert {} in changes


@pytest.mark.parametrize(
    ("skip", "n"), [("default", 10), ("different_hidden", 10), ("different_output", 10)]
)
def test_skip_rules_leave_out_what_they_name(skip, n):
    grid = Grid(("dcgan",), (0,), variants=SLOTS, skip=Skip(**{skip: True}))
    left_out = [c for c in Grid(("dcgan",), (0,), variants=SLOTS).combinations()
                if c not in grid.combinations()]  # fmt: skip
    assert len(grid.combinations()) == n
    assert left_out == [
        {
            "default": {},
            "different_hidden": {"hidden_activation": "mida", "d_hidden_activation": "mish"},
            "different_output": {"output_activation": "bhana", "d_output_activation": "bhsa"},
        }[skip]
    ]


def test_settings_survive_their_file(tmp_path):
    settings = {"model": 'a "b"', "g_lr": 2e-05, "steps": 10, "flip": True, "d_lr": 1e22}
    assert read_toml(write(tmp_path, to_toml(settings))) == settings


def test_a_finished_run_is_not_run_again_and_a_failed_one_is(tmp_path):
    (one,) = plan_runs(Grid(("smoke",), (3,)), tmp_path)
    calls, reasons = [], iter(["diverged", "", "unused"])

    def train(folder):
        calls.append(read_toml(folder / "settings.toml")["seed"])
        (folder / "log.jsonl").write_text('{"step": 1, "fid": 2.5}\n')
        return next(reasons)

    outcomes = [run_experiment(one, ["fid"], train=train) for _ in range(3)]
    assert [o.reason for o in outcomes] == ["diverged", "", ""]
    assert calls == [3, 3]
    assert outcomes[2].metrics == {"fid": 2.5}
    (longer,) = plan_runs(Grid(("smoke",), (3,), settings={"steps": 9}), tmp_path)
    assert run_experiment(longer, ["fid"], train=train).reason == "unused"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset = ['a']", "key 'preset' is not known; did you mean presets"),
        ("presets = []\nseeds = [1]", "presets must be a list of names"),
        ("presets = ['smoke']\nseeds = ['a']", "seeds must be a list of whole numbers"),
        ("presets = ['smok']\nseeds = [1]", "preset 'smok' is not known; did you mean smoke"),
        ("presets = ['smoke']\nseeds = [1]\n[settings]\nstep = 2", "did you mean steps"),
        ("presets = ['smoke']\nseeds = [1]\n[variants]\nloss = 'rep'", "loss must be a list"),
        ("presets = ['smoke']\nseeds = [1]\n[variants]\nloss = ['repp']", "'repp' is not known"),
        ("presets = ['smoke']\nseeds = [1]\n[variants]\ngf_dim = ['a']", "gf_dim must be int"),
        ("presets = ['smoke']\nseeds = [1]\n[skip]\ndefault = true", "every combination"),
        ("presets = ['smoke']\nseeds = [1]\n[skip]\nmixed = true", "skip: key 'mixed'"),
        ("presets = ['smoke']\nseeds = [1]\nsettings = 3", "settings must be a table"),
        ("presets = ['smoke']\nseeds = [1]\nmetrics = 'fid'", "metrics must be a list of names"),
        ("presets = ['smoke']\nseeds = [1]\nmetrics = ['first_fid']", "not understood"),
        ("presets = [", "not a TOML file"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_runs(text, message, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(InvalidValueError, match=message):
        plan_runs(read_grid(path), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_command_trains_and_tells_of_what_failed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # A rate at which the first Adam update overflows float32.
    path = write(
        tmp_path,
        """
        presets = ["smoke"]
        seeds = [1]
        settings = {steps = 2, gf_dim = 4, df_dim = 4, sample_every = 0, log_every = 1}
        variants = {g_lr = ["default", 1e38]}
        """,
    )
    args = [str(path), "--run-dir", str(tmp_path / "runs")]
    assert run(main, ExperimentsConfig, prog="experiments", description=None, args=args) == 1
    shown = capsys.readouterr()
    told = r"failed: smoke, g_lr=1e\+38, seed 1: update 1: loss/d.* is not finite"
    assert re.search(told, shown.out)
    assert shown.err.endswith("error: 1 of 2 runs failed; the same command tries them again\n")
    table = json.loads((tmp_path / "runs" / "table.json").read_text())
    assert [(row["finished"], row["failed"]) for row in table["rows"]] == [(1, 0), (0, 1)]
    assert table["rows"][0]["mean"].keys() == {"loss/g", "loss/d"}
    assert (tmp_path / "runs" / "smoke" / "default" / "seed-1" / "ckpt.pt").is_file()
