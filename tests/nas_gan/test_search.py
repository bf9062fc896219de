import sys

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
    for name in ("genotype.gv", "discriminator.gv"):
        assert (tmp_path / "run" / name).read_text().startswith("digraph")


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
