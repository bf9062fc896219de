"""Measuring plans one after another, and the table of what each layer costs in quality."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from ard.errors import TableError
from ard.evaluate import Candidate, Evaluation, Evaluator
from ard.executors import Executor
from ard.journal import Journal
from ard.layers import LayerProfile
from ard.plan import Factorization, RankPlan
from nas_gan.files import write_text

Stage = Literal["single", "factorized", "recovered", "final"]
COLUMNS = (
    "layer", "kind", "method", "rank", "params", "macs", "fid", "delta_fid", "ci_low", "ci_high"
)  # fmt: skip


@dataclass(frozen=True)
class Measurement:
    """One journal line: a plan, how it was prepared, and what it scored."""

    stage: Stage
    plan: RankPlan
    evaluation: Evaluation


@dataclass(frozen=True)
class Measure:
    """Plan to evaluation: build the candidate, then score it."""

    build: Callable[[RankPlan], nn.Module]
    evaluate: Evaluator

    def __call__(self, plan: RankPlan) -> Evaluation:
        return self.evaluate(Candidate(plan, self.build))


def sweep(
    plans: Sequence[RankPlan],
    measure: Callable[[RankPlan], Evaluation],
    executor: Executor,
    journal: Journal,
    *,
    stage: Stage = "single",
    on_measured: Callable[[int], None] = lambda n: None,
) -> list[Measurement]:
    """Measure every plan, in order, reading from the journal what it already holds.

    Each new measurement is in the journal before the next one starts, so an interrupted sweep
    resumes without measuring anything twice. `on_measured(n)` is told of finished plans.
    """
    known = {m.plan: m for m in journal.measurements() if m.stage == stage}
    pending = [plan for plan in dict.fromkeys(plans) if plan not in known]
    on_measured(len(plans) - len(pending))
    for plan, evaluation in executor.run(measure, pending):
        known[plan] = Measurement(stage, plan, evaluation)
        journal.append(known[plan])
        on_measured(1)
    return [known[plan] for plan in plans]


@dataclass(frozen=True)
class Row:
    """One layer under one choice, all other layers dense."""

    layer: str
    kind: str
    choice: Factorization
    params: int
    macs: int
    evaluation: Evaluation


@dataclass(frozen=True)
class SensitivityTable:
    """Dense score and single-layer scores: all that a controller reads."""

    dense: Evaluation
    rows: tuple[Row, ...]

    @staticmethod
    def from_measurements(
        dense: Measurement, singles: Iterable[Measurement], layers: Sequence[LayerProfile]
    ) -> SensitivityTable:
        """A table from the dense measurement and those of single-layer plans."""
        profiles = {layer.name: layer for layer in layers}
        rows = []
        for single in singles:
            [(name, choice)] = single.plan.items()
            layer = profiles[name]
            rows.append(
                Row(
                    name,
                    layer.kind,
                    choice,
                    layer.params(choice),
                    layer.macs(choice),
                    single.evaluation,
                )
            )
        return SensitivityTable(dense.evaluation, tuple(rows))

    def of_layer(self, name: str) -> tuple[Row, ...]:
        """The rows of one layer."""
        return tuple(row for row in self.rows if row.layer == name)

    def to_csv(self) -> str:
        """The columns of `COLUMNS`; the dense generator is the row without a layer."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerow(["", "", "dense", "", "", "", *_scores(self.dense)])
        for row in self.rows:
            rank = "x".join(map(str, row.choice.rank))
            scores = _scores(row.evaluation)
            cells = [row.layer, row.kind, row.choice.method, rank, row.params, row.macs, *scores]
            writer.writerow(cells)
        return text.getvalue()

    def save(self, path: Path) -> None:
        """Write `to_csv`, whole or not at all."""
        write_text(path, self.to_csv())

    @staticmethod
    def from_csv(text: str) -> SensitivityTable:
        """Read what `to_csv` wrote.

        Raises:
            TableError: a column is missing, a number is not finite, or a row comes twice.
        """
        reader = csv.DictReader(io.StringIO(text))
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise TableError(
                f"the table has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}"
            )
        dense: Evaluation | None = None
        rows: dict[tuple[str, Factorization], Row] = {}
        for cells in reader:
            try:
                evaluation = _read_scores(cells)
                if cells["method"] == "dense":
                    if dense is not None:
                        raise ValueError("the dense generator comes twice")
                    dense = evaluation
                    continue
                row = _read_row(cells, evaluation)
                if rows.setdefault((row.layer, row.choice), row) is not row:
                    raise ValueError(f"{row.layer} {row.choice} comes twice")
            except ValueError as error:
                raise TableError(f"line {reader.line_num}: {error}") from error
        if dense is None:
            raise TableError("the table has no row for the dense generator (method 'dense')")
        return SensitivityTable(dense, tuple(rows.values()))


def _scores(e: Evaluation) -> list[float]:
    return [e.fid, e.delta_fid, e.ci_low, e.ci_high]


Cells = Mapping[str, str | None]


def _read_scores(cells: Cells) -> Evaluation:
    fid, delta, low, high = (_read_number(cells, name) for name in COLUMNS[-4:])
    return Evaluation(fid, delta, low, high, 0, "")


def _read_row(cells: Cells, evaluation: Evaluation) -> Row:
    layer, kind, method = (_read_text(cells, name) for name in ("layer", "kind", "method"))
    rank = tuple(_read_int(cells, "rank", part) for part in (cells["rank"] or "").split("x"))
    choice = Factorization(method, rank)  # type: ignore[arg-type]  # checked inside
    params, macs = (_read_int(cells, name, cells[name]) for name in ("params", "macs"))
    return Row(layer, kind, choice, params, macs, evaluation)


def _read_text(cells: Cells, name: str) -> str:
    text = cells[name]
    if not text:
        raise ValueError(f"{name} is empty")
    return text


def _read_int(cells: Cells, name: str, text: str | None) -> int:
    if text is None or not text.isdecimal():
        raise ValueError(f"{name} is {cells[name]!r}, not made of whole numbers")
    return int(text)


def _read_number(cells: Cells, name: str) -> float:
    text = _read_text(cells, name)
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}, not finite")
    return number


def single_layer_plans(choices: Iterable[tuple[str, Factorization]]) -> list[RankPlan]:
    """One plan for each (layer, choice)."""
    return [RankPlan({name: choice}) for name, choice in choices]
