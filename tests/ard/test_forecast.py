from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import PixelFeatures
from torch import Tensor, nn

from ard.costs.cost import params_cost
from ard.forecast.demand import Demand, Recoveries, choices_of, size_of
from ard.forecast.speed import Speed, measure_speed
from ard.forecast.stages import IN_RESERVE, Stage, recovery_of, share_of, stages_of
from ard.grid import RankGrid
from ard.layers import profile_layers
from ard.search.candidates import competing_choices
from ard.session.config import SearchConfig, SweepConfig
from ard.sweep import main
from nas_gan.checkpoint import Checkpoint
from nas_gan.generators import OpenedGenerator, open_generator
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of

Call = Callable[..., tuple[int, str, str]]
QUICK = (
    *("--samples", "64", "--sweep-samples", "32", "--anchors", "4", "--batch-size", "8"),
    *("--features", "efficientnet-lite0", "--threads", "1"),
    *("--methods", "svd", "--fractions", "0.5", "0.2"),
)
# A second an image, and half a second for its features; a score takes ten.
SPEED = Speed(1.0, 0.5, lambda n: 10.0, {"conv": 0.25})
DEMAND = Demand(
    choices={"conv": 20},
    anchors=5,
    sweep_images=100,
    images=1000,
    unrecovered_images=500,
    reference_images=0,
    moments=32,
    ranked=3.0,
    decomposed=0.0,
)


def test_workers_share_a_stage_in_whole_evaluations() -> None:
    stage = Stage("one", evaluations=10, images=0, seconds=100.0)
    assert [stage.on(n) for n in (1, 2, 4, 10, 50)] == [100, 50, 30, 10, 10]
    alone = Stage("dense", evaluations=3, images=0, seconds=7.0, spread=False)
    assert alone.on(50) == 7


def test_a_sweep_is_every_movement_the_anchors_and_the_dense_generator() -> None:
    stages = {stage.name: stage for stage in stages_of(DEMAND, SPEED)}
    # Of the dense generator the proxy draws 32 images as well.
    assert stages["dense scores"].images == 132
    assert stages["movement of images"].evaluations == 20
    assert stages["one layer at a time"].evaluations == 6
    assert stages["one layer at a time"].images == 600
    # 32 images for batch statistics, of which a quarter runs; 100 with features, and the score
    assert stages["one layer at a time"].seconds == 6 * (32 / 4 + 150 + 10)
    # The features of these 32 show a movement. What comes before the layer is remembered of them,
    # and tested with a quarter of the network on two rows.
    remembered = 32 + 2 / 4
    assert stages["movement of images"].seconds == 20 * (32 / 4 + 32 / 2) + remembered


def test_more_updates_and_more_trials_take_longer() -> None:
    speed = replace(SPEED, distilled=3.0, tuned=5.0)

    def seconds(**changes: int) -> float:
        demand = replace(DEMAND, recoveries=Recoveries(**changes))
        return sum(stage.seconds for stage in stages_of(demand, speed))

    assert seconds(trials=2) < seconds(trials=3) < seconds(trials=3, steps=10)
    assert seconds(trials=3, steps=10) < seconds(trials=3, steps=10, tuning=10)


def test_a_recovery_is_its_updates_its_checks_and_a_look_at_each_stage() -> None:
    speed = replace(SPEED, distilled=3.0, tuned=5.0)
    assert recovery_of(Recoveries(trials=1), speed) == (0, 0)
    images, seconds = recovery_of(Recoveries(1, 7, 4, batch=2, stages=2, check_images=20), speed)
    # A check before and after each of two stages, and two while it is tuned, of 20 images and a
    # score; eight images show at the start of each stage that the network works.
    assert images == 6 * 20
    assert seconds == 6 * (20 * 1.5 + 10) + 7 * 3 + 4 * 5 + 2 * 8


def test_rounds_in_reserve_are_counted_beside_those_that_a_run_needs() -> None:
    def stages(**changes: int) -> dict[str, tuple[int, int, float]]:
        demand = replace(DEMAND, recoveries=Recoveries(steps=5, **changes))
        found = stages_of(demand, SPEED)
        return {stage.name: (stage.evaluations, stage.images, stage.seconds) for stage in found}

    without, with_reserve = stages(trials=6), stages(trials=9, reserve=3)
    assert without == {name: of for name, of in with_reserve.items() if name != IN_RESERVE}
    assert with_reserve[IN_RESERVE] == tuple(n / 2 for n in without["joint plans, recovered"])


def test_the_chosen_plan_is_scored_on_more_images_with_its_recovery_than_without():
    demand = replace(DEMAND, recoveries=Recoveries(trials=1), unrecovered_images=400)
    chosen = {stage.name: stage for stage in stages_of(demand, SPEED)}["the chosen plan"]
    # 32 images for batch statistics, 1,000 or 400 with features, and the score
    assert (chosen.evaluations, chosen.images) == (2, 1400)
    assert chosen.seconds == 2 * 32 + 1400 * 1.5 + 2 * 10


def test_what_is_delivered_is_timed_at_the_batches_that_the_command_times() -> None:
    demand = replace(DEMAND, recoveries=Recoveries(trials=1), delivers=True)
    *_, last = stages_of(demand, SPEED)
    # Of a second an image at batches of 1 and 2, for two networks: 20 runs, and in five processes
    # 10 seconds to warm up.
    assert (last.name, last.seconds) == ("exporting and timing", 2 * (20 + 50) + 2 * (40 + 50))
    assert last.on(8) == last.seconds
    assert stages_of(replace(demand, delivers=False), SPEED) == stages_of(demand, SPEED)[:-1]


def test_layers_are_timed_where_the_objective_wants_their_times() -> None:
    names = [stage.name for stage in stages_of(replace(DEMAND, timed=30), SPEED)]
    assert names[0] == "timing layers"
    assert "timing layers" not in [stage.name for stage in stages_of(DEMAND, SPEED)]


def test_a_dry_run_writes_nothing_and_counts_at_least_what_the_run_does(
    call: Call,
    checkpoint: Path,
    statistics: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (checkpoint, "--reference", statistics, *QUICK, "--run-dir", tmp_path / "run")
    code, out, err = call(main, SweepConfig, *arguments, "--dry-run")
    assert code == 0, err
    assert list(tmp_path.iterdir()) == []
    found = dict(re.findall(r"^(\D+?) +(\d+) ", out, re.MULTILINE))
    assert call(main, SweepConfig, *arguments)[0] == 0
    journal = (tmp_path / "run" / "journal.jsonl").read_text()
    stages = Counter(re.findall(r'"stage": "(\w+)"', journal))
    assert stages["proxy"] <= int(found["movement of images"])
    assert stages["single"] == int(found["one layer at a time"])


def test_statistics_and_the_choice_of_methods_are_counted():
    stages = {stage.name: stage for stage in stages_of(DEMAND, replace(SPEED, decomposition=2.0))}
    # 128 latents, 64 with two backward passes of twice the time, 16 to rank on, 32 for moments
    assert stages["statistics"].seconds == 128 + 64 * 5 + 16 + 32
    more = {stage.name: stage for stage in stages_of(replace(DEMAND, decomposed=7.0), SPEED)}
    assert more["ranking methods"].seconds == stages["ranking methods"].seconds == 16 * 3
    both = stages_of(replace(DEMAND, decomposed=7.0), replace(SPEED, decomposition=2.0))
    assert {s.name: s.seconds for s in both}["ranking methods"] == 16 * 3 + 14


def test_without_batch_normalisation_no_image_is_drawn_for_its_statistics():
    stages = {stage.name: stage for stage in stages_of(replace(DEMAND, moments=0), SPEED)}
    assert stages["one layer at a time"].seconds == 6 * (150 + 10)
    remembered = 32 + 2 / 4
    assert stages["movement of images"].seconds == 20 * (32 / 4 + 32 / 2) + remembered


class Two(nn.Module):
    """A layer of 3 x 64 x 64 multiply-adds an image after one of 64 x 64."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.maps = nn.Conv1d(64, 64, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.maps(self.first(z).unsqueeze(-1).expand(-1, -1, 3))


@pytest.mark.parametrize(
    ("choices", "share"),
    [({"first": 1}, 1.0), ({"maps": 1}, 0.75), ({"first": 1, "maps": 3}, 0.8125)],
)
def test_a_plan_of_one_layer_runs_what_comes_from_that_layer_on(choices, share):
    speed = replace(SPEED, shares={"first": 1.0, "maps": 0.75})
    assert share_of(replace(DEMAND, choices=choices), speed) == share


def test_the_share_of_a_layer_is_of_time_and_not_of_multiply_adds(tmp_path):
    ticks = 0

    class Wait(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal ticks
            ticks += 3
            return x

    class Net(nn.Sequential):
        latent_dim = 8

    linear, image = nn.Linear(8, 3 * 16 * 16), nn.Unflatten(1, (3, 16, 16))
    net = Net(nn.Linear(8, 8), Wait(), nn.Linear(8, 8), Wait(), linear, image)
    opened = OpenedGenerator(Checkpoint({}, {}), net, interface_of(net))
    config = SweepConfig(checkpoint=tmp_path, batch_size=4, sweep_samples=8)
    profile = profile_layers(net, torch.zeros(2, 8))
    speed = measure_speed(config, opened, profile, PixelFeatures(), clock=lambda: ticks)
    assert speed.shares == {"0": 1.0, "2": 0.5, "4": 0.0}
    assert speed.image == 6 / 4


def test_updates_are_those_of_the_checkpoint_and_its_settings(checkpoint):
    def speed(**settings):
        given = {"samples": 16, "sweep_samples": 8, "batch_size": 4, "recover_batch": 4, **settings}
        config = SearchConfig(checkpoint=checkpoint, **given)
        opened = open_generator(checkpoint, config)
        profile = profile_layers(opened.generator, latents_of(opened.interface, 2, 0))
        return measure_speed(config, opened, profile, PixelFeatures())

    assert speed(recover_steps=0, polish_steps=0).distilled == 0
    distilled = speed(recover_steps=5, polish_steps=0)
    assert distilled.distilled > 0 == distilled.tuned


def test_no_more_choices_of_a_layer_are_forecast_than_are_kept():
    torch.manual_seed(0)
    net, grid = Two(), RankGrid(("svd",), (0.9, 0.85, 0.5, 0.45, 0.2))
    latents = torch.randn(32, 64)
    layers = profile_layers(net, latents[:2]).layers
    kept = Counter(name for name, _ in competing_choices(net, layers, latents, {}, grid=grid))
    for layer in layers:
        # The error falls with the rank, so nothing but the cost rules a choice out.
        assert kept[layer.name] == choices_of(layer, grid, params_cost)
        assert choices_of(layer, grid, params_cost) < choices_of(layer, grid, None)


def test_larger_layers_take_longer_to_decompose():
    small, large = (
        profile_layers(nn.Sequential(nn.Linear(n, n)), torch.zeros(2, n)).layers[0] for n in (8, 16)
    )
    assert size_of(large, "svd") == 8 * size_of(small, "svd") == 3 * 16**3
