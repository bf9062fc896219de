"""How queries come in: after the scenarios of MLPerf Inference, in the words of its rules.

Single-stream sends the next query once the one before is answered, and reports the 90th percentile
of the latency. Offline has all samples at once and reports the throughput. Server sends queries by
a Poisson process, and asks whether the 99th percentile of the latency is within a bound. The rules
(https://github.com/mlcommons/inference_policies) also fix models, data and durations: results of
this program are none of MLPerf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError

SINGLE_STREAM, OFFLINE, SERVER = SCENARIOS = ("single-stream", "offline", "server")
HOLDS, MISSED, UNDECIDED = "holds", "missed", "undecided"
PERCENTILES = {SINGLE_STREAM: 90.0, SERVER: 99.0}
# MLPerf takes 24,576 at least, which take minutes on a board.
SAMPLES, MOST_SAMPLES = 1024, 1_000_000
# A query every microsecond, which no runtime answers.
MOST_QPS = 1e6
# What the confidence of MLPerf's early stopping leaves: 1 %.
ALPHA = 0.01


@dataclass(frozen=True)
class Scenario:
    """A scenario and its numbers; those that it does not use are None.

    Attributes:
        name: One of `SCENARIOS`.
        target_qps: Server: queries per second.
        latency_bound_s: Server: seconds within which 99 % of the queries shall be answered; None
            for no bound.
        samples: Offline: number of images, rounded up to whole batches; `SAMPLES` if None.

    Raises:
        InvalidValueError: The name is not known, a number is out of range or of another scenario,
            or a server has no rate.
    """

    name: str
    target_qps: float | None = None
    latency_bound_s: float | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.name not in SCENARIOS:
            raise InvalidValueError(
                f"is one of {', '.join(SCENARIOS)}; got {self.name!r}", setting="scenario"
            )
        for key, owner in (
            ("target_qps", SERVER), ("latency_bound_s", SERVER), ("samples", OFFLINE),
        ):  # fmt: skip
            value, setting = getattr(self, key), key.removesuffix("_s")
            if value is None:
                continue
            if self.name != owner:
                raise InvalidValueError(
                    f"is for the scenario {owner}, not for {self.name}", setting=setting
                )
            if not (math.isfinite(value) and value > 0):
                raise InvalidValueError(f"must be above 0; got {value}", setting=setting)
        if self.name == SERVER and self.target_qps is None:
            raise InvalidValueError(
                "is needed by the scenario server: the number of queries per second",
                setting="target_qps",
            )
        if self.target_qps is not None and self.target_qps > MOST_QPS:
            raise InvalidValueError(
                f"must be at most {MOST_QPS:,.0f} queries per second; got {self.target_qps:g}",
                setting="target_qps",
            )

        if self.samples is not None and self.samples > MOST_SAMPLES:
            raise InvalidValueError(
                f"must be at most {MOST_SAMPLES:,}; got {self.samples}", setting="samples"
            )

    def calls(self, batch: int) -> int:
        """How many batches a timed run consists of."""
        return -(-(self.samples or SAMPLES) // batch) if self.name == OFFLINE else 1

    def __str__(self) -> str:
        if self.name == OFFLINE:
            return f"offline, {self.samples or SAMPLES} images at once"
        if self.name == SINGLE_STREAM:
            return "single-stream, one query at a time"
        bound = "" if self.latency_bound_s is None else f", bound {self.latency_bound_s * 1e3:g} ms"
        return f"server, {self.target_qps:g} queries a second{bound}"


@dataclass(frozen=True)
class ScenarioResult:
    """What a scenario asks of a row.

    Attributes:
        metric: What `value` is: `p90_us`, `p99_us` or `images_per_second`.
        value: The result, over all processes.
        low: Lower end of its 95 % interval over processes; None for a single one.
        high: Upper end.
        queries: How many queries were sent; offline, how often all samples were.
        answered_per_second: Server: queries that were answered per second; less than was asked for
            if the model falls behind.
        unanswered: Server: queries that were given up on, because the model had fallen behind.
            Their latency counts as the time that they had waited.
        over_bound: Server with a bound: queries that took longer, or were not answered.
        bound: Server with a bound: `holds`, `missed`, `undecided`, or `busy` if it was missed on a
            machine that was.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    queries: int
    answered_per_second: float | None = None
    unanswered: int = 0
    over_bound: int | None = None
    bound: str | None = None


def arrivals_ns(qps: float, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """When each of `n` queries of a Poisson process arrives, `(n,)`, in nanoseconds from 0."""
    between = rng.exponential(1e9 / qps, size=n)
    times: NDArray[np.int64] = np.cumsum(between).astype(np.int64)
    return times


def bound_verdict(over: int, queries: int, percentile: float = 99.0) -> str:
    """Whether a bound on a percentile holds, after MLPerf's criterion of early stopping.

    It holds if so few queries over it would be seen with a chance of at most 1 % by a system that
    only just misses the percentile, it is missed if so many would be by one that just meets it,
    and otherwise more queries are needed: 459 at least, if none of them is over the bound.

    Args:
        over: Queries that took longer than the bound.
        queries: All queries.
        percentile: The share that shall be within, in percent.
    """
    share = 1 - percentile / 100
    if _at_most(over, queries, share) <= ALPHA:
        return HOLDS
    return MISSED if over and 1 - _at_most(over - 1, queries, share) <= ALPHA else UNDECIDED


def _at_most(k: int, n: int, p: float) -> float:
    """The probability of at most `k` in `n` independent trials of probability `p` each."""
    logs = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(min(k, n) + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))
