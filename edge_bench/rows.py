"""From the times of the processes to a row of the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_bench.ratios import BUSY, ratio_over_processes, reach_over_processes, verdict
from edge_bench.report import BenchRow
from edge_bench.scenario import (
    MISSED,
    OFFLINE,
    PERCENTILES,
    SERVER,
    Scenario,
    ScenarioResult,
    bound_verdict,
)
from edge_bench.statistics import Ratio, disturbance, images_per_second, instability, summarize
from edge_bench.timing import Timing


def row_of(
    timings: Sequence[Timing],
    first: Sequence[Timing] | None,
    busy: str | None,
    scenario: Scenario | None,
    rng: np.random.Generator,
) -> BenchRow:
    """A row without its names, its power and what it covers.

    Args:
        timings: What each process measured of a bundle at a batch size.
        first: The same of the first bundle, which it is compared with; None for the first.
        busy: What else the machine did, if that leaves no verdict.
        scenario: How queries came in.
        rng: Of the bootstrap.
    """
    images = timings[0].batch * timings[0].calls
    by_process = [timing.times_ns / 1e3 for timing in timings]  # (rounds, block) each
    spent = [_processor_us(timing) for timing in timings]
    us = np.concatenate(by_process)
    latency = summarize(us)
    speedup = processor = None
    if first is not None:
        speedup = ratio_over_processes([t.times_ns / 1e3 for t in first], by_process, rng)
        processor = _ratio_if_any([_processor_us(t) for t in first], spent, rng)
    serving = scenario is not None and scenario.name == SERVER
    throughput = images_per_second(latency, images)
    if serving:  # not how fast it can be, but how fast queries came in and were answered
        throughput = timings[0].batch * _answered_per_second(timings)
    result = None if scenario is None else _result(timings, scenario, busy)
    if result is not None and scenario is not None and scenario.target_qps is not None:
        warnings = _behind(result, scenario.target_qps)
    else:
        warnings = instability(us) + (disturbance(speedup) if speedup else ())
    on_gpu = [timing.device_ns / 1e3 for timing in timings if timing.device_ns is not None]
    before = [t.device_ns / 1e3 for t in first or () if t.device_ns is not None]
    return BenchRow(
        bundle="",
        batch=timings[0].batch,
        runner="",
        latency=latency,
        images_per_second=throughput,
        speedup=speedup,
        power=None,
        energy=None,
        warmup_runs=sum(timing.warmup_runs for timing in timings),
        settled=all(timing.settled for timing in timings),
        warnings=warnings,
        samples_us=tuple(tuple(block) for block in us.tolist()),
        rounds_by_process=tuple(len(times) for times in by_process),
        processor_us=None if serving else float(np.concatenate(spent).mean()),
        processor_speedup=processor,
        verdict=None if speedup is None else verdict(speedup, busy),
        busy=busy,
        gpu_latency=summarize(np.concatenate(on_gpu)) if on_gpu else None,
        gpu_speedup=_ratio_if_any(before, on_gpu, rng) if before and on_gpu else None,
        scenario=result,
    )


def _processor_us(timing: Timing) -> NDArray[np.float64]:
    """Processor time of a run in microseconds, `(rounds, 1)`."""
    us: NDArray[np.float64] = timing.processor_ns[:, None] / 1e3 / timing.times_ns.shape[1]
    return us


def _ratio_if_any(
    first: Sequence[NDArray[np.float64]],
    other: Sequence[NDArray[np.float64]],
    rng: np.random.Generator,
) -> Ratio | None:
    """None if a block is too short for the clock, as that of the processor."""
    if min(float(us.min()) for us in (*first, *other)) <= 0:
        return None
    return ratio_over_processes(first, other, rng)


def _answered_per_second(timings: Sequence[Timing]) -> float:
    return sum(t.answered or 0 for t in timings) / sum(t.seconds or 0.0 for t in timings)


def _result(timings: Sequence[Timing], scenario: Scenario, busy: str | None) -> ScenarioResult:
    """What the scenario asks of the times; a bound that a busy machine missed is no verdict."""
    us = [timing.times_ns / 1e3 for timing in timings]
    metric, measure = _metric(scenario, timings[0])
    value = measure(np.concatenate(us))
    reach = reach_over_processes([measure(times) for times in us])
    queries = sum(times.size for times in us)
    low, high = (None, None) if reach is None else (value / reach, value * reach)
    if scenario.name != SERVER:
        return ScenarioResult(metric, value, low, high, queries)
    unanswered = sum(t.times_ns.size - (t.answered or 0) for t in timings)
    over = held = None
    if scenario.latency_bound_s is not None:
        over = sum(_over(t, scenario.latency_bound_s) for t in timings)
        held = bound_verdict(over, queries, PERCENTILES[SERVER])
        held = BUSY if busy is not None and held == MISSED else held
    return ScenarioResult(
        metric, value, low, high, queries, _answered_per_second(timings), unanswered, over, held
    )


def _metric(
    scenario: Scenario, timing: Timing
) -> tuple[str, Callable[[NDArray[np.float64]], float]]:
    """The name of what the scenario reports, and how it follows from times in microseconds."""
    if scenario.name == OFFLINE:
        images = timing.batch * timing.calls
        return "images_per_second", lambda us: images * 1e6 / float(us.mean())
    share = PERCENTILES[scenario.name]
    return f"p{share:.0f}_us", lambda us: float(np.percentile(us, share))


def _over(timing: Timing, bound_s: float) -> int:
    """Queries over the bound, with those that were given up on whatever they had waited."""
    answered = timing.times_ns.ravel()[: timing.answered]
    return int((answered > bound_s * 1e9).sum()) + timing.times_ns.size - len(answered)


def _behind(result: ScenarioResult, target_qps: float) -> tuple[str, ...]:
    """That a model does not keep up, if its queries a second say so; they scatter by chance."""
    answered = result.answered_per_second or 0.0
    if not result.unanswered and answered >= target_qps * (1 - 3 / math.sqrt(result.queries)):
        return ()
    given_up = ""
    if result.unanswered:
        given_up = (
            f", and {result.unanswered} of {result.queries} were given up on and count with what "
            "they had waited"
        )
    return (
        f"fell behind: {answered:.4g} of {target_qps:.4g} queries a second were answered"
        f"{given_up}; ask for fewer",
    )
