"""Building a search from its settings, for compress, pareto and sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ard.activation_sites import find_activations
from ard.assembly.assembler import N_MOMENTS
from ard.costs.cost import LayerCost
from ard.costs.latency_table import LatencyTable
from ard.costs.layer_times import TABLE, LayerTiming, measure_layers
from ard.costs.objectives import is_timed, make_cost, parse_weights
from ard.layers import Part, Profile, profile_layers
from ard.measuring.bank import DenseBank
from ard.measuring.metric import MetricEvaluator
from ard.pipeline import Evaluators, Run, Search
from ard.recovery.store import RecoveredStore
from ard.search.budget import SPREAD_SHARE, Budget, budget_of_spread
from ard.search.proxy import FeatureError, MovementEvaluator
from ard.session.config import (
    FRESH,
    SEEDS,
    SearchConfig,
    SweepConfig,
    check,
    effort_of,
    grid_of,
    settled,
)
from ard.session.record import open_journal, run_directory
from ard.session.recovering import Recovering, open_recovery
from ard.session.setting import (
    Setting,
    bank_of,
    load_setting,
    open_dense,
    samples_of,
    unrecovered_images,
)
from nas_gan.cli import progress
from nas_gan.devices import check_device
from nas_gan.metrics.doubts import few_for_a_distance
from nas_gan.metrics.frechet import FrechetReference
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.networks.latents import latents_of
from nas_gan.workers.executors import Executor
from nas_gan.workers.options import check_alike

N_STATISTICS = 128  # latents for activation covariances and all closed-form fits
# Latents for the proxy, the first of them: the images that correct the batch statistics of a choice
# are then those that show how far it moves. What is decided is the order of the choices, and the
# scores of the anchors, on latents of their own, say what a movement stands for.
N_PROXY = N_MOMENTS
N_CHECKED = 256  # images, at most, on which the states of one recovery are compared
N_PICTURED = 24  # latents whose images the report shows


@dataclass(frozen=True)
class Session:
    """One run of a command: the search, and what its report needs besides.

    Attributes:
        search: what is compressed, and how.
        setting: the checkpoint, and how its quality is scored.
        run_dir: the directory of the run.
        dense: the dense generator's score on the held-out latents.
        pictured: the first of those latents, `(n, latent_dim)` on the device.
        profile: the layers of the dense generator.
        recovering: the store of recovered generators, and how they are recovered, in words.
        seconds: the time spent on scoring the dense generator and timing its layers.
    """

    search: Search
    setting: Setting
    run_dir: Path
    dense: float
    pictured: Tensor
    profile: Profile
    recovering: Recovering
    seconds: float

    @property
    def store(self) -> RecoveredStore:
        """The recovered generators of the run directory."""
        return self.recovering.store


def open_session(config: SearchConfig, tell: Callable[[str], None], executor: Executor) -> Session:
    """Prepare everything that a search needs before it measures its first plan.

    Wrong settings raise before anything is written or measured. `tell` is called with what was
    found out about the generator, as soon as it is. `executor` runs the measurements.
    """
    config = settled(config)
    setting, profile = open_setting(config, tell)
    prepare_recovery = open_recovery(config, setting)
    run_dir = run_directory(config)
    journal = open_journal(config, setting, run_dir)
    started = time.monotonic()
    cost, profile = layer_cost(config, profile, run_dir)
    with progress("scoring the dense generator", 3) as advance:
        single = single_evaluator(config, setting)
        advance(1)
        evaluator = setting.metric.evaluator
        samples = samples_of(config, setting.metric, setting.extractor)
        joint = evaluator(bank_of(setting, config, samples, _seed(config, "joint")), False)
        advance(1)
        held_out = held_out_bank(config, setting, 0)
        final = evaluator(held_out, True)
        few = unrecovered_images(samples, setting.metric, setting.extractor)
        advance(1)
    recovering = prepare_recovery(run_dir, check_evaluator(config, setting, single))
    evaluators = Evaluators(
        single,
        joint,
        final,
        factorized=evaluator(held_out.first(few), False),
        proxy=proxy_evaluator(config, setting),
        fresh=lambda bank: evaluator(held_out_bank(config, setting, bank), True),
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
        run=Run(
            journal,
            executor,
            progress,
            trials_at_once=config.trials_at_once or executor.n_trainers,
        ),
    )
    return Session(
        search,
        setting,
        run_dir,
        final.dense_value,
        held_out.latents[:N_PICTURED].to(config.device),
        profile,
        recovering,
        time.monotonic() - started,
    )


@dataclass(frozen=True)
class Sweep:
    """A search that only measures single layers, by `single`, and what its report needs besides."""

    search: Search
    setting: Setting
    run_dir: Path
    single: MetricEvaluator
    profile: Profile


def open_sweep(config: SweepConfig, tell: Callable[[str], None], executor: Executor) -> Sweep:
    """Prepare everything that a sweep needs before it measures its first layer.

    `tell` is called with what was found out about the generator, as soon as it is. `executor` runs
    the measurements.
    """
    config = settled(config)
    setting, profile = open_setting(config, tell)
    run_dir = run_directory(config)
    cost, profile = layer_cost(config, profile, run_dir)
    single = single_evaluator(config, setting)
    search = Search(
        setting.generator,
        statistics_latents(config, setting),
        Evaluators(single, single, single, proxy=proxy_evaluator(config, setting)),
        cost=cost,
        grid=grid_of(config),
        fit=config.closed_form,
        effort=effort_of(config),
        run=Run(open_journal(config, setting, run_dir), executor, progress),
    )
    return Sweep(search, setting, run_dir, single, profile)


def open_setting(config: SweepConfig, tell: Callable[[str], None]) -> tuple[Setting, Profile]:
    """Check the settings, and load the checkpoint with everything that scores it.

    The generator is looked at first: what cannot be compressed is refused in seconds, before a
    reference is made.
    """
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    check_device(config.device)
    opened = open_dense(config.checkpoint, config)
    check_alike(config, opened.interface)
    profile = profile_of(config, opened.generator, opened.interface)
    for line in (*opened.remarks(), coverage_line(profile)):
        tell(line)
    run_dir = run_directory(config)
    return load_setting(opened, config, run_dir=run_dir, progress=progress), profile


def opening_lines(
    config: SweepConfig, session: Session, budgets: Sequence[Budget], option: str
) -> Iterator[str]:
    """Remarks for the user before a search starts; `option` is the option that set the budgets."""
    for budget in budgets:
        yield from remarks(config, session.setting, budget, session.dense, option)
    if session.recovering.description:
        yield session.recovering.description


def coverage_line(profile: Profile) -> str:
    """How much of the generator can be factorized at all; a warning if it is little."""
    coverage = profile.coverage
    return f"warning: {coverage.describe()}" if coverage.low else coverage.describe()


def profile_of(config: SweepConfig, generator: nn.Module, interface: GeneratorInterface) -> Profile:
    """The layers of the dense generator, and its slow activations if the objective counts time.

    Raises:
        NothingToFactorizeError: none of them can be factorized.
    """
    with torch.inference_mode():
        latents = latents_of(interface, 2, config.seed).to(config.device)
        profile = profile_layers(generator, latents)
        # A gate saves time and nothing else.
        if not (config.activations and is_timed(config.objective, parse_weights(config.weights))):
            return profile
        return replace(profile, activations=find_activations(generator, latents))


def remarks(
    config: SweepConfig, setting: Setting, budget: Budget, dense: float, option: str
) -> Iterator[str]:
    """What the budget means for this generator, and hints about doubtful settings.

    `dense` is the dense generator's score.
    """
    features = setting.extractor.name
    what = f"{setting.distance} in {features} features"
    yield budget.explain(dense, ", ".join(filter(None, (what, setting.metric.limit))))
    if (
        setting.reference.dense
        and budget.relative
        and isinstance(setting.reference.content, FrechetReference)
    ):
        spread = setting.reference.content.trace
        yield (
            "hint: the reference is of the same generator, so its distance is only what a finite "
            f"number of images adds, and {budget.text} of it is strict; of the spread of the "
            f"features, {spread:.3g}, {100 * SPREAD_SHARE:g} % would be {option} "
            f"{budget_of_spread(spread)}"
        )
    elif not (setting.comparable or setting.reference.dense or budget.relative) and dense > 0:
        share = 100 * budget.absolute(dense) / dense
        yield (
            f"hint: distances in {features} features are on a different scale from published "
            f"values; here {budget.text} is the same as {option} {share:.3g}%"
        )
    known = setting.reference.n_images
    if known is not None and not setting.reference.dense:
        for doubt in few_for_a_distance(known, setting.extractor.dim, "reference images"):
            yield f"hint: {doubt}"
    enough = setting.metric.enough_images(setting.extractor)
    samples = samples_of(config, setting.metric, setting.extractor)
    if samples < enough:
        worth = setting.metric.worth(setting.extractor, samples)
        yield (
            f"hint: with these features, {enough} images or more make a good interval; one from "
            f"{samples}, as in this run, {worth}"
        )


def layer_cost(config: SweepConfig, profile: Profile, run_dir: Path) -> tuple[LayerCost, Profile]:
    """The cost that the objective names; layer times are measured now if no table was given.

    The profile that comes with it lacks the activations that the table does not know.
    """
    weights = parse_weights(config.weights)
    timed = is_timed(config.objective, weights)
    if not timed and not weights:
        return make_cost(config.objective), profile
    table = None
    if timed:
        table = _latency_table(config, profile.parts, run_dir)
        profile = replace(profile, activations=tuple(filter(table.prices, profile.activations)))
    cost = make_cost(config.objective, table=table, weights=weights, layers=profile.parts)
    return cost, profile


def _latency_table(config: SweepConfig, parts: tuple[Part, ...], run_dir: Path) -> LatencyTable:
    path = config.latency_table
    if path is None:
        path = run_dir / TABLE
        timing = LayerTiming(batches=(config.latency_batch,), threads=torch.get_num_threads())
        measure_layers(parts, grid_of(config), run_dir / "layers", path, timing, progress)
    return LatencyTable.read(path).at(config.latency_batch)


def single_evaluator(config: SweepConfig, setting: Setting) -> MetricEvaluator:
    """The evaluator of single layers, on its own bank of latents."""
    bank = bank_of(setting, config, config.sweep_samples, _seed(config, "single"))
    return setting.metric.evaluator(bank, False)


def check_evaluator(
    config: SweepConfig, setting: Setting, single: MetricEvaluator
) -> MetricEvaluator:
    """What chooses the best state within a recovery: `single`, on fewer of its images if many."""
    if config.sweep_samples <= N_CHECKED:
        return single
    bank = bank_of(setting, config, N_CHECKED, _seed(config, "single"))
    return setting.metric.evaluator(bank, False)


def held_out_bank(config: SweepConfig, setting: Setting, number: int) -> DenseBank:
    """The bank of held-out latents of this number; each tests one plan."""
    seed = _seed(config, "final") + FRESH * number
    samples = samples_of(config, setting.metric, setting.extractor)
    return bank_of(setting, config, samples, seed, "held_out")


def proxy_evaluator(config: SweepConfig, setting: Setting) -> MovementEvaluator | None:
    """The proxy: how far a choice moves the features of a few images. None if all are scored."""
    if not config.anchors:
        return None
    measure = FeatureError(
        setting.generator,
        statistics_latents(config, setting)[:N_PROXY],
        setting.extractor,
        batch_size=setting.batch_size,
        device=config.device,
    )
    return MovementEvaluator(measure, N_PROXY, setting.extractor.name)


def statistics_latents(config: SweepConfig, setting: Setting) -> Tensor:
    """The latents for activation statistics and closed-form fits, `(n, latent_dim)`."""
    return setting.latents(N_STATISTICS, _seed(config, "statistics")).to(config.device)


def _seed(config: SweepConfig, stream: str) -> int:
    return config.seed + SEEDS[stream]
