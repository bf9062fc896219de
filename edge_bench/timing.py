"""The schedule of a benchmark: when each runner is called, and how long each call takes."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError
from edge_bench.inputs import Feed
from edge_bench.runners import Infer
from edge_bench.scenario import Scenario, arrivals_ns
from edge_bench.serving import serve
from edge_bench.statistics import is_settled


@runtime_checkable
class DeviceClock(Protocol):
    """What is timed by its GPU too."""

    def device_ns(self) -> int:
        """Nanoseconds that the GPU took for the last call."""


# Queries of a server arrive in real time.
LONGEST_S = 3600.0

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
        scenario: How queries come in; None for one call after the other, the models in turns.

    Raises:
        InvalidValueError: A number of runs or seconds is out of range, or queries would be sent for
            more than an hour.
    """

    runs: int = 200
    warmup: int = 20
    duration_s: float = 3.0
    block: int = 10
    max_runs: int = 20_000
    min_warmup_s: float = 0.2
    max_warmup_s: float = 10.0
    repeats: int = 5
    scenario: Scenario | None = None

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

        qps = None if self.scenario is None else self.scenario.target_qps
        if qps is not None and self.runs / qps > LONGEST_S:
            raise InvalidValueError(
                f"{qps:g} a second means {self.runs / qps / 3600:.3g} hours for {self.runs} "
                "queries; ask for more queries a second, or for fewer runs",
                setting="target_qps",
            )

    def queries(self, qps: float) -> int:
        """How many queries a server is sent: whole blocks, `runs` and `duration_s` at least."""
        wanted = min(max(self.runs, math.ceil(qps * self.duration_s)), max(self.max_runs, 1))
        block = min(self.block, self.runs)
        return -(-wanted // block) * block

    def in_sets_of(self, calls: int) -> TimingPlan:
        """The same amount of calls, if a timed run consists of so many."""
        if calls == 1:
            return self
        runs, most = (-(-n // calls) for n in (self.runs, self.max_runs))
        return replace(self, runs=runs, max_runs=most, block=1)

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
    block; it stands still while other programs run, or while a GPU computes. `device_ns`,
    `(rounds, block)`, is what a GPU took for each run by its own clock; None without one. A run
    consists of `calls` batches. Of a server, times are latencies from the arrival of a query,
    `answered` says how many were answered in `seconds`, the models did not take turns, and the
    processor time, in which it also waits for queries, is 0.
    """

    runner: int
    batch: int
    times_ns: NDArray[np.int64]
    processor_ns: NDArray[np.int64]
    warmup_runs: int
    settled: bool
    device_ns: NDArray[np.int64] | None = None
    calls: int = 1
    answered: int | None = None
    seconds: float | None = None


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
        calls = 1 if plan.scenario is None else plan.scenario.calls(batch)
        with _no_garbage_collection():
            warm = warm_up(runners, inputs, clock, plan)
            sets = plan.in_sets_of(calls)
            rounds = _take_turns(runners, inputs, clock, sets, advance_within, calls)
        for index, (warmup_runs, settled) in enumerate(warm):
            times = np.array([blocks[index].times_ns for blocks in rounds], dtype=np.int64)
            spent = np.array([blocks[index].processor_ns for blocks in rounds], dtype=np.int64)
            on_device = [blocks[index].device_ns for blocks in rounds if blocks[index].device_ns]
            device = np.array(on_device, dtype=np.int64) if on_device else None
            timings.append(Timing(index, batch, times, spent, warmup_runs, settled, device, calls))
    return tuple(timings)


def measure_server(
    runners: Sequence[Infer],
    feeds: Sequence[Feed],
    batches: Sequence[int],
    clock: Clock,
    plan: TimingPlan,
    rng: np.random.Generator,
    sleep: Callable[[float], None] = time.sleep,
    advance: Callable[[float], None] = lambda fraction: None,
) -> tuple[Timing, ...]:
    """Send queries to each runner at the rate of the plan's scenario.

    All of them warm up; then each serves alone, with the same arrivals as the others.

    Args:
        runners: What is timed.
        feeds: The input of each runner, with at least `max(batches)` rows.
        batches: Numbers of images of a query.
        clock: Nanoseconds since a fixed moment.
        plan: How much to measure, and the rate.
        rng: Draws the arrivals.
        sleep: Waits for so many seconds.
        advance: Called with the finished fraction, 0 to 1.

    Returns:
        One `Timing` per runner and batch size: batch by batch, in the order of `runners`.
    """
    qps = plan.scenario.target_qps if plan.scenario is not None else None
    if qps is None:
        raise InvalidValueError("is needed by a server", setting="target_qps")
    n = plan.queries(qps)
    block = min(plan.block, plan.runs)
    timings: list[Timing] = []
    for batch in batches:
        arrivals = arrivals_ns(qps, n, rng)
        inputs = [first_rows(feed, batch) for feed in feeds]
        with _no_garbage_collection():
            warm = warm_up(runners, inputs, clock, plan)
            for index, (runner, x) in enumerate(zip(runners, inputs, strict=True)):

                def advance_within(fraction: float, done: int = len(timings)) -> None:
                    advance((done + fraction) / (len(batches) * len(runners)))

                served = serve(runner, x, arrivals, clock, sleep, advance_within)
                times = served.latencies_ns.reshape(-1, block)
                timings.append(
                    Timing(
                        index,
                        batch,
                        times,
                        np.zeros(len(times), np.int64),
                        *warm[index],
                        answered=served.answered,
                        seconds=served.seconds,
                    )
                )
    return tuple(timings)


def warm_up(
    runners: Sequence[Infer], inputs: Sequence[Feed], clock: Clock, plan: TimingPlan
) -> list[tuple[int, bool]]:
    """Warm up each runner in turn: how many runs that took, and whether the times settled."""
    return [_warm_up(runner, x, clock, plan) for runner, x in zip(runners, inputs, strict=True)]


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
    device_ns: list[int]


def _take_turns(
    runners: Sequence[Infer],
    inputs: Sequence[Feed],
    clock: Clock,
    plan: TimingPlan,
    advance: Callable[[float], None],
    calls: int,
) -> list[list[_Block]]:
    """Rounds of one block per runner: `rounds[r][i]` is that of runner i in round r.

    A timed run consists of so many `calls`.
    """
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
            blocks[index] = _time_block(runner, x, clock, block, calls)
        rounds.append([blocks[index] for index in range(len(runners))])
        runs, elapsed = len(rounds) * block, clock() - start
        enough_time = elapsed >= budget_ns or runs >= plan.max_runs
        if runs >= plan.runs and enough_time:
            advance(1.0)
            return rounds
        of_time = min(elapsed / budget_ns, 1.0) if budget_ns else 1.0
        advance(min(runs / plan.runs, of_time))


def _time_block(runner: Infer, x: Feed, clock: Clock, runs: int, calls: int) -> _Block:
    times, device = [], []
    # Of several calls, the GPU's clock knows the last one alone.
    on_device = runner if isinstance(runner, DeviceClock) and calls == 1 else None
    spent = time.process_time_ns()
    for _ in range(runs):
        times.append(_time(runner, x, clock, calls))
        if on_device is not None:
            device.append(on_device.device_ns())
    return _Block(times, time.process_time_ns() - spent, device)


def _time(runner: Infer, x: Feed, clock: Clock, calls: int = 1) -> int:
    start = clock()
    for _ in range(calls):
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
