"""Metrics of a run by name, read off its log: where it ended, how good it got, and how soon.

    fid               the last value
    best_fid          the smallest value; of an accuracy the largest
    top5_fid          the mean of the five best values
    fid<=30           1 if it got there, else 0: the mean over runs is the share that got there
    first_fid<=30     the step at which it got there first; runs that never did have no value

`>=` does the same for an accuracy.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nas_gan.errors import InvalidValueError

# Scalars of which more is better.
HIGHER_IS_BETTER = frozenset({"accuracy"})
_NAME = re.compile(r"(?P<what>best_|top5_|first_)?(?P<key>[^<>=]+)((?P<sign>[<>]=)(?P<bound>.+))?")


@dataclass(frozen=True)
class LogMetric:
    """What is taken of which scalar.

    Attributes:
        what: `last`, `best`, `top5`, `reached` or `first`.
        key: the scalar.
        factor: 1 if less is better, -1 if more is.
        bound: `factor` times the value that `reached` and `first` compare with.
    """

    what: str
    key: str
    factor: int = 1
    bound: float = math.nan

    def __call__(self, log: Iterable[Mapping[str, float]]) -> float | None:
        """Its value in a log, whose rows have a `step`; None if it has none."""
        values = [(line["step"], self.factor * line[self.key]) for line in log if self.key in line]
        if not values:
            return None
        if self.what == "last":
            return self.factor * values[-1][1]
        best = sorted(value for _, value in values)
        if self.what in ("best", "top5"):
            return self.factor * statistics.fmean(best[: 1 if self.what == "best" else 5])
        if self.what == "reached":
            return float(best[0] <= self.bound)
        return next((float(step) for step, value in values if value <= self.bound), None)


def parse_metric(name: str) -> LogMetric:
    """A metric by its name.

    Raises:
        InvalidValueError: there is no such name.
    """
    found = _NAME.fullmatch(name)
    what = (found["what"] or "").removesuffix("_") if found else ""
    bound = _number(found["bound"]) if found and found["sign"] else None
    bounded = what in ("", "first") if bound is not None else what != "first"
    if found is None or not bounded or (found["sign"] and bound is None):
        raise InvalidValueError(
            f"metric {name!r} is not understood; write a scalar of the log as fid, best_fid, "
            "top5_fid, fid<=30 or first_fid<=30"
        )
    key = found["key"]
    if bound is None:
        factor = -1 if key in HIGHER_IS_BETTER else 1
        return LogMetric(what or "last", key, factor)
    factor = -1 if found["sign"] == ">=" else 1
    return LogMetric(what or "reached", key, factor, factor * bound)


def metrics_of(log: Iterable[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """The value of every name in a log; names without a value are left out."""
    lines = list(log)
    values = {name: parse_metric(name)(lines) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
