"""When a runner is called, and how long each call takes. The clock is passed in."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError
from edge_bench.inputs import Feed
from edge_bench.statistics import is_settled


class Infer(Protocol):
    """What is timed: a call that takes a feed and returns finished images."""

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]: ...


Clock = Callable[[], int]
"""Nanoseconds since some fixed moment, never decreasing, such as `time.perf_counter_ns`."""


@dataclass(frozen=True)
class TimingPlan:
    """How much to measure, per batch size.

    Rounds continue until every model has `runs` timed runs and the batch size has taken
    `duration_s` seconds per model on average, or until a model has `max_runs` runs.
    """

    runs: int = 200
    warmup: int = 20
    duration_s: float = 3.0
    block: int = 10
    max_runs: int = 20_000
    min_warmup_s: float = 0.2
    max_warmup_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("runs", "block", "max_runs"):
            if getattr(self, name) < 1:
                raise InvalidValueError(
                    f"must be at least 1; got {getattr(self, name)}", setting=name
                )
        if self.warmup < 0:
            raise InvalidValueError(f"must not be negative; got {self.warmup}", setting="warmup")
        for name in ("duration_s", "min_warmup_s", "max_warmup_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InvalidValueError(
                    f"{name} must be a number of seconds, 0 or more; got {getattr(self, name)}"
                )


@dataclass(frozen=True)
class Timing:
    """The times of one runner at one batch size, `(rounds, block)`, in the order of measurement."""

    runner: int
    batch: int
    times_ns: NDArray[np.int64]
    warmup_runs: int
    settled: bool


def measure(
    runners: Sequence[Infer],
    feeds: Sequence[Feed],
    batches: Sequence[int],
    clock: Clock,
    plan: TimingPlan,
    advance: Callable[[float], None] = lambda fraction: None,
) -> tuple[Timing, ...]:
    """Time every runner at every batch size, the runners interleaved.

    At each batch size all runners warm up and then take turns in blocks of a few runs. A round is
    one block of each runner, and every round begins with another runner. Whatever drifts (clocks,
    heat, other programs) then affects all of them alike.

    Args:
        runners: what is timed.
        feeds: `feeds[i]` is what runner i is fed, with at least `max(batches)` rows.
        batches: batch sizes.
        clock: nanoseconds since a fixed moment.
        plan: how much to measure.
        advance: called with the finished fraction, 0 to 1.

    Returns:
        One `Timing` per runner and batch size: batch by batch, in the order of `runners`.
    """
    timings: list[Timing] = []
    for done, batch in enumerate(batches):
        inputs = [first_rows(feed, batch) for feed in feeds]

        def advance_within(fraction: float, done: int = done) -> None:
            advance((done + fraction) / len(batches))

        advance_within(0.0)
        with _no_garbage_collection():
            warm = [
                _warm_up(runner, x, clock, plan) for runner, x in zip(runners, inputs, strict=True)
            ]
            rounds = _take_turns(runners, inputs, clock, plan, advance_within)
        for index, (warmup_runs, settled) in enumerate(warm):
            times = np.array([blocks[index] for blocks in rounds], dtype=np.int64)
            timings.append(Timing(index, batch, times, warmup_runs, settled))
    return tuple(timings)


def first_rows(feed: Feed, n: int) -> Feed:
    """The feed of the first `n` images."""
    return tuple(array[:n] for array in feed)


def run_for(runner: Infer, feed: Feed, clock: Clock, duration_s: float) -> tuple[int, float]:
    """Call `runner` without pause for `duration_s`; the number of images, and the seconds taken."""
    calls = 0
    start = clock()
    while True:
        runner.infer(*feed)
        calls += 1
        elapsed = clock() - start
        if elapsed >= duration_s * 1e9:
            return calls * len(feed[0]), elapsed / 1e9


def _warm_up(runner: Infer, x: Feed, clock: Clock, plan: TimingPlan) -> tuple[int, bool]:
    """Run until the times settle; how many runs that took, and whether they did settle.

    It takes at least `warmup` runs and `min_warmup_s` seconds, since clocks need a moment to ramp
    up, and ends after `max_warmup_s` seconds once `warmup` runs are done. Zero `warmup` runs mean
    no warm-up at all.
    """
    times: list[float] = []
    start = clock()
    while plan.warmup > 0:
        times.append(_time(runner, x, clock))
        elapsed_s = (clock() - start) / 1e9
        settled = is_settled(times) and elapsed_s >= plan.min_warmup_s
        if len(times) >= plan.warmup and (settled or elapsed_s >= plan.max_warmup_s):
            return len(times), settled
    return 0, False


def _take_turns(
    runners: Sequence[Infer],
    inputs: Sequence[Feed],
    clock: Clock,
    plan: TimingPlan,
    advance: Callable[[float], None],
) -> list[list[list[int]]]:
    """Rounds of one block per runner: `rounds[r][i]` holds the times of runner i in round r."""
    rounds: list[list[list[int]]] = []
    block = min(plan.block, plan.runs)
    budget_ns = plan.duration_s * 1e9 * len(runners)
    start = clock()
    while True:
        blocks: list[list[int]] = [[] for _ in runners]
        for turn in range(len(runners)):
            index = (turn + len(rounds)) % len(runners)
            runner, x = runners[index], inputs[index]
            if len(runners) > 1:
                # The caches hold the other model's weights. This untimed run pays for the switch,
                # which does not occur on a device that serves one model.
                runner.infer(*x)
            blocks[index] = [_time(runner, x, clock) for _ in range(block)]
        rounds.append(blocks)
        runs, elapsed = len(rounds) * block, clock() - start
        enough_time = elapsed >= budget_ns or runs >= plan.max_runs
        if runs >= plan.runs and enough_time:
            advance(1.0)
            return rounds
        of_time = min(elapsed / budget_ns, 1.0) if budget_ns else 1.0
        advance(min(runs / plan.runs, of_time))


def _time(runner: Infer, x: Feed, clock: Clock) -> int:
    start = clock()
    runner.infer(*x)
    return clock() - start


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector from running inside a timed call, as `timeit` does."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
