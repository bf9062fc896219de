"""The result of each of several budgets or targets, as a point, a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ard.measuring.score import score_columns
from ard.pipeline import CompressionResult
from ard.report.summary import plan_macs, plan_params
from ard.search.budget import Budget
from ard.search.target import Target
from nas_gan.tables import csv_text, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """The result of one budget or target; costs are of the whole generator.

    Ratios are dense over compressed. `met` says whether the budget was met or the target reached.
    """

    budget: Budget | Target
    met: bool
    result: CompressionResult
    params: int
    macs: int

    @property
    def compression(self) -> float:
        """Dense parameters over compressed ones."""
        return self.result.profile.total_params / self.params

    @property
    def macs_ratio(self) -> float:
        """Dense multiply-adds over compressed ones."""
        return self.result.profile.total_macs / self.macs


def point_of(budget: Budget | Target, met: bool, result: CompressionResult) -> Point:
    """The point of a result."""
    params = plan_params(result.profile, result.plan)
    return Point(budget, met, result, params, plan_macs(result.profile, result.plan))


def budget_folder(budget: Budget | Target) -> str:
    """A folder name: `budget-5pct`, `budget-0.5`, `target-params-0.25`, `target-fps-60@1`."""
    if isinstance(budget, Target):
        return f"target-{''.join(budget.text.split()).replace('=', '-')}"
    return f"budget-{budget.text.replace('%', 'pct')}"


def columns_of(metric: str) -> tuple[str, ...]:
    """The columns of `pareto.csv` for a metric."""
    sizes = ("params", "macs", "compression", "macs_ratio")
    _, rise, *_ = columns = score_columns(metric)
    return ("budget", "met", *sizes, *columns, f"factorized_{rise}", "plan")


def to_csv(points: Sequence[Point]) -> str:
    """CSV with one row per budget."""
    metric = points[0].result.recovered.metric
    rows = []
    for point in points:
        result, score = point.result, point.result.recovered
        rows.append(
            [
                *(point.budget.text, str(point.met).lower(), point.params, point.macs),
                *(f"{point.compression:.4f}", f"{point.macs_ratio:.4f}"),
                *(score.value, score.rise, score.ci_low, score.ci_high, result.factorized.rise),
                f"{budget_folder(point.budget)}/plan.json",
            ]
        )
    return csv_text(columns_of(metric), rows)


def to_text(points: Sequence[Point], distance: str) -> str:
    """The points as a printed table."""
    asked = "target" if isinstance(points[0].budget, Target) else "budget"
    columns = (
        *(asked, "met", "params", "ratio", "MACs", "ratio"),
        *(f"Δ{distance}", "95 % interval", "before recovery"),
    )
    rows = []
    for point in points:
        result, score = point.result, point.result.recovered
        rows.append(
            (
                *(point.budget.text, "yes" if point.met else "no"),
                *(f"{point.params:,}", f"{point.compression:.2f}x"),
                *(f"{point.macs:,}", f"{point.macs_ratio:.2f}x"),
                f"{score.rise:+.3g}",
                f"[{score.ci_low:.3g}, {score.ci_high:.3g}]",
                f"{result.factorized.rise:+.3g}",
            )
        )
    return text_table(columns, rows)


def points_figure(points: Sequence[Point], distance: str) -> Figure:
    """A figure of compression against rise, before and after recovery."""
    from ard.report.curves import Curve, curves_figure

    recovered = tuple((point.compression, point.result.recovered) for point in points)
    factorized = tuple((point.compression, point.result.factorized) for point in points)
    curves = [Curve("recovered", recovered), Curve("before recovery", factorized, dashed=True)]
    return curves_figure(curves, distance=distance)
