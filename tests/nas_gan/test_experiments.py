import json
import re

from nas_gan.cli import run
from nas_gan.experiments import ExperimentsConfig, main


def test_the_command_trains_and_tells_of_what_failed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # A rate at which the first Adam update overflows float32.
    path = tmp_path / "grid.toml"
    path.write_text(
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
    assert shown.err.endswith(
        "error: 1 of 2 runs failed; run the same command again to retry them\n"
    )
    table = json.loads((tmp_path / "runs" / "table.json").read_text())
    assert [(row["finished"], row["failed"]) for row in table["rows"]] == [(1, 0), (0, 1)]
    assert table["rows"][0]["mean"].keys() == {"loss/g", "loss/d"}
    assert (tmp_path / "runs" / "smoke" / "default" / "seed-1" / "ckpt.pt").is_file()


def test_runs_that_name_their_device_take_workers_of_one_kind(tmp_path, capsys):
    path = tmp_path / "grid.toml"
    path.write_text('presets = ["smoke"]\nseeds = [1]\n')
    mixed = ["--executor", "ray", "--gpus-per-worker", "1", "--cpu-workers", "2"]
    args = [str(path), "--run-dir", str(tmp_path / "runs"), *mixed]
    assert run(main, ExperimentsConfig, prog="experiments", description=None, args=args) == 1
    assert "--cpu-workers" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
