import subprocess
import sys

import pytest
import torch
from PIL import Image

from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.cli import run
from nas_gan.networks.models import build_model
from nas_gan.sample import SampleConfig, main


@pytest.fixture
def checkpoint(tiny_generator, tmp_path):
    path = tmp_path / "ckpt.pt"
    architecture = {"kind": "mmd-nas", **tiny_generator.config.to_dict()}
    save_checkpoint(Checkpoint(architecture, tiny_generator.state_dict()), path)
    return path


def sample(*args):
    return run(main, SampleConfig, prog="sample", description=None, args=[str(a) for a in args])


def test_the_command_writes_a_picture_of_all_samples(checkpoint, tmp_path):
    out = tmp_path / "grid.png"
    done = subprocess.run(
        [sys.executable, "-m", "nas_gan.sample", checkpoint, "--out", out, "--n", "6",
         "--columns", "3"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert done.stderr == ""
    with Image.open(out) as picture:
        assert picture.size == (3 * 33 + 1, 2 * 33 + 1)  # 32 px each, lines of 1 px


def test_the_seed_decides_the_picture(checkpoint, tmp_path):
    names = {"a": 0, "b": 0, "c": 1}
    for name, seed in names.items():
        assert sample(checkpoint, "--out", tmp_path / f"{name}.png", "--n", 2, "--seed", seed) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in names)
    assert a == b != c


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--n", 0], "--n and --columns must be at least 1; got 0 and 8"),
        (["--columns", -1], "--n and --columns must be at least 1"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--model", "nothing"], "--model takes package.module:build"),
        (["--out", "grid.txt"], "grid.txt: a grid is a .png file"),
        (["--seed", -1], "seed"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(checkpoint, args, message, capsys):
    assert sample(checkpoint, *args) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_missing_checkpoint_is_one_line(tmp_path, capsys):
    assert sample(tmp_path / "none.pt") == 1
    expected = f"error: {tmp_path / 'none.pt'}: no such file; give the path of a .pt or"
    assert capsys.readouterr().err.startswith(expected)


def test_pixels_that_are_not_finite_are_refused(tiny_generator, tmp_path, capsys):
    state = tiny_generator.state_dict()
    state["to_rgb.0.running_var"].fill_(-1)  # finite, but its root is not
    architecture = {"kind": "mmd-nas", **tiny_generator.config.to_dict()}
    save_checkpoint(Checkpoint(architecture, state), tmp_path / "a.pt")
    assert sample(tmp_path / "a.pt", "--out", tmp_path / "grid.png") == 1
    assert "returns NaN or infinite pixels" in capsys.readouterr().err
    assert not (tmp_path / "grid.png").exists()


def test_usage_is_code_2(capsys):
    assert sample() == 2
    assert capsys.readouterr().err


@pytest.fixture
def conditional(tmp_path):
    """Three classes, grey images of 4 px."""
    architecture = {"kind": "dense-cgan", "latent_dim": 4, "gf_dim": 4,
                    "n_classes": 3, "image_size": 4}  # fmt: skip
    generator = build_model(architecture, rng=torch.Generator().manual_seed(0))
    save_checkpoint(Checkpoint(architecture, generator.state_dict()), tmp_path / "cond.pt")
    return tmp_path / "cond.pt"


def test_a_picture_of_classes_has_their_rows(conditional, tmp_path):
    out = tmp_path / "classes.png"
    assert sample(conditional, "--per-class", "--columns", 2, "--out", out) == 0
    with Image.open(out) as picture:
        assert picture.size == (2 * 5 + 1, 3 * 5 + 1)


def test_an_interpolation_is_a_gif_that_the_seed_decides(checkpoint, tmp_path):
    for name in ("a", "b"):
        done = sample(checkpoint, "--interpolate", 2, "--frames", 4, "--n", 2, "--columns", 2,
                      "--out", tmp_path / f"{name}.gif")  # fmt: skip
        assert done == 0
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 4
        assert gif.size == (2 * 33 + 1, 33 + 1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--out", "walk.gif"], "a GIF is for --interpolate"),
        (["--interpolate", 4, "--out", "walk.png"], "an animation is a .gif file"),
        (["--interpolate", 1], "--interpolate must be at least 2"),
        (["--interpolate", 4, "--frames", 3], "--frames no less; got 4 and 3"),
        (["--interpolate", 2, "--fps", 0], "--fps must be above 0"),
        (["--per-class", "--n", 4], "leave out --n"),
        (["--per-class"], "needs a conditional generator"),
    ],
)
def test_a_walk_or_classes_that_cannot_be_are_one_line(checkpoint, args, message, capsys):
    assert sample(checkpoint, *args) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
