"""Runs of a grid summarised: means and deviations over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas_gan.runs.experiments import Outcome
from nas_gan.tables import csv_text, text_table


@dataclass(frozen=True)
class Row:
    """All seeds of one preset and variant.

    Attributes:
        preset: the name of the preset.
        variant: the changes to the preset, as text.
        finished: how many of the runs finished.
        failed: how many did not.
        mean: by metric, over the runs that finished.
        deviation: by metric, if at least two runs finished.
    """

    preset: str
    variant: str
    finished: int
    failed: int
    mean: dict[str, float]
    deviation: dict[str, float]


def summarise(outcomes: Iterable[Outcome]) -> list[Row]:
    """One row per preset and variant.

    The deviation is that of a sample (n - 1). Failed runs are counted, and enter no mean.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.preset, outcome.variant), []).append(outcome)
    rows = []
    for (preset, variant), group in groups.items():
        finished = [outcome for outcome in group if not outcome.failed]
        values: dict[str, list[float]] = {}
        for outcome in finished:
            for name, value in outcome.metrics.items():
                values.setdefault(name, []).append(value)
        rows.append(
            Row(
                preset,
                variant,
                finished=len(finished),
                failed=len(group) - len(finished),
                mean={name: statistics.fmean(v) for name, v in values.items()},
                deviation={name: statistics.stdev(v) for name, v in values.items() if len(v) > 1},
            )
        )
    return rows


def summary_csv(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Rows as CSV, two columns per metric; a cell is empty if there is no number."""
    names = _logged(rows, metrics)
    columns = [f"{name} {what}" for name in names for what in ("mean", "deviation")]
    return csv_text(
        ["preset", "variant", "finished", "failed", *columns],
        (
            [row.preset, row.variant, row.finished, row.failed]
            + [column.get(name, "") for name in names for column in (row.mean, row.deviation)]
            for row in rows
        ),
    )


def summary_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Rows for people: one column per metric, mean ± deviation."""
    names = _logged(rows, metrics)
    return text_table(
        ["preset", "variant", "finished", "failed", *names],
        (
            [row.preset, row.variant, str(row.finished), str(row.failed)]
            + [_cell(row, name) for name in names]
            for row in rows
        ),
        n_text=2,
    )


def _logged(rows: Iterable[Row], metrics: Sequence[str]) -> list[str]:
    """The metrics that some run has."""
    return [name for name in metrics if any(name in row.mean for row in rows)]


def _cell(row: Row, name: str) -> str:
    if name not in row.mean:
        return "-"
    deviation = f" ± {row.deviation[name]:.2g}" if name in row.deviation else ""
    return f"{row.mean[name]:.4g}{deviation}"
