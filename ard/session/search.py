"""What compress, sweep and pareto share: settings, evaluators, recovery, the record of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from ard.costs.cost import LayerCost, Quantity, make_cost, parse_weights
from ard.costs.latency_table import LatencyTable
from ard.costs.layer_times import TABLE, measure_layers
from ard.layers import LayerProfile, profile_layers
from ard.measuring.evaluate import FidEvaluator
from ard.measuring.journal import FileJournal
from ard.pipeline import Evaluators, Prepared, prepare
from ard.recovery.store import RecoveredStore
from ard.search.budget import FidBudget
from ard.search.proxy import MovementEvaluator, feature_error
from ard.session.config import SEEDS, SearchConfig, SweepConfig, check, multiple_of
from ard.session.record import open_journal, run_directory
from ard.session.recovering import discriminator_of, make_store, polish_steps, real_images
from ard.session.setting import Setting, load_setting, make_evaluator
from nas_gan.cli import progress

N_STATISTICS = 128  # latents behind activation covariances and everything fitted in closed form
N_PROXY = 32  # latents whose images may move
N_PICTURED = 24  # latents whose images are shown


def tell_remarks(console: Console, config: SearchConfig, search: Search, budget: FidBudget) -> None:
    """Print what a user should know before the search starts."""
    for line in remarks(config, search.setting, budget, search.fid_dense):
        console.print(line, highlight=False)
    if search.polished_with is not None:
        n_steps = polish_steps(config, search.setting)
        console.print(
            f"recovery: {config.recover_steps} updates of distillation, then {n_steps} against the "
            f"checkpoint's discriminator ({search.polished_with})",
            highlight=False,
        )


def remarks(
    config: SweepConfig, setting: Setting, budget: FidBudget, fid_dense: float
) -> Iterator[str]:
    """What the budget means here, and what about the settings is doubtful."""
    yield budget.explain(fid_dense, setting.extractor.name)
    if not setting.comparable and not budget.relative and fid_dense > 0:
        share = 100 * budget.absolute(fid_dense) / fid_dense
        yield (
            f"hint: a distance in {setting.extractor.name} features is on another scale than a "
            f"published FID; {budget.text} says the same here as --fid-budget {share:.3g}%"
        )
    enough = 2 * setting.extractor.dim
    if config.samples < enough:
        yield (
            f"hint: intervals from fewer than {enough} images (twice the features) are too "
            f"narrow; --samples is {config.samples}"
        )


def layer_cost(config: SweepConfig, setting: Setting, run_dir: Path) -> LayerCost:
    """The cost that the objective names; times that no table was given for are measured now."""
    weights: Mapping[Quantity, float] = parse_weights(config.weights) if config.weights else {}
    timed = config.objective == "latency" or "latency" in weights
    if not timed and config.objective != "mixed":
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
        measure_layers(
            layers,
            run_dir / "layers",
            path,
            methods=config.methods,
            fractions=config.fractions,
            multiple_of=multiple_of(config),
            batches=(config.latency_batch,),
            threads=torch.get_num_threads(),
        )
    return LatencyTable.read(path).at(config.latency_batch)


def single_evaluator(config: SweepConfig, setting: Setting) -> FidEvaluator:
    """The look at single layers, on a bank of its own."""
    seed = config.seed + SEEDS["single"]
    return make_evaluator(setting, config, n=config.sweep_samples, seed=seed)


def proxy_evaluator(config: SweepConfig, setting: Setting) -> MovementEvaluator | None:
    """How far a choice moves the features of a few images, unless every choice is scored."""
    if not config.anchors:
        return None
    latents = setting.latents(N_PROXY, config.seed + SEEDS["proxy"])
    measure = feature_error(
        setting.generator,
        latents,
        setting.extractor,
        batch_size=config.batch_size,
        device=config.device,
    )
    return MovementEvaluator(measure, N_PROXY, setting.extractor.name)


@dataclass(frozen=True)
class Search:
    """What a search for plans is made of, wired as its settings say.

    Attributes:
        setting: the checkpoint and how its quality is measured.
        run_dir: where the run is kept.
        journal: the record of its measurements.
        cost: what is to become small.
        evaluators: looks at single layers, at whole plans and at the end, each on its own latents.
        store: the recovery, remembered in the run directory.
        fid_dense: score of the dense generator on the latents of the last look.
        pictured: the first of those latents, on the device.
        seconds: what scoring the dense generator and timing its layers took.
        polished_with: what the polish takes for real images, where there is a polish.
    """

    setting: Setting
    run_dir: Path
    journal: FileJournal
    cost: LayerCost
    evaluators: Evaluators
    store: RecoveredStore
    fid_dense: float
    pictured: Tensor
    seconds: float
    polished_with: str | None = None


def open_search(config: SearchConfig) -> Search:
    """Everything that a search needs before its first measurement of a plan.

    Refuses what is wrong with the settings before anything is written or measured.
    """
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    setting = load_setting(config.checkpoint, config)
    discriminator = discriminator_of(config, setting)
    source, real = real_images(config, setting) if polish_steps(config, setting) else (None, None)
    run_dir = run_directory(config)
    journal = open_journal(config, setting, run_dir)
    started = time.monotonic()
    cost = layer_cost(config, setting, run_dir)
    with progress("scoring the dense generator", 3) as advance:
        single = single_evaluator(config, setting)
        advance(1)
        seeds = {name: config.seed + SEEDS[name] for name in ("joint", "final")}
        joint = make_evaluator(setting, config, n=config.samples, seed=seeds["joint"])
        advance(1)
        final = make_evaluator(
            setting, config, n=config.samples, seed=seeds["final"], bootstrap=True
        )
        advance(1)
    evaluators = Evaluators(
        single,
        joint,
        final,
        factorized=replace(final, bootstrap=False),
        proxy=proxy_evaluator(config, setting),
    )
    return Search(
        setting,
        run_dir,
        journal,
        cost,
        evaluators,
        make_store(config, setting, run_dir, single, discriminator, real),
        final.paired.fid_dense,
        final.latents[:N_PICTURED].to(config.device),
        time.monotonic() - started,
        source,
    )


def statistics_latents(config: SweepConfig, setting: Setting) -> Tensor:
    """The latents behind everything that is fitted in closed form."""
    return setting.latents(N_STATISTICS, config.seed + SEEDS["statistics"]).to(config.device)


def prepare_setting(config: SweepConfig, setting: Setting, cost: LayerCost) -> Prepared:
    """The generator taken apart as the settings say.

    Raises:
        NothingToFactorizeError: none of the methods makes any layer cheaper.
    """
    return prepare(
        setting.generator,
        statistics_latents(config, setting),
        cost=cost,
        methods=config.methods,
        fractions=config.fractions,
        multiple_of=multiple_of(config),
        fit=config.closed_form,
        progress=progress,
    )
