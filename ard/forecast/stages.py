"""The stages of a run: what each does, and how long it takes here and on workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ard.assembly.assembler import passes_of
from ard.assembly.prefix import N_TESTED
from ard.forecast.demand import Demand, Recoveries
from ard.forecast.speed import Speed
from ard.pipeline import N_RANKED
from ard.recovery.adversarial import FineTuning
from ard.recovery.distillation import N_FINITE, Recovery
from ard.report.delivery import batch_sizes, timing_seconds
from ard.session.search import N_PROXY, N_STATISTICS

# Choices that are measured because a plan relies on an estimate; see `ard.pipeline.find_plan`.
CONFIRMED = 8
# Scores of the states of one recovery: before and after each stage of the distillation, and while
# it is tuned.
CHECKS_DISTILLED, CHECKS_TUNED = 1 + Recovery.n_checks, FineTuning.n_checks
# The rounds of recovery that only near misses ask for.
IN_RESERVE = "more of them, after near misses"
# Seconds to write a layer's graph, to load it and to time it, in the visits of `edge_bench.layers`.
TIMING = 0.2


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


def stages_of(demand: Demand, speed: Speed) -> tuple[Stage, ...]:
    """The stages of a run.

    >>> speed = Speed(0.5, 0.5, lambda n: 2.0, {"conv": 0.5})
    >>> demand = Demand(choices={"conv": 10}, anchors=3, sweep_images=4, images=8, moments=0,
    ...                 unrecovered_images=4, reference_images=0, ranked=3.0, decomposed=0.0)
    >>> [(s.name, s.evaluations, s.images) for s in stages_of(demand, speed) if s.spread]
    [('movement of images', 10, 353), ('one layer at a time', 4, 16)]
    """
    return tuple(_stages(demand, speed))


def _stages(demand: Demand, speed: Speed) -> Iterator[Stage]:
    trials = demand.recoveries.trials
    if demand.timed:
        yield Stage("timing layers", 0, 0, demand.timed * TIMING, spread=False)
    dense = demand.reference_images + demand.sweep_images
    if trials:
        dense += 2 * demand.images
    if demand.anchors:
        dense += N_PROXY
    yield Stage("dense scores", 3 if trials else 1, dense, dense * speed.scored_image, spread=False)
    passes = passes_of(N_STATISTICS) + N_RANKED + demand.moments
    yield Stage("statistics", 0, passes, passes * speed.image, spread=False)
    ranking = N_RANKED * demand.ranked * speed.image + demand.decomposed * speed.decomposition
    yield Stage("ranking methods", 0, 0, ranking, spread=False)
    share, tested = share_of(demand, speed), _tested(demand, speed)
    single = demand.n_choices
    if demand.anchors:
        # Of the dense generator is remembered what comes before each layer, here and for the batch
        # statistics.
        # With batch normalisation, the images that correct the statistics are looked at.
        parts = 1 if demand.moments else demand.proxy_parts
        remembered = N_PROXY + parts * tested
        moved = N_PROXY * (share * speed.image + speed.features)
        yield Stage(
            *("movement of images", single, single * N_PROXY + round(remembered)),
            single * moved + remembered * speed.image,
        )
        single = min(single, demand.anchors + (CONFIRMED if trials else 0))
    single += 1  # the dense generator itself
    yield Stage(
        *("one layer at a time", single, single * demand.sweep_images),
        single * speed.evaluation(demand.sweep_images, demand.moments * share),
    )
    if not trials:
        return
    scored = speed.evaluation(demand.images, demand.moments)
    images, seconds = recovery_of(demand.recoveries, speed)
    reserve = demand.recoveries.reserve
    for name, n in (("joint plans, recovered", trials - reserve), (IN_RESERVE, reserve)):
        if n:
            yield Stage(name, n, n * (demand.images + images), n * (scored + seconds))
    # The chosen plan on held-out latents, and before its recovery.
    before = speed.evaluation(demand.unrecovered_images, demand.moments)
    both = demand.images + demand.unrecovered_images
    yield Stage("the chosen plan", 2, both, scored + before, spread=False)
    if demand.delivers:
        # The dense generator and the compressed one, which is no slower.
        timing = sum(2 * timing_seconds(n * speed.image) for n in batch_sizes(speed.image))
        yield Stage("exporting and timing", 0, 0, timing, spread=False)


def recovery_of(recoveries: Recoveries, speed: Speed) -> tuple[int, float]:
    """The images that the recovery of one plan compares states on, and all its seconds."""
    checks = CHECKS_DISTILLED * recoveries.stages if recoveries.steps else 0
    checks += CHECKS_TUNED if recoveries.tuning else 0
    images = checks * recoveries.check_images
    seconds = images * speed.scored_image + checks * speed.score(recoveries.check_images)
    seconds += recoveries.steps * speed.distilled + recoveries.tuning * speed.tuned
    if recoveries.steps:
        seconds += recoveries.stages * N_FINITE * speed.image
    return images, seconds


def share_of(demand: Demand, speed: Speed) -> float:
    """The share of an image's time from a choice's layer on, on average over the choices."""
    runs = sum(n * speed.shares.get(name, 1.0) for name, n in demand.choices.items())
    return runs / max(demand.n_choices, 1)


def _tested(demand: Demand, speed: Speed) -> float:
    """The images on which it is tested that each layer's prefix can be cut off."""
    return N_TESTED * sum(speed.shares.get(name, 1.0) for name, n in demand.choices.items() if n)
