"""How much faster a model is than another, with an interval that holds when it is measured again.

A fresh process has its own addresses, its own pages and its own share of the machine: times of one
process scatter less than those of several. So several processes are measured, and the interval is
about the scatter between them as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError
from edge_bench.statistics import Ratio, bounds, check_rounds, ratio_of_medians

# How often the rounds of each process are drawn, for the draws of processes to choose from.
WITHIN = 200
# How many times are drawn at once; 8 MiB.
MAX_NUMBERS = 1 << 20
MAX_LOG = 700.0

FASTER, SLOWER, UNDECIDED, BUSY = "faster", "slower", "undecided", "busy"


def ratio_over_processes(
    first_us: Sequence[NDArray[np.float64]],
    other_us: Sequence[NDArray[np.float64]],
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Ratio:
    """The first time over the other, as the geometric mean of the ratios of the processes.

    Each entry holds the times of a process, `(rounds, runs)`, and entry i of both comes from the
    same process. The ratio of a process is that of its medians. Swapping `first_us` and `other_us`
    gives the inverse, bounds included.

    The interval reaches as far as the wider of two at each end. One is Student's, on the logarithms
    of the ratios of the processes. The other is a bootstrap that draws processes, and then rounds
    inside each of them. In simulations of five processes, the bootstrap alone held the true ratio
    in 86 % of the cases in which the processes differ by more than their rounds do: five values
    scatter less than what they come from. Student's alone is right on average, but is at times
    narrower than the noise inside each process allows, because five values can agree by chance. Of
    both together, 95 to 99 % were right.

    A single process has no scatter between processes; its interval is that of its rounds.

    Raises:
        InvalidValueError: The processes or their rounds do not belong together.
    """
    if len(first_us) != len(other_us) or not first_us:
        raise InvalidValueError(
            f"times of the same processes are expected; got {len(first_us)} and {len(other_us)}"
        )
    for first, other in zip(first_us, other_us, strict=True):
        check_rounds(first, other)
    if len(first_us) == 1:
        return ratio_of_medians(
            first_us[0], other_us[0], rng, resamples=resamples, confidence=confidence
        )
    # (processes,)
    logs = np.array([_log_ratio(a, b) for a, b in zip(first_us, other_us, strict=True)])
    mean = float(logs.mean())
    n = len(logs)
    reach = student_quantile((1 + confidence) / 2, n - 1) * float(logs.std(ddof=1)) / math.sqrt(n)
    drawn = _draw(first_us, other_us, rng, resamples)
    low, high = bounds(drawn, confidence)
    fastest = min(float(a.min()) for a in first_us) / min(float(b.min()) for b in other_us)
    return Ratio(
        value=_exp(mean),
        low=_exp(min(low, mean - reach)),
        high=_exp(max(high, mean + reach)),
        confidence=confidence,
        of_fastest=fastest,
    )


def reach_over_processes(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """The factor by which the mean of several processes may be off, 1 or more; None for one.

    It is Student's, on the logarithms of what each process measured.

    Args:
        values: What each process measured, above 0.
        confidence: How often the interval of value / factor to value * factor holds the true one.
    """
    if len(values) < 2:
        return None
    n, spread = len(values), float(np.log(values).std(ddof=1))
    return _exp(student_quantile((1 + confidence) / 2, n - 1) * spread / math.sqrt(n))


def ratio_of_unpaired(
    first_us: Sequence[NDArray[np.float64]],
    second_us: Sequence[NDArray[np.float64]],
    confidence: float = 0.95,
) -> Ratio:
    """The first time over the second, of processes that have nothing to do with each other.

    Each entry holds the times of a process, and there are two or more of either. The interval is
    Welch's, on the logarithms of the medians of the processes.

    Raises:
        InvalidValueError: There are fewer than two processes.
    """
    n, m = len(first_us), len(second_us)
    if min(n, m) < 2:
        raise InvalidValueError(f"two processes of each at least are expected; got {n} and {m}")
    first, second = (
        np.log([float(np.median(us)) for us in times]) for times in (first_us, second_us)
    )
    difference = float(first.mean() - second.mean())
    a, b = float(first.var(ddof=1)) / n, float(second.var(ddof=1)) / m
    reach = 0.0
    if a + b > 0:
        # Rounded down, which is on the safe side.
        freedom = max(1, int((a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))))
        reach = student_quantile((1 + confidence) / 2, freedom) * math.sqrt(a + b)
    return Ratio(
        value=_exp(difference),
        low=_exp(difference - reach),
        high=_exp(difference + reach),
        confidence=confidence,
        of_fastest=min(float(us.min()) for us in first_us)
        / min(float(us.min()) for us in second_us),
    )


def verdict(ratio: Ratio, busy: str | None) -> str:
    """What a ratio says about the other model: `faster`, `slower`, `undecided`, or `busy`.

    On a busy machine the ratio is about the other programs as well, so it says nothing.
    """
    if busy is not None:
        return BUSY
    if ratio.low > 1:
        return FASTER
    return SLOWER if ratio.high < 1 else UNDECIDED


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t with a whole number of degrees of freedom, 1 or more.

    Args:
        probability: Above 0.5 and below 1.
        freedom: Degrees of freedom.

    Raises:
        InvalidValueError: A number is out of range.
    """
    if not 0.5 < probability < 1 or freedom < 1:
        raise InvalidValueError(
            f"a probability above 0.5 and below 1, and degrees of freedom of 1 or more are "
            f"expected; got {probability} and {freedom}"
        )
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        if _student_cdf(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high


def _student_cdf(t: float, freedom: int) -> float:
    """For t above 0; the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + inside) / 2


def _exp(logarithm: float) -> float:
    # Two processes that have nothing in common give bounds that no float holds.
    return math.exp(min(max(logarithm, -MAX_LOG), MAX_LOG))


def _log_ratio(first: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return math.log(np.median(first)) - math.log(np.median(other))


def _draw(
    first_us: Sequence[NDArray[np.float64]],
    other_us: Sequence[NDArray[np.float64]],
    rng: np.random.Generator,
    resamples: int,
) -> NDArray[np.float64]:
    """Mean log ratios `(resamples,)` of processes drawn anew, with rounds drawn anew in each."""
    n = len(first_us)
    within = np.empty((n, WITHIN))
    for i, (first, other) in enumerate(zip(first_us, other_us, strict=True)):
        rounds = rng.integers(len(first), size=(WITHIN, len(first)))
        within[i] = np.log(_medians(first, rounds)) - np.log(_medians(other, rounds))
    processes = rng.integers(n, size=(resamples, n))
    draws: NDArray[np.float64] = within[processes, rng.integers(WITHIN, size=(resamples, n))]
    means: NDArray[np.float64] = draws.mean(axis=1)
    return means


def _medians(times_us: NDArray[np.float64], rounds: NDArray[np.int64]) -> NDArray[np.float64]:
    """The median over the rounds `(draws, rounds)` of each draw; a few draws at a time."""
    at_once = max(1, MAX_NUMBERS // times_us.size)
    parts = [
        np.median(times_us[rounds[i : i + at_once]], axis=(1, 2))
        for i in range(0, len(rounds), at_once)
    ]
    medians: NDArray[np.float64] = np.concatenate(parts)
    return medians
