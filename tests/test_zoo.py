"""The shipped checkpoints: what they hold, and the names that find them."""

import json
import logging
import runpy
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from nas_gan import zoo
from nas_gan.checkpoint import build_generator, build_saved_discriminator, load_checkpoint
from nas_gan.errors import CheckpointError
from nas_gan.metrics.reference import load_statistics
from nas_gan.networks.latents import latent_bank

FOLDER = Path(zoo.__file__).parent
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@dataclass(frozen=True)
class Shipped:
    """What a shipped checkpoint should be: its curve, its discriminator and its data."""

    curve: str
    n_scores: int
    data: str
    n_images: int


SHIPPED = {
    "fashion_mnist": Shipped("zoo_curve", 16, "fashion_mnist", 60_000),
    "adversarial_nas": Shipped("zoo_curve_adversarial_nas", 16, "fashion_mnist", 60_000),
    "crossfire": Shipped("zoo_curve_crossfire", 1, "crossfire", 5_235),
}


@pytest.fixture(scope="module", params=SHIPPED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(name):
    return load_checkpoint(FOLDER / f"{name}.pt")


def test_the_checkpoint_is_small_and_holds_both_networks(checkpoint, name):
    assert (FOLDER / f"{name}.pt").stat().st_size <= 12e6
    discriminator = build_saved_discriminator(checkpoint)
    assert discriminator is not None
    with torch.inference_mode():
        assert discriminator(torch.zeros(2, 3, 32, 32)).shape == (2, SHIPPED[name].n_scores)


def images_of(checkpoint):
    generator = build_generator(checkpoint)
    with torch.inference_mode():
        images = generator(latent_bank(64, cast(int, generator.latent_dim), seed=0))
    assert images.shape == (64, 3, 32, 32)
    return images


@pytest.mark.parametrize("name", ["fashion_mnist", "adversarial_nas"])
def test_its_images_are_grey_clothes_on_black(name):
    images = images_of(load_checkpoint(FOLDER / f"{name}.pt"))
    # Every training image repeats one grey channel and pads it by two black pixels.
    assert (images - images.mean(dim=1, keepdim=True)).abs().mean() < 0.1
    assert images[:, :, :2].mean() < -0.8


def test_the_images_of_crossfire_are_coloured_things_on_white():
    images = images_of(load_checkpoint(FOLDER / "crossfire.pt"))
    assert (images - images.mean(dim=1, keepdim=True)).abs().mean() > 0.1
    assert images[:, :, :2].mean() > 0.4


def test_the_reference_statistics_are_of_the_data_it_was_trained_on(checkpoint, name):
    path = FOLDER / f"{SHIPPED[name].data}_32_efficientnet-lite0-96.npz"
    statistics = load_statistics(path)
    assert statistics.n == SHIPPED[name].n_images
    assert np.linalg.eigvalsh(statistics.covariance).min() > -1e-3
    with np.load(path) as file:
        assert str(file["data_sha256"]) == checkpoint.provenance["data_sha256"]


def test_the_card_says_what_the_file_and_the_measured_curve_say(checkpoint, name):
    card = (FOLDER / f"{name}.md").read_text()
    last = json.loads((RESULTS / f"{SHIPPED[name].curve}.json").read_text())["curve"][-1]
    assert last["step"] == checkpoint.provenance["steps"]
    assert f"{last['step']:,} steps" in card
    assert f"{last['fid']:.1f}" in card
    n_params = sum(p.numel() for p in build_generator(checkpoint).parameters())
    assert f"({n_params:,} parameters)" in card


def test_what_the_card_says_of_overexposed_samples_was_measured():
    found = json.loads((RESULTS / "patches.json").read_text())
    card = " ".join((FOLDER / "fashion_mnist.md").read_text().split())  # without its line breaks
    tanh, rows = found["sites"]["before_tanh"], found["judgements"]["rows"]
    blown = 100 * found["judgements"]["blown_out"]["share"]
    assert f"({blown:.1f} % of {found['settings']['judged']})" in card
    assert f"{100 * rows['shipped']['generated_above_real']:.0f} % of the time" in card
    assert f"up to {tanh['blown_out']:.1f} instead of {tanh['other']:.1f}" in card
    assert f"({rows['shipped']['gradient_ratio']['before_tanh']:.2f})" in card
    above = {name: f"{100 * row['blown_out_above_other']:.0f} %" for name, row in rows.items()}
    assert f"in {above['shipped']} of pairs" in card
    for said in (
        f"its own loss do not change that ({above['latest']})",
        f"`mmd` ({above['mmd']})",
        f"samples out ({above['hinge']})",
    ):
        assert said in card


def test_a_zoo_name_stands_for_the_shipped_file(name):
    assert zoo.local_path(Path(f"zoo:{name}")) == FOLDER / f"{name}.pt"
    by_name, by_path = (load_checkpoint(p) for p in (Path(f"zoo:{name}"), FOLDER / f"{name}.pt"))
    assert by_name.provenance == by_path.provenance
    assert all(torch.equal(by_name.generator[key], t) for key, t in by_path.generator.items())


def test_every_shipped_checkpoint_has_a_name():
    assert set(zoo.shipped_names()) == {f"zoo:{path.stem}" for path in FOLDER.glob("*.pt")}


@pytest.mark.parametrize("path", ["runs/a/ckpt.pt", "fashion_mnist", "zoo/fashion_mnist.pt"])
def test_any_other_path_stands_for_itself(path):
    assert zoo.local_path(Path(path)) == Path(path)


@pytest.mark.parametrize("path", ["zoo:", "zoo:fashion", "zoo:../zoo/fashion_mnist"])
def test_an_unknown_zoo_name_says_which_exist(path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(Path(path))
    for known in SHIPPED:
        assert f"zoo:{known}" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "ard.compress zoo:fashion --fid-budget 5%",
        "ard.sweep zoo:fashion",
        "ard.pareto zoo:fashion --budgets 5%",
        "ard.latency zoo:fashion --out layers",
        "nas_gan.sample zoo:fashion",
        "nas_gan.evaluate zoo:fashion",
        "nas_gan.evaluate zoo:fashion_mnist --against zoo:fashion --samples 8",
        "nas_gan.figures betas --checkpoint zoo:fashion",
        "export zoo:fashion --out bundle",
    ],
)
def test_every_command_that_takes_a_checkpoint_looks_names_up_in_the_zoo(
    line, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", line.split())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # another test has imported the module
        with pytest.raises(SystemExit) as left:
            runpy.run_module(line.split()[0], run_name="__main__", alter_sys=True)
    logging.captureWarnings(False)
    assert left.value.code == 1
    assert (
        "choose one of zoo:adversarial_nas, zoo:crossfire, zoo:fashion_mnist"
        in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def test_a_command_takes_a_zoo_name_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nas_gan.sample", "zoo:fashion_mnist", "--n", "2", "--out", "a.png"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").is_file()
