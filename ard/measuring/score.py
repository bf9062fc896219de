"""A quality score: its metric, its value, its rise over the dense generator, and an interval."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from nas_gan.reading import is_number

# The rise over the dense generator is called `delta_METRIC` in records and columns of tables.
_RISE = "delta_"
# The metric of a proxy; see `ard.search.proxy`.
MOVEMENT = "movement"
_METRIC = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of one generator by one metric; lower is better.

    Attributes:
        metric: the name of the metric.
        value: the value of the metric for this generator.
        rise: `value` minus the dense generator's, on the same latents.
        ci_low: lower end of the 95 % interval of `rise`.
        ci_high: its upper end; a budget is met if this is within the budget.
        n_images: the number of images that were scored.
        features: the network whose features were compared; empty if the metric uses none.
        measured: whether the generator was scored; otherwise this is an estimate.
    """

    metric: str
    value: float
    rise: float
    ci_low: float
    ci_high: float
    n_images: int
    features: str
    measured: bool

    def __post_init__(self) -> None:
        check_metric_name(self.metric)


@cache
def check_metric_name(name: str) -> None:
    """Check the name of a metric, which becomes a column and a key of JSON.

    Raises:
        ValueError: it is not made of lower-case letters, digits and underscores.
    """
    if not _METRIC.fullmatch(name):
        raise ValueError(
            f"{name!r} is not the name of a metric; use lower-case letters, digits and underscores"
        )


def check_score(score: Score) -> None:
    """Check what a record or a table says of a score.

    Raises:
        ValueError: a value is not a finite number, the rise is outside of its interval, or the
            number of images is no count.
    """
    value, low, rise, high = score.value, score.ci_low, score.rise, score.ci_high
    if not (is_number(value) and is_number(low) and is_number(rise) and is_number(high)):
        raise ValueError(f"{value!r}, {rise!r}, {low!r} and {high!r} are not four finite numbers")
    # Ends that were computed from the rise can miss it by a rounding.
    if not low <= rise <= high and not (
        low - (slack := 1e-9 * max(abs(low), abs(rise), abs(high))) <= rise <= high + slack
    ):
        raise ValueError(f"the rise {rise:g} is not within its interval {low:g} to {high:g}")
    if type(score.n_images) is not int or not 0 <= score.n_images < 2**53:
        raise ValueError(f"n_samples is {score.n_images!r}, not a count")
    if not isinstance(score.features, str):
        raise ValueError(f"extractor is {score.features!r}, not a text")


def score_columns(metric: str) -> tuple[str, str, str, str]:
    """The columns of a metric in tables: its value, its rise, and the interval of the rise.

    >>> score_columns("fid")
    ('fid', 'delta_fid', 'ci_low', 'ci_high')
    """
    return (metric, f"{_RISE}{metric}", "ci_low", "ci_high")


def metric_of_rise(columns: Iterable[str]) -> str | None:
    """The metric whose rise is among `columns`, or None.

    >>> metric_of_rise(("layer", "kid", "delta_kid"))
    'kid'
    """
    for name in columns:
        if name.startswith(_RISE):
            return name.removeprefix(_RISE)
    return None


def to_record(score: Score) -> dict[str, Any]:
    """Plain values for journals and reports; 0 samples mark an estimate.

    >>> to_record(Score(metric="fid", value=41.0, rise=1.0, ci_low=0.5, ci_high=1.5, n_images=1000,
    ...                 features="inception", measured=True))  # doctest: +NORMALIZE_WHITESPACE
    {'fid': 41.0, 'delta_fid': 1.0, 'ci_low': 0.5, 'ci_high': 1.5, 'n_samples': 1000,
     'extractor': 'inception'}
    """
    numbers = (score.value, score.rise, score.ci_low, score.ci_high)
    return {
        **dict(zip(score_columns(score.metric), numbers, strict=True)),
        "n_samples": score.n_images if score.measured else 0,
        "extractor": score.features,
    }


def from_record(record: Mapping[str, Any]) -> Score:
    """The inverse of `to_record`.

    Raises:
        KeyError: the record names no metric, or lacks a value.
        ValueError: it is no record, or has an unknown key.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{record!r} is not the record of a score")
    metric = metric_of_rise(record)
    if metric is None:
        raise KeyError(f"{_RISE}METRIC")
    columns, features = score_columns(metric), record["extractor"]
    value, rise, low, high = [record[name] for name in columns]
    if len(record) != len(columns) + 2 and (
        unknown := record.keys() - {*columns, "n_samples", "extractor"}
    ):
        raise ValueError(f"a score has no {min(unknown)!r}")
    # Journals of earlier versions store the movement of images as an FID.
    if metric == "fid" and str(features).startswith("movement of "):
        metric, features = MOVEMENT, features.removeprefix("movement of ")
    return Score(
        metric=metric,
        value=value,
        rise=rise,
        ci_low=low,
        ci_high=high,
        n_images=record["n_samples"],
        features=features,
        measured=type(record["n_samples"]) is int and record["n_samples"] > 0,
    )
