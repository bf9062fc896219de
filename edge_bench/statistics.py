"""Latency statistics of a list of times, in microseconds.

A percentile is numpy's default: rank `q * (n - 1)` of the sorted samples, with linear interpolation
between the two nearest ones. Throughput accounts for all the time spent, so it comes from the mean
and not from the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError

# As in pyperf: a standard deviation above a tenth of the mean, or a run that takes 1.5 times the
# mean, means that the machine was busy with other work.
UNSTABLE_CV = 0.10
OUTLIER = 1.5
# If the medians of two halves of a measurement are further apart than this, the machine changed in
# between: its clocks ramped up, or heat brought them down.
DRIFT = 0.05
# If the ratio of medians is off that of the fastest runs by this factor, it compares interruptions.
DISTURBED = 1.25
# With fewer samples, the 99th percentile is interpolated towards the single slowest run.
MIN_RUNS_FOR_P99 = 100


@dataclass(frozen=True)
class LatencyStatistics:
    """Summary of one row's times; `std_us` is the sample standard deviation (n - 1)."""

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
    """The first median over the other; above 1, the other is faster. `low` and `high` bound it.

    `of_fastest` is the ratio of the fastest runs, which nothing interrupted.
    """

    value: float
    low: float
    high: float
    confidence: float
    of_fastest: float


def summarize(times_us: NDArray[np.float64]) -> LatencyStatistics:
    """Statistics of times of any shape.

    Raises:
        InvalidValueError: there are none, or one is not positive and finite.
    """
    times = np.asarray(times_us, dtype=np.float64).ravel()
    if times.size == 0:
        raise InvalidValueError("no time was measured; at least one run is needed")
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise InvalidValueError(
            f"times must be positive numbers; got {times.min()} us: the clock is too coarse"
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

    Both are `(rounds, runs)`, and row i of both comes from the same round. The bootstrap draws
    rounds and not single runs: neighbouring runs share the state of the machine, and drawing them
    one by one would give too narrow an interval. The same rounds are drawn for both, so whatever
    slowed both cancels.

    Raises:
        InvalidValueError: they differ in their number of rounds.
    """
    check_rounds(first_us, other_us)
    rounds = len(first_us)
    ratios = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(rounds, size=rounds)
        ratios[i] = np.median(first_us[drawn]) / np.median(other_us[drawn])
    low, high = bounds(ratios, confidence)
    value = float(np.median(first_us) / np.median(other_us))
    return Ratio(value, low, high, confidence, float(first_us.min() / other_us.min()))


def check_rounds(first_us: NDArray[np.float64], other_us: NDArray[np.float64]) -> None:
    """Refuse times of two models that were not measured in the same rounds.

    Raises:
        InvalidValueError: They are not `(rounds, runs)`, or differ in their number of rounds.
    """
    if first_us.ndim != 2 or other_us.ndim != 2 or len(first_us) != len(other_us):
        raise InvalidValueError(
            f"times must have the shape (rounds, runs) with equal rounds; "
            f"got {first_us.shape} and {other_us.shape}"
        )


def bounds(drawn: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """The two of the drawn values between which this share of them lies.

    They are values that were drawn, as many from either end: those of the inverse ratio, drawn with
    the same numbers, are then their inverses.
    """
    ordered = np.sort(drawn)
    outside = int(len(ordered) * (1 - confidence) / 2)
    return float(ordered[outside]), float(ordered[len(ordered) - 1 - outside])


def disturbance(ratio: Ratio) -> tuple[str, ...]:
    """Why a ratio is hard to trust, in words; empty if nothing speaks against it.

    On a busy machine, a long run is nearly always interrupted and a short one hardly ever. The
    medians then differ by more than the models do, and neither more runs nor the interval shows it.
    """
    if 1 / DISTURBED < ratio.value / ratio.of_fastest < DISTURBED:
        return ()
    return (
        f"ratio {ratio.value:.2f} of medians, but {ratio.of_fastest:.2f} of the fastest runs: "
        "other programs interrupted one model more than the other",
    )


def instability(times_us: NDArray[np.float64]) -> tuple[str, ...]:
    """Why these times are hard to trust, in words; empty if nothing speaks against them."""
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
    """Whether the medians of the last two windows of `times` agree within `tolerance`."""
    if len(times) < 2 * window:
        return False
    before, last = np.median(times[-2 * window : -window]), np.median(times[-window:])
    return bool(abs(last - before) <= tolerance * before)
