"""What a run will take, before it starts: evaluations, seconds and bytes, here and on workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ard.assembly.assembler import N_MOMENTS
from ard.costs.cost import params_cost
from ard.inspection import CONFIRMED, PASSES_PER_UPDATE
from ard.layers import Profile
from ard.measuring.metrics import metric_named
from ard.pipeline import worthwhile_layers
from ard.session.config import SearchConfig, SweepConfig, check, grid_of, settled
from ard.session.search import N_PROXY, profile_of
from ard.session.setting import samples_of, wanted_reference
from nas_gan.devices import check_device
from nas_gan.generators import OpenedGenerator, open_generator
from nas_gan.metrics.features import FeatureExtractor, make_extractor
from nas_gan.metrics.frechet import FrechetReference, PairedFid, statistics_of
from nas_gan.metrics.protocol import to_uint8
from nas_gan.networks.latents import latents_of
from nas_gan.tables import text_table

Result = TypeVar("Result")
# Batches that are timed, after a few images to warm up. The faster one counts.
N_BATCHES = 2
# A line of the journal, and what a report with its figures takes at least.
LINE_BYTES, REPORT_BYTES = 350, 2_000_000
# Workers that are shown if none are asked for.
SHOWN_WORKERS = (4, 16)


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine.

    Attributes:
        image: to draw an image.
        features: to take its features.
        score: by number of images, to compute a score from features.
    """

    image: float
    features: float
    score: Callable[[int], float]

    def evaluation(self, n: int) -> float:
        """Seconds to build a plan and to score `n` images of it."""
        return N_MOMENTS * self.image + n * (self.image + self.features) + self.score(n)


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: the name that its progress bar has, as far as it has one.
        evaluations: how many plans are scored, at most.
        images: how many images that takes in all.
        seconds: what it takes in one process.
        spread: whether workers share it; each takes whole evaluations.
    """

    name: str
    evaluations: int
    images: int
    seconds: float
    spread: bool = True

    def on(self, n_workers: int) -> float:
        """Seconds on so many workers of this machine's speed."""
        if not (self.spread and self.evaluations):
            return self.seconds
        rounds = math.ceil(self.evaluations / n_workers)
        return self.seconds * rounds / self.evaluations


@dataclass(frozen=True)
class Demand:
    """How much a run does, counted from its settings.

    Attributes:
        choices: single-layer choices, at most.
        anchors: those that are scored; the others are estimated.
        sweep_images: images of the score of one of them.
        trials: whole plans.
        images: images of the score of one of those.
        reference_images: images of the dense generator that are the reference; 0 if there is one.
        updates: updates of the recovery of one whole plan.
        update_images: images in an update.
    """

    choices: int
    anchors: int
    sweep_images: int
    trials: int
    images: int
    reference_images: int
    updates: int
    update_images: int


def stages_of(demand: Demand, speed: Speed) -> tuple[Stage, ...]:
    """The stages of a run; choosing the methods of a layer is not counted.

    >>> speed = Speed(0.5, 0.5, lambda n: 2.0)
    >>> demand = Demand(choices=10, anchors=3, sweep_images=4, trials=0, images=8,
    ...                 reference_images=0, updates=0, update_images=0)
    >>> [(s.name, s.evaluations, s.images) for s in stages_of(demand, speed)]
    [('dense scores', 1, 4), ('movement of images', 10, 320), ('one layer at a time', 4, 16)]
    """
    dense_images = demand.reference_images + demand.sweep_images
    if demand.trials:
        dense_images += 2 * demand.images
    per_image = speed.image + speed.features
    dense_evaluations = 3 if demand.trials else 1
    stages = [Stage("dense scores", dense_evaluations, dense_images, dense_images * per_image,
                    spread=False)]  # fmt: skip
    single = demand.choices
    if demand.anchors:
        moved = N_MOMENTS * speed.image + N_PROXY * per_image
        images = demand.choices * N_PROXY
        stages.append(Stage("movement of images", demand.choices, images, demand.choices * moved))
        confirmed = CONFIRMED if demand.trials else 0
        single = min(demand.choices, demand.anchors + confirmed)
    single += 1  # the dense generator itself
    stages.append(
        Stage(
            *("one layer at a time", single, single * demand.sweep_images),
            single * speed.evaluation(demand.sweep_images),
        )
    )
    if demand.trials:
        update = demand.update_images * PASSES_PER_UPDATE * speed.image
        checks = 5 * demand.sweep_images if demand.updates else 0
        recovery = demand.updates * update + checks * per_image
        stages.append(
            Stage(
                *("joint plans, recovered", demand.trials),
                demand.trials * (demand.images + checks),
                demand.trials * (recovery + speed.evaluation(demand.images)),
            )
        )
        # The chosen plan on held-out latents, and before its recovery.
        stages.append(
            Stage(
                "the chosen plan",
                2,
                2 * demand.images,
                2 * speed.evaluation(demand.images),
                spread=False,
            )
        )
    return tuple(stages)


def demand_of(
    config: SweepConfig,
    opened: OpenedGenerator,
    profile: Profile,
    extractor: FeatureExtractor,
    n_budgets: int,
) -> Demand:
    """Count what the settings ask for, at most."""
    metric = metric_named(config.metric)
    layers, _ = worthwhile_layers(profile, params_cost)
    grid = grid_of(config)
    samples = samples_of(config, metric, extractor)
    wanted = wanted_reference(config.reference, opened.checkpoint.provenance.get("dataset"))
    trials = updates = batch = 0
    if isinstance(config, SearchConfig):
        trials, batch = config.max_trials * n_budgets, config.recover_batch
        polish = config.recover_steps if config.polish_steps is None else config.polish_steps
        holds = opened.checkpoint.holds_discriminator or config.polish_steps is not None
        updates = config.recover_steps + (polish if holds else 0)
    return Demand(
        choices=sum(len(list(grid.choices(layer))) for layer in layers),
        anchors=config.anchors,
        sweep_images=config.sweep_samples,
        trials=trials,
        images=samples,
        reference_images=max(samples, 2 * extractor.dim) if wanted == "dense" else 0,
        updates=updates,
        update_images=batch,
    )


def measure_speed(
    config: SweepConfig,
    opened: OpenedGenerator,
    extractor: FeatureExtractor,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time two batches of the size that the run will have, and a score of so many features."""
    batches = latents_of(opened.interface, N_BATCHES * config.batch_size, seed=0)

    def timed(call: Callable[[], Result]) -> tuple[float, Result]:
        started = clock()
        result = call()
        return clock() - started, result

    def draw(rows: Tensor) -> Tensor:
        images = opened.generator(rows.to(config.device)).float()
        return to_uint8(images).cpu().expand(-1, 3, -1, -1)

    drawing, looking, rows_found = [], [], []
    with torch.inference_mode():
        extractor(draw(batches[:2]))
        for rows in batches.split(config.batch_size):
            seconds, pixels = timed(partial(draw, rows))
            drawing.append(seconds / len(rows))
            seconds, features = timed(partial(extractor, pixels))
            looking.append(seconds / len(rows))
            rows_found.append(features)
    found = np.concatenate(rows_found)
    scores = _time_scores(config, extractor, found, clock) if config.metric == "fid" else {}
    return Speed(min(drawing), min(looking), lambda n: scores.get(n, 0.0))


def _time_scores(
    config: SweepConfig,
    extractor: FeatureExtractor,
    found: npt.NDArray[np.float32],
    clock: Callable[[], float],
) -> dict[int, float]:
    """Seconds of a Fréchet distance by number of images; features near known ones take as long."""
    rng = np.random.default_rng(0)
    counts = {config.sweep_samples}
    if isinstance(config, SearchConfig):
        counts.add(samples_of(config, metric_named(config.metric), extractor))

    def features(n: int) -> npt.NDArray[np.float32]:
        noise = rng.standard_normal((n, extractor.dim), np.float32)
        return found[rng.integers(len(found), size=n)] + np.float32(0.1) * noise

    seconds = {}
    reference = FrechetReference(statistics_of(found))
    for n in sorted(counts):
        paired, other = PairedFid(reference, features(n)), features(n)
        started = clock()
        paired.compare(other, careful=False)
        seconds[n] = clock() - started
    return seconds


@dataclass(frozen=True)
class Bytes:
    """What a run writes at most, and what it holds in memory beside the networks' activations."""

    disk: int
    memory: int


def bytes_of(demand: Demand, stages: Sequence[Stage], profile: Profile, dim: int) -> Bytes:
    """Bytes of a run.

    Recovered generators lie on the disk until the end, each smaller than the dense one. The
    features of the banks of latents, float32, stay in memory.
    """
    weights = 4 * profile.total_params
    lines = LINE_BYTES * sum(stage.evaluations for stage in stages)
    kept = (demand.trials + 2) * weights + REPORT_BYTES if demand.trials else 0
    rows = demand.sweep_images + (2 * demand.images if demand.trials else 0)
    return Bytes(lines + kept, 4 * rows * dim + weights * (2 if demand.trials else 1))


def forecast(config: SweepConfig, n_budgets: int = 1) -> Iterator[str]:
    """What the command would take with these settings, in lines; nothing is written.

    Args:
        config: the settings.
        n_budgets: under how many budgets whole plans are searched for.
    """
    check(config)
    config = settled(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    check_device(config.device)
    opened = open_generator(config.checkpoint, config, device=config.device)
    profile = profile_of(config, opened.generator, opened.interface)
    extractor = make_extractor(
        config.features,
        inception_weights=config.inception_weights,
        device=config.device,
        threads=config.threads,
    )
    demand = demand_of(config, opened, profile, extractor, n_budgets)
    speed = measure_speed(config, opened, extractor)
    yield from forecast_lines(demand, speed, profile, extractor.dim, config.workers)


def forecast_lines(
    demand: Demand, speed: Speed, profile: Profile, dim: int, n_workers: int | None
) -> Iterator[str]:
    """The forecast as a table and two lines; `n_workers` are shown, or a few numbers of them."""
    stages = stages_of(demand, speed)
    counts = (1, *SHOWN_WORKERS) if n_workers is None else tuple(dict.fromkeys((1, n_workers)))
    rows = [
        (
            *(stage.name, f"{stage.evaluations:,}", f"{stage.images:,}"),
            *(f"{stage.on(n):,.1f}" for n in counts),
        )
        for stage in stages
    ]
    rows.append(
        (
            "in all, at most",
            f"{sum(stage.evaluations for stage in stages):,}",
            f"{sum(stage.images for stage in stages):,}",
            *(f"{sum(stage.on(n) for stage in stages):,.1f}" for n in counts),
        )
    )
    heads = [f"s on {n} worker{'s' if n > 1 else ''}" for n in counts]
    yield text_table(("stage", "evaluations", "images", *heads), rows)
    found = bytes_of(demand, stages, profile, dim)
    yield (
        f"at most {found.disk / 1e6:,.1f} MB on the disk; {found.memory / 1e6:,.1f} MB of features "
        "and weights in memory, and as much for each worker"
    )
    yield (
        f"from {N_BATCHES} batches on this machine as it is now: {1000 * speed.image:.3g} ms to "
        f"draw an image, {1000 * speed.features:.3g} ms for its features; choosing the methods of "
        "each layer, the report and the bundle are not counted"
    )
