"""What `ard.inspect` says of a checkpoint, and what it suggests."""

from __future__ import annotations

import re
from pathlib import Path

import foreign_nets
import pytest
import torch
from tiny import PixelFeatures, SmallNet

from ard.grid import RankGrid
from ard.inspect import InspectConfig
from ard.inspect import main as inspect
from ard.inspection import N_SPREAD, feature_spread, outlook_of
from ard.layers import profile_layers
from nas_gan import cli
from nas_gan.metrics.protocol import to_uint8
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of


def run(*arguments: str | Path) -> int:
    return cli.run(
        inspect, InspectConfig, prog="test", description="", args=[str(a) for a in arguments]
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "netG.pth"
    torch.save({"netG_state_dict": foreign_nets.sngan().state_dict()}, path)
    return path


def test_a_bare_state_dict_says_what_is_in_it_and_what_is_missing(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(weights) == 0
    out = capsys.readouterr().out
    assert "netG_state_dict" in out
    assert re.search(r"l1\.weight +256x64", out)
    assert "--model=path/to/file.py:Class" in out


def test_with_its_network_the_interface_the_layers_and_the_next_command_are_said(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", "foreign_nets:sngan", "--features", "efficientnet-lite0")
    assert run(weights, *options) == 0
    out = capsys.readouterr().out
    assert "normal noise 64 to images 3x32x32 in [-1, 1]" in out
    layers = [m for m, _ in foreign_nets.sngan().named_modules() if m.endswith((".c1", ".c2"))]
    assert all(re.search(rf"^{re.escape(name)} ", out, re.MULTILINE) for name in layers)
    assert re.search(r"^c5 .* too thin to factorize", out, re.MULTILINE)
    assert f"next: python -m ard.compress {weights} --model=foreign_nets:sngan" in out


def test_nothing_is_written(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(weights, "--model", "foreign_nets:sngan", "--features", "efficientnet-lite0") == 0
    assert list(tmp_path.iterdir()) == [weights]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "foreign_nets:nobody"], "nobody"),
        (["--model", "foreign_nets:cgan"], "do not fit"),
        (["--model", "foreign_nets:sngan", "--latent-shape", "7"], "--latent-shape"),
        (["--model", "foreign_nets:sngan", "--inputs", "gone"], "no such folder"),
    ],
)
def test_what_cannot_be_is_one_line(
    weights: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(weights, *options) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_what_is_within_reach_is_the_smallest_candidate_of_every_layer() -> None:
    net = SmallNet()
    profile = profile_layers(net, latents_of(interface_of(net), 2, 0))
    grid = RankGrid(("svd", "tucker2"), (0.5, 0.25))
    outlook = outlook_of(profile, grid)
    smallest = sum(min(layer.params(c) for c in grid.choices(layer)) for layer in profile.layers)
    assert outlook.params == profile.fixed_params + smallest
    assert outlook_of(profile, RankGrid(("svd",), ())).params == profile.total_params


def test_the_spread_is_the_distance_to_the_average() -> None:
    net = SmallNet()
    rows = latents_of(interface_of(net), N_SPREAD, seed=0)
    with torch.no_grad():
        features = PixelFeatures()(to_uint8(net(rows))).astype(float)
    mean = features.mean(axis=0)
    expected = ((features - mean) ** 2).sum() / (N_SPREAD - 1)
    found = feature_spread(net, interface_of(net), PixelFeatures())
    assert found == pytest.approx(expected, rel=1e-5)
