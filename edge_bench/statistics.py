"""Latency statistics of a list of times. Times are in microseconds, in and out.

A percentile is numpy's default: the samples sorted, the rank `q * (n - 1)`, linear interpolation
between the two samples around it. Throughput counts all the time spent, so it comes from the mean
and not from the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError

# As pyperf: a standard deviation above a tenth of the mean, or a run half as long again as the
# mean, says that the machine did something else as well.
UNSTABLE_CV = 0.10
OUTLIER = 1.5
# Two halves of one measurement whose medians are further apart than this were not taken on the
# same machine: clocks ramped up, or heat brought them down.
DRIFT = 0.05
# Medians whose ratio is this factor from that of the fastest runs compare interruptions.
DISTURBED = 1.25
# Below this many samples the 99th percentile is interpolated towards the one slowest run.
MIN_RUNS_FOR_P99 = 100


@dataclass(frozen=True)
class LatencyStatistics:
    """Summary of one row's times; `std_us` is the sample one (n - 1)."""

    runs: int
    mean_us: float
    p50_us: float
    p90_us: float
    p95_us: float
    p99_us: float
    min_us: float
    max_us: float
    std_us: float

    @property
    def coefficient_of_variation(self) -> float:
        return self.std_us / self.mean_us


@dataclass(frozen=True)
class Ratio:
    """First median over another; above 1 the other is faster. `low` and `high` bound it.

    `of_fastest` is the same of the fastest runs, which nothing interrupted.
    """

    value: float
    low: float
    high: float
    confidence: float
    of_fastest: float


def summarize(times_us: NDArray[np.float64]) -> LatencyStatistics:
    """Statistics of times of any shape.

    Raises:
        InvalidValueError: there are none, or one is not a positive number.
    """
    times = np.asarray(times_us, dtype=np.float64).ravel()
    if times.size == 0:
        raise InvalidValueError("no time was measured; ask for at least one run")
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise InvalidValueError(
            f"times must be positive numbers, found {times.min()} us; the clock is too coarse"
        )
    p50, p90, p95, p99 = np.percentile(times, [50, 90, 95, 99]).tolist()
    return LatencyStatistics(
        runs=times.size,
        mean_us=float(times.mean()),
        p50_us=p50,
        p90_us=p90,
        p95_us=p95,
        p99_us=p99,
        min_us=float(times.min()),
        max_us=float(times.max()),
        std_us=float(times.std(ddof=1)) if times.size > 1 else 0.0,
    )


def images_per_second(statistics: LatencyStatistics, batch: int) -> float:
    """Images made per second of measured time."""
    return batch * 1e6 / statistics.mean_us


def ratio_of_medians(
    first_us: NDArray[np.float64],
    other_us: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Ratio:
    """`median(first) / median(other)` with a percentile-bootstrap interval.

    Both are `(rounds, runs)`, row i of both taken in the same round. Rounds are drawn, not single
    runs: neighbouring runs share the state of the machine, and drawing them one by one would
    promise more than they know. The same rounds are drawn for both, so what slowed both cancels.

    Raises:
        InvalidValueError: the two do not have the same number of rounds.
    """
    if first_us.ndim != 2 or other_us.ndim != 2 or len(first_us) != len(other_us):
        raise InvalidValueError(
            f"times of shape (rounds, runs) with equal rounds are expected, "
            f"found {first_us.shape} and {other_us.shape}"
        )
    rounds = len(first_us)
    ratios = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(rounds, size=rounds)
        ratios[i] = np.median(first_us[drawn]) / np.median(other_us[drawn])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(ratios, [tail, 100 - tail]).tolist()
    value = float(np.median(first_us) / np.median(other_us))
    return Ratio(value, low, high, confidence, float(first_us.min() / other_us.min()))


def disturbance(ratio: Ratio) -> tuple[str, ...]:
    """What makes a ratio hard to trust, in words; empty when nothing does.

    On a busy machine a long run is interrupted nearly always and a short one hardly ever: then the
    medians differ by more than the models do, and no number of runs, or interval, shows it.
    """
    if 1 / DISTURBED < ratio.value / ratio.of_fastest < DISTURBED:
        return ()
    return (
        f"ratio {ratio.value:.2f} of medians, but {ratio.of_fastest:.2f} of the fastest runs: "
        "other programs interrupted one model more than the other",
    )


def instability(times_us: NDArray[np.float64]) -> tuple[str, ...]:
    """What makes these times hard to trust, in words; empty when nothing does."""
    statistics = summarize(times_us)
    times = np.asarray(times_us, dtype=np.float64).ravel()
    found: list[str] = []
    if statistics.coefficient_of_variation > UNSTABLE_CV:
        outliers = int((times > OUTLIER * statistics.mean_us).sum())
        found.append(
            f"unstable, standard deviation {statistics.coefficient_of_variation:.0%} of the mean, "
            f"{outliers} of {times.size} runs over {OUTLIER:g}× the mean"
        )
    half = times.size // 2
    if half >= 10:
        early, late = float(np.median(times[:half])), float(np.median(times[half:]))
        if abs(late / early - 1) > DRIFT:
            found.append(
                f"drifting, median of the second half {late / early - 1:+.0%} against the first"
            )
    if statistics.runs < MIN_RUNS_FOR_P99:
        found.append(f"p99 of only {statistics.runs} runs is close to their maximum")
    return tuple(found)


def is_settled(times: Sequence[float], window: int = 10, tolerance: float = 0.05) -> bool:
    """Whether the medians of the last two windows of `times` agree to within `tolerance`."""
    if len(times) < 2 * window:
        return False
    before, last = np.median(times[-2 * window : -window]), np.median(times[-window:])
    return bool(abs(last - before) <= tolerance * before)
