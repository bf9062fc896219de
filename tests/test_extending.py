"""What somebody adds from the outside works everywhere, without a change to the packages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from rich.console import Console
from tiny import SmallNet, checkpoint_of, fid_evaluator, lively_generator
from torch import Tensor, nn

from ard.assembly.surgery import factorize_layer
from ard.compress import CompressConfig, compress
from ard.factorization.method import C_IN, C_OUT, Covariances, Factor, Mark, Method
from ard.factorization.methods import METHODS, register
from ard.factorization.ranks import Rank
from ard.factorization.svd import svd
from ard.layers import profile_layers
from ard.measuring.sensitivity import SensitivityTable
from ard.pipeline import compress_generator
from ard.plan import Factorization, RankPlan
from ard.report.plots import sensitivity_figure
from nas_gan.checkpoint import build_generator, load_checkpoint, save_checkpoint
from nas_gan.metrics.sampling import latent_bank

# -- a factorization method: a k x k convolution to few channels, then a pointwise one


def split_channels(kernel: Tensor, rank: Rank, known: Covariances) -> list[Tensor]:
    left, right = svd(kernel.flatten(1), rank[0], output_covariance=known.output)
    return [right.unflatten(1, kernel.shape[1:]), left[:, :, None, None]]


CHANNEL_SPLIT = Method(
    name="channel_split",
    ranks=("r",),
    factors=(Factor(C_IN, "r", "both"), Factor("r", C_OUT)),
    max_rank_of=lambda shape: (min(shape[0], shape[1] * shape[2] * shape[3]),),
    factorize=split_channels,
    fits=lambda shape, n_axes: n_axes == 2 and shape[2:] != (1, 1),
    mark=Mark("#56b4e9", "P", "cross"),
)


@pytest.fixture
def method() -> Iterator[Method]:
    register(CHANNEL_SPLIT)
    yield CHANNEL_SPLIT
    del METHODS["channel_split"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, (3, 5), (2, 1), (1, 2), (1, 2), groups=2),
        nn.ConvTranspose2d(6, 8, 4, 2, 1),
    ],
    ids=["conv", "transposed"],
)
def test_the_layers_and_counts_of_a_method_follow_from_its_factors(
    method: Method, layer: nn.Conv2d | nn.ConvTranspose2d
) -> None:
    layer = layer.double()
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    profile = profile_layers(nn.Sequential(layer), x, min_channels=1)["0"]
    full = Factorization(method.name, profile.max_rank(method.name))
    with torch.no_grad():
        assert torch.allclose(factorize_layer(layer, full)(x), layer(x), rtol=0, atol=1e-10)
    small = Factorization(method.name, (4,))
    built = profile_layers(factorize_layer(layer, small), x, min_channels=1)
    assert profile.params(small) == built.total_params
    assert profile.macs(small) == built.total_macs


def test_a_method_competes_and_is_chosen(method: Method) -> None:
    dense = SmallNet()
    result = compress_generator(
        dense,
        latent_bank(32, dense.latent_dim, 6),
        fid_budget=600.0,
        evaluators=fid_evaluator(dense, 256, 1),
        methods=("svd", method.name),
        fractions=(0.5, 0.2),
        max_trials=2,
    )
    tried = {row.choice.method for row in result.table.rows}
    assert tried == {"svd", method.name}
    assert method.name in {choice.method for choice in result.plan.values()}
    assert RankPlan.from_json(result.plan.to_json()) == result.plan
    again = SensitivityTable.from_csv(result.table.to_csv())
    assert [row.choice for row in again.rows] == [row.choice for row in result.table.rows]
    figure = sensitivity_figure(result.table)
    assert method.name in [text.get_text() for text in figure.findobj(mpl.text.Text)]
    lines = [line for axes in figure.axes for line in axes.lines]
    assert any(
        (line.get_marker(), line.get_color()) == (method.mark.marker, method.mark.colour)
        for line in lines
    )


def test_a_whole_run_reports_a_method(method: Method, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((1280, 16))
    reference = tmp_path / "reference.npz"
    np.savez(reference, mu=rng.uniform(0, 0.2, 1280), sigma=factor @ factor.T / 100, n=17)
    save_checkpoint(checkpoint_of(lively_generator()), tmp_path / "tiny.pt")
    config = CompressConfig(
        checkpoint=tmp_path / "tiny.pt",
        reference=str(reference),
        run_dir=tmp_path / "run",
        fid_budget="300%",
        methods=(method.name,),
        fractions=(0.5, 0.2),
        features="efficientnet-lite0",
        samples=64,
        sweep_samples=32,
        recover_steps=2,
        max_trials=1,
        anchors=2,
        threads=1,
        bundle=False,
    )
    _, run_dir = compress(config, Console(stderr=True, quiet=True))
    plan = RankPlan.from_json((run_dir / "plan.json").read_text())
    assert {choice.method for choice in plan.values()} == {method.name}
    report = json.loads((run_dir / "report.json").read_text())
    assert set(report["plan"].values()) <= {str(choice) for choice in plan.values()}
    assert f'"name":"{method.name}"' in (run_dir / "report.html").read_text().replace(": ", ":")
    assert method.mark.symbol in (run_dir / "report.html").read_text()
    small = build_generator(load_checkpoint(run_dir / "compressed.pt"))
    dense = build_generator(load_checkpoint(tmp_path / "tiny.pt"))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (small, dense)]
    assert sizes[0] < sizes[1]


def test_a_method_that_was_never_registered_is_refused() -> None:
    with pytest.raises(ValueError, match="method 'channel_split' is not known; use one of tucker2"):
        Factorization.parse("channel_split(3)")
