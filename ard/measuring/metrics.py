"""The registry of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ard.measuring.fid import FID
from ard.measuring.kernel import KID, MMD
from ard.measuring.metric import Metric
from ard.measuring.score import check_metric_name
from nas_gan.errors import unknown_name

METRICS: dict[str, Metric] = {metric.name: metric for metric in (FID, KID, MMD)}
# A type of its own, so that command lines offer the names as choices.
if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = Literal[tuple(METRICS)]


def register(metric: Metric) -> None:
    """Register a metric, for configurations, reports and figures.

    Raises:
        ValueError: another metric has that name, or the name cannot be the name of a column.
    """
    check_metric_name(metric.name)
    if METRICS.setdefault(metric.name, metric) is not metric:
        raise ValueError(f"there is a metric {metric.name!r} already; choose another name")


def metric_named(name: str) -> Metric:
    """The metric of this name.

    Raises:
        InvalidValueError: there is none; the message suggests the closest name.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def metric_label(name: str, comparable: bool) -> str:
    """The label of a metric in tables; an unregistered score is labelled by its name."""
    return METRICS[name].label(comparable) if name in METRICS else name


def metric_limit(name: str) -> str:
    """What values of a metric refer to, in words; empty if to the images that were scored."""
    return METRICS[name].limit if name in METRICS else ""


def metric_description(name: str) -> str:
    """A metric in words."""
    return METRICS[name].description if name in METRICS else name
