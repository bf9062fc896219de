import re

import pytest
from PIL import Image

from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.cli import run
from nas_gan.figures import FiguresConfig, main


def figures(*args):
    return run(main, FiguresConfig, prog="figures", description=None, args=list(map(str, args)))


def test_named_figures_are_written_and_no_others(tmp_path, capsys):
    assert figures("pmish", "--out", tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'pmish.png'}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["pmish.png"]


def test_sliders_are_a_page_of_their_own(tmp_path):
    assert figures("sliders", "--out", tmp_path) == 0
    page = (tmp_path / "sliders.html").read_text()
    assert "bhaa (-1, 1): t1" in page
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)  # nothing is fetched


@pytest.mark.parametrize("name", ["losses", "bounds"])
def test_particles_are_a_gif_and_stills(tmp_path, name):
    assert figures(name, "--steps", 1, "--out", tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.gif", f"{name}.png"}
    with Image.open(tmp_path / f"{name}.gif") as gif:
        assert gif.size[0] > 2 * gif.size[1]  # three worlds side by side


def test_the_learned_betas_are_those_of_a_checkpoint(tmp_path, tiny_generator):
    architecture = {"kind": "mmd-nas", **tiny_generator.config.to_dict()}
    save_checkpoint(Checkpoint(architecture, tiny_generator.state_dict()), tmp_path / "a.pt")
    assert figures("betas", "--checkpoint", tmp_path / "a.pt", "--out", tmp_path) == 0
    assert (tmp_path / "betas.png").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["betas"], "--checkpoint must be given for betas"),
        (["pmich"], "did you mean pmish?"),
        (["pmish", "--seed", -1], "--seed must be at least 0"),
        (["losses", "--steps", 0], "--steps 1; got 0 and 0"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(tmp_path, args, message, capsys):
    assert figures(*args, "--out", tmp_path) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
