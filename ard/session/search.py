"""A search as its settings say: one value that compress and pareto build alike and hand on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ard.costs.cost import LayerCost
from ard.costs.latency_table import LatencyTable
from ard.costs.layer_times import TABLE, LayerTiming, measure_layers
from ard.costs.objectives import is_timed, make_cost, parse_weights
from ard.layers import LayerProfile, profile_layers
from ard.measuring.metric import MetricEvaluator
from ard.pipeline import Evaluators, Run, Search
from ard.recovery.store import RecoveredStore
from ard.search.budget import Budget
from ard.search.proxy import MovementEvaluator, feature_error
from ard.session.config import (
    SEEDS,
    SearchConfig,
    SweepConfig,
    check,
    effort_of,
    grid_of,
)
from ard.session.record import open_journal, run_directory
from ard.session.recovering import Recovering, open_recovery
from ard.session.setting import Setting, bank_of, load_setting
from nas_gan.cli import progress

N_STATISTICS = 128  # latents behind activation covariances and everything fitted in closed form
N_PROXY = 32  # latents whose images may move
N_PICTURED = 24  # latents whose images are shown


@dataclass(frozen=True)
class Session:
    """One run of a command: the search, and what is needed to speak of it.

    Attributes:
        search: what is compressed, and how.
        setting: the checkpoint and how its quality is scored.
        run_dir: where the run is kept.
        dense: the dense generator's score on the latents of the last look.
        pictured: the first of those latents, on the device.
        recovering: how plans are recovered, in words, and the store that keeps them.
        seconds: what scoring the dense generator and timing its layers took.
    """

    search: Search
    setting: Setting
    run_dir: Path
    dense: float
    pictured: Tensor
    recovering: Recovering
    seconds: float

    @property
    def store(self) -> RecoveredStore:
        """The recovered generators of the run directory."""
        return self.recovering.store


def open_session(config: SearchConfig) -> Session:
    """Everything that a search needs before its first measurement of a plan.

    Refuses what is wrong with the settings before anything is written or measured.
    """
    setting = open_setting(config)
    prepare_recovery = open_recovery(config, setting)
    run_dir = run_directory(config)
    journal = open_journal(config, setting, run_dir)
    started = time.monotonic()
    cost = layer_cost(config, setting, run_dir)
    with progress("scoring the dense generator", 3) as advance:
        single = single_evaluator(config, setting)
        advance(1)
        evaluator = setting.metric.evaluator
        joint = evaluator(bank_of(setting, config, config.samples, _seed(config, "joint")), False)
        advance(1)
        held_out = bank_of(setting, config, config.samples, _seed(config, "final"))
        final = evaluator(held_out, True)
        advance(1)
    recovering = prepare_recovery(run_dir, single)
    evaluators = Evaluators(
        single,
        joint,
        final,
        factorized=evaluator(held_out, False),
        proxy=proxy_evaluator(config, setting),
    )
    search = Search(
        setting.generator,
        statistics_latents(config, setting),
        evaluators,
        cost=cost,
        recover=recovering.store,
        grid=grid_of(config),
        fit=config.closed_form,
        effort=effort_of(config),
        run=Run(journal, progress=progress),
    )
    return Session(
        search,
        setting,
        run_dir,
        final.dense_value,
        held_out.latents[:N_PICTURED].to(config.device),
        recovering,
        time.monotonic() - started,
    )


def open_sweep(config: SweepConfig) -> tuple[Search, Setting, Path, MetricEvaluator]:
    """A search of single layers alone; its setting, its directory, and its evaluator."""
    setting = open_setting(config)
    run_dir = run_directory(config)
    cost = layer_cost(config, setting, run_dir)
    single = single_evaluator(config, setting)
    search = Search(
        setting.generator,
        statistics_latents(config, setting),
        Evaluators(single, single, single, proxy=proxy_evaluator(config, setting)),
        cost=cost,
        grid=grid_of(config),
        fit=config.closed_form,
        effort=effort_of(config),
        run=Run(open_journal(config, setting, run_dir), progress=progress),
    )
    return search, setting, run_dir, single


def open_setting(config: SweepConfig) -> Setting:
    """The checkpoint and its scoring, once the settings are found sensible."""
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    return load_setting(config.checkpoint, config)


def opening_lines(
    config: SweepConfig, session: Session, budget: Budget, option: str
) -> Iterator[str]:
    """What a user should know before a search starts; `option` is how the budget was given."""
    yield from remarks(config, session.setting, budget, session.dense, option)
    if session.recovering.description:
        yield session.recovering.description


def remarks(
    config: SweepConfig, setting: Setting, budget: Budget, dense: float, option: str
) -> Iterator[str]:
    """What the budget means here, and what about the settings is doubtful.

    `dense` is the dense generator's score.
    """
    features = setting.extractor.name
    yield budget.explain(dense, f"{setting.distance} in {features} features")
    if not setting.comparable and not budget.relative and dense > 0:
        share = 100 * budget.absolute(dense) / dense
        yield (
            f"hint: distances in {features} features have another scale than published values; "
            f"{budget.text} is the same here as {option} {share:.3g}%"
        )
    enough = setting.metric.enough_images(setting.extractor)
    if config.samples < enough:
        yield (
            f"hint: intervals from fewer than {enough} images are too narrow in these features; "
            f"--samples is {config.samples}"
        )


def layer_cost(config: SweepConfig, setting: Setting, run_dir: Path) -> LayerCost:
    """The cost that the objective names; times that no table was given for are measured now."""
    weights = parse_weights(config.weights)
    timed = is_timed(config.objective, weights)
    if not timed and not weights:
        return make_cost(config.objective)
    with torch.inference_mode():
        latents = setting.latents(2, config.seed).to(config.device)
        layers = profile_layers(setting.generator, latents).layers
    table = _latency_table(config, layers, run_dir) if timed else None
    return make_cost(config.objective, table=table, weights=weights, layers=layers)


def _latency_table(
    config: SweepConfig, layers: tuple[LayerProfile, ...], run_dir: Path
) -> LatencyTable:
    path = config.latency_table
    if path is None:
        path = run_dir / TABLE
        timing = LayerTiming(batches=(config.latency_batch,), threads=torch.get_num_threads())
        measure_layers(layers, grid_of(config), run_dir / "layers", path, timing, progress)
    return LatencyTable.read(path).at(config.latency_batch)


def single_evaluator(config: SweepConfig, setting: Setting) -> MetricEvaluator:
    """The look at single layers, on a bank of its own."""
    bank = bank_of(setting, config, config.sweep_samples, _seed(config, "single"))
    return setting.metric.evaluator(bank, False)


def proxy_evaluator(config: SweepConfig, setting: Setting) -> MovementEvaluator | None:
    """How far a choice moves the features of a few images, unless every choice is scored."""
    if not config.anchors:
        return None
    measure = feature_error(
        setting.generator,
        setting.latents(N_PROXY, _seed(config, "proxy")),
        setting.extractor,
        batch_size=config.batch_size,
        device=config.device,
    )
    return MovementEvaluator(measure, N_PROXY, setting.extractor.name)


def statistics_latents(config: SweepConfig, setting: Setting) -> Tensor:
    """The latents behind everything that is fitted in closed form."""
    return setting.latents(N_STATISTICS, _seed(config, "statistics")).to(config.device)


def _seed(config: SweepConfig, stream: str) -> int:
    return config.seed + SEEDS[stream]
