"""The schedule of a benchmark: when each runner is called, and how long each call takes."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError
from edge_bench.inputs import Feed
from edge_bench.statistics import is_settled


class Infer(Protocol):
    """What is timed: a call that takes a feed and returns once the images are complete."""

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]: ...


Clock = Callable[[], int]
"""Nanoseconds since a fixed moment, never decreasing, such as `time.perf_counter_ns`."""


@dataclass(frozen=True)
class TimingPlan:
    """How much to measure at each batch size.

    The models take turns in rounds. Rounds continue until every model has `runs` timed runs and the
    batch size has taken `duration_s` seconds per model on average, or until a model has `max_runs`
    runs. Several processes share the runs and the seconds.

    Attributes:
        runs: Minimum number of timed runs of each model.
        warmup: Minimum number of untimed runs before them; 0 means no warm-up.
        duration_s: Minimum time per model in seconds, on average.
        block: Number of consecutive runs of a model in one round.
        max_runs: Number of runs at which a model stops, whatever `duration_s` is.
        min_warmup_s: Minimum duration of the warm-up in seconds.
        max_warmup_s: Duration in seconds after which the warm-up ends, even if the times have not
            settled.
        repeats: Number of fresh processes that measure, one after the other; 1 means this process.

    Raises:
        InvalidValueError: A number of runs or seconds is out of range.
    """

    runs: int = 200
    warmup: int = 20
    duration_s: float = 3.0
    block: int = 10
    max_runs: int = 20_000
    min_warmup_s: float = 0.2
    max_warmup_s: float = 10.0
    repeats: int = 5

    def __post_init__(self) -> None:
        for name in ("runs", "block", "max_runs", "repeats"):
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

    def share(self) -> TimingPlan:
        """What one of the processes measures, so that all together measure about this plan.

        Each warms up, because each starts cold, but for a share of the runs and of the longest
        duration. Only `min_warmup_s` is for each, since clocks ramp up anew.
        """
        n = self.repeats
        return replace(
            self,
            runs=-(-self.runs // n),
            warmup=-(-self.warmup // n),
            duration_s=self.duration_s / n,
            max_runs=-(-self.max_runs // n),
            max_warmup_s=self.max_warmup_s / n,
            repeats=1,
        )


@dataclass(frozen=True)
class Timing:
    """The times of a runner at a batch size, `(rounds, block)`, in the order of measurement.

    `processor_ns`, `(rounds,)`, is the processor time that all threads of this process spent in a
    block; it stands still while other programs run, or while a GPU computes.
    """

    runner: int
    batch: int
    times_ns: NDArray[np.int64]
    processor_ns: NDArray[np.int64]
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
    one block of each runner, and every round begins with another runner. Drift of the clocks, of
    the temperature or of the load then affects all runners alike.

    Args:
        runners: What is timed.
        feeds: The input of each runner, with at least `max(batches)` rows.
        batches: Batch sizes.
        clock: Nanoseconds since a fixed moment.
        plan: How much to measure.
        advance: Called with the finished fraction, 0 to 1.

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
            times = np.array([blocks[index].times_ns for blocks in rounds], dtype=np.int64)
            spent = np.array([blocks[index].processor_ns for blocks in rounds], dtype=np.int64)
            timings.append(Timing(index, batch, times, spent, warmup_runs, settled))
    return tuple(timings)


def first_rows(feed: Feed, n: int) -> Feed:
    """The feed of the first `n` images."""
    return tuple(array[:n] for array in feed)


def run_for(runner: Infer, feed: Feed, clock: Clock, duration_s: float) -> tuple[int, float]:
    """Call a runner without pause for `duration_s`; return the number of images and the seconds."""
    calls = 0
    start = clock()
    while True:
        runner.infer(*feed)
        calls += 1
        elapsed = clock() - start
        if elapsed >= duration_s * 1e9:
            return calls * len(feed[0]), elapsed / 1e9


def _warm_up(runner: Infer, x: Feed, clock: Clock, plan: TimingPlan) -> tuple[int, bool]:
    """Run until the times settle; return how many runs that took, and whether they settled.

    The warm-up takes at least `warmup` runs and `min_warmup_s` seconds, since clocks need a moment
    to ramp up. It ends after `max_warmup_s` seconds once `warmup` runs are done. With `warmup` 0
    there is none.
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


@dataclass(frozen=True)
class _Block:
    times_ns: list[int]
    processor_ns: int


def _take_turns(
    runners: Sequence[Infer],
    inputs: Sequence[Feed],
    clock: Clock,
    plan: TimingPlan,
    advance: Callable[[float], None],
) -> list[list[_Block]]:
    """Rounds of one block per runner: `rounds[r][i]` is that of runner i in round r."""
    rounds: list[list[_Block]] = []
    block = min(plan.block, plan.runs)
    budget_ns = plan.duration_s * 1e9 * len(runners)
    start = clock()
    while True:
        blocks: dict[int, _Block] = {}
        for turn in range(len(runners)):
            index = (turn + len(rounds)) % len(runners)
            runner, x = runners[index], inputs[index]
            if len(runners) > 1:
                # The caches hold the weights of the other model. This untimed run pays for the
                # switch, which a device that serves one model does not have.
                runner.infer(*x)
            spent = time.process_time_ns()
            times = [_time(runner, x, clock) for _ in range(block)]
            blocks[index] = _Block(times, time.process_time_ns() - spent)
        rounds.append([blocks[index] for index in range(len(runners))])
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
