"""What somebody adds from the outside works everywhere, without a change to the packages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from tiny import SmallNet, checkpoint_of, fid_evaluator, lively_generator
from torch import Tensor, nn

from ard.assembly.surgery import factorize_layer
from ard.compress import CompressConfig, compress
from ard.costs import objectives
from ard.costs.cost import cost_of
from ard.costs.objectives import Objective
from ard.errors import JournalError
from ard.factorization.method import C_IN, C_OUT, Covariances, Factor, Mark, Method
from ard.factorization.methods import METHODS, register
from ard.factorization.ranks import Rank
from ard.factorization.svd import svd
from ard.grid import RankGrid
from ard.layers import LayerProfile, Part, profile_layers
from ard.measuring import metrics
from ard.measuring.bank import DenseBank, Reference
from ard.measuring.evaluate import Candidate
from ard.measuring.metric import Metric
from ard.measuring.score import Score
from ard.measuring.sensitivity import SensitivityTable
from ard.pipeline import Effort, compress_generator
from ard.plan import Factorization, RankPlan, Replacement
from ard.report.plots import sensitivity_figure
from nas_gan.checkpoint import build_generator, load_checkpoint, save_checkpoint
from nas_gan.networks.latents import latent_bank

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
        budget=600.0,
        evaluators=fid_evaluator(dense, 256, 1),
        grid=RankGrid(("svd", method.name), (0.5, 0.2)),
        effort=Effort(max_trials=2),
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


def whole_run(folder: Path, **settings: Any) -> Path:
    """The run directory of a compression by the command, as small as it gets."""
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((1280, 16))
    reference = folder / "reference.npz"
    np.savez(reference, mu=rng.uniform(0, 0.2, 1280), sigma=factor @ factor.T / 100, n=17)
    save_checkpoint(checkpoint_of(lively_generator()), folder / "tiny.pt")
    chosen: dict[str, Any] = {
        "reference": str(reference),
        "fid_budget": "300%",
        "methods": ("svd", "spatial_svd"),
        **settings,
    }
    config = CompressConfig(
        checkpoint=folder / "tiny.pt",
        run_dir=folder / "run",
        fractions=(0.5, 0.2),
        features="efficientnet-lite0",
        samples=64,
        sweep_samples=32,
        recover_steps=2,
        max_trials=1,
        anchors=2,
        threads=1,
        bundle=False,
        **chosen,
    )
    _, run_dir = compress(config, lambda line: None)
    return run_dir


def test_a_whole_run_reports_a_method(method: Method, tmp_path: Path) -> None:
    run_dir = whole_run(tmp_path, methods=(method.name,))
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


# -- a metric: how far the mean brightness of the images is from a wanted one


@dataclass(frozen=True, eq=False)
class Brightness:
    bank: DenseBank

    def values(self, generator: nn.Module) -> Tensor:
        with torch.no_grad():
            images = torch.cat([generator(z) for z in self.bank.latents.split(64)])
        return (images.flatten(1).mean(1) - self.bank.reference.content).abs()

    @property
    def dense_value(self) -> float:
        return self.values(self.bank.generator).mean().item()

    def __call__(self, candidate: Candidate) -> Score:
        values, dense = self.values(candidate.generator), self.values(self.bank.generator)
        rises = values - dense
        rise, half = rises.mean().item(), 2 * rises.std().item() / len(rises) ** 0.5
        return Score(
            metric="brightness",
            value=values.mean().item(),
            rise=rise,
            ci_low=rise - half,
            ci_high=rise + half,
            n_images=len(values),
            features="",
            measured=True,
        )


BRIGHTNESS = Metric(
    name="brightness",
    symbol="B",
    symbol_elsewhere="B",
    description="distance of the mean brightness from white",
    enough_images=lambda extractor: 2,
    find_reference=lambda request: Reference("white", 1.0, dense=False),
    evaluator=lambda bank, resampled: Brightness(bank),
)


@pytest.fixture
def metric() -> Iterator[Metric]:
    metrics.register(BRIGHTNESS)
    yield BRIGHTNESS
    del metrics.METRICS["brightness"]


def test_a_whole_run_bounds_the_rise_of_a_metric(metric: Metric, tmp_path: Path) -> None:
    run_dir = whole_run(tmp_path, metric="brightness", fid_budget=None, quality_budget="50%")
    report = json.loads((run_dir / "report.json").read_text())
    assert report["metric"] == "brightness"
    assert 0 < report["brightness_dense"] < 2
    assert report["budget"] == pytest.approx(report["brightness_dense"] / 2)
    assert report["budget_met"] == (report["recovered"]["ci_high"] <= report["budget"])
    assert {"brightness", "delta_brightness"} <= report["recovered"].keys()
    assert "delta_brightness" in (run_dir / "sensitivity.csv").read_text().splitlines()[0]
    page = (run_dir / "report.html").read_text()
    assert "ΔB" in page
    assert metric.description in page
    assert "FID" not in page.split("<script")[0]
    table = SensitivityTable.from_csv((run_dir / "sensitivity.csv").read_text())
    assert table.metric == "brightness"
    figure = sensitivity_figure(table, distance=metric.symbol)
    assert "ΔB against dense" in [text.get_text() for text in figure.findobj(mpl.text.Text)]


def test_the_journal_of_one_metric_is_not_replayed_for_another(
    metric: Metric, tmp_path: Path
) -> None:
    whole_run(tmp_path, metric="brightness", fid_budget=None, quality_budget="50%")
    with pytest.raises(JournalError, match="metric is brightness there and fid here"):
        whole_run(tmp_path)


# -- an objective: as few ranks in all as the budget allows


def ranks_cost(layer: Part, choice: Replacement | None) -> float:
    assert isinstance(layer, LayerProfile)  # activations count where time does
    return sum(choice.rank) if choice else float(min(layer.shape[:2]))


@pytest.fixture
def objective() -> Iterator[Objective]:
    found = Objective("ranks", "few ranks", "ranks", lambda table: ranks_cost)
    objectives.register(found)
    yield found
    del objectives.OBJECTIVES["ranks"]


def test_a_whole_run_makes_an_objective_small(objective: Objective, tmp_path: Path) -> None:
    run_dir = whole_run(tmp_path, objective="ranks")
    report = json.loads((run_dir / "report.json").read_text())
    plan = RankPlan.from_json((run_dir / "plan.json").read_text())
    dense = build_generator(load_checkpoint(tmp_path / "tiny.pt"))
    layers = profile_layers(dense, latent_bank(2, 120, 0)).layers
    assert report["dense"]["cost"] == sum(ranks_cost(layer, None) for layer in layers)
    assert report["compressed"]["cost"] == cost_of(ranks_cost, layers, plan)
    assert report["compressed"]["cost"] < report["dense"]["cost"]
    page = (run_dir / "report.html").read_text()
    assert "with as few ranks as that allows" in page
    assert "ranks, dense" in page


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ValueError, match="a metric 'fid' already"):
        metrics.register(replace(BRIGHTNESS, name="fid"))
    with pytest.raises(ValueError, match="an objective 'params' already"):
        objectives.register(Objective("params", "", "", lambda table: ranks_cost))
