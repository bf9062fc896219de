"""Measuring plans one after another, and the table of what each layer costs in quality."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ard.csv_cells import (
    Cells,
    at_line,
    number_cell,
    numbered_rows,
    require_columns,
    text_cell,
    whole_cell,
    whole_cells,
)
from ard.errors import TableError
from ard.layers import LayerProfile
from ard.measuring.evaluate import Evaluation
from ard.plan import Factorization
from ard.signature import join_signatures
from nas_gan.files import write_text

COLUMNS = (
    "layer", "kind", "method", "rank", "params", "macs", "fid", "delta_fid", "ci_low", "ci_high"
)  # fmt: skip
# Samples behind the score (0: estimated), what the layer cost before, and what decides its speed.
MORE = ("samples", "dense_params", "dense_macs", "signature")


@dataclass(frozen=True)
class Row:
    """One layer under one choice, all other layers dense.

    `dense_params` and `dense_macs` are those of the layer before, 0 where nobody wrote them down.
    `signature` says what decides its speed (see `ard.signature`); it may be empty. An evaluation
    of 0 samples is an estimate.
    """

    layer: str
    kind: str
    choice: Factorization
    params: int
    macs: int
    evaluation: Evaluation
    dense_params: int = 0
    dense_macs: int = 0
    signature: str = ""


@dataclass(frozen=True)
class SensitivityTable:
    """Dense score and single-layer scores: all that a controller reads."""

    dense: Evaluation
    rows: tuple[Row, ...]

    @staticmethod
    def of(
        dense: Evaluation,
        scores: Mapping[tuple[str, Factorization], Evaluation],
        layers: Sequence[LayerProfile],
    ) -> SensitivityTable:
        """A table from the dense score and those of single layers under single choices."""
        profiles = {layer.name: layer for layer in layers}
        rows = []
        for (name, choice), evaluation in scores.items():
            layer = profiles[name]
            rows.append(
                Row(
                    name,
                    layer.kind,
                    choice,
                    layer.params(choice),
                    layer.macs(choice),
                    evaluation,
                    layer.params(),
                    layer.macs(),
                    join_signatures(layer.signatures),
                )
            )
        return SensitivityTable(dense, tuple(rows))

    def of_layer(self, name: str) -> tuple[Row, ...]:
        """The rows of one layer."""
        return tuple(row for row in self.rows if row.layer == name)

    def measured(self) -> dict[tuple[str, Factorization], Evaluation]:
        """What was measured, not estimated."""
        return {(r.layer, r.choice): r.evaluation for r in self.rows if r.evaluation.n_samples}

    def to_csv(self) -> str:
        """The columns of `COLUMNS` and `MORE`; the dense generator is the row without a layer."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *MORE])
        samples = self.dense.n_samples
        writer.writerow(["", "", "dense", "", "", "", *_scores(self.dense), samples, "", "", ""])
        for row in self.rows:
            rank = "x".join(map(str, row.choice.rank))
            writer.writerow(
                [
                    *(row.layer, row.kind, row.choice.method, rank, row.params, row.macs),
                    *_scores(row.evaluation),
                    *(row.evaluation.n_samples, row.dense_params or "", row.dense_macs or ""),
                    row.signature,
                ]
            )
        return text.getvalue()

    def save(self, path: Path) -> None:
        """Write `to_csv`, whole or not at all."""
        write_text(path, self.to_csv())

    @staticmethod
    def from_csv(text: str) -> SensitivityTable:
        """Read what `to_csv` wrote; the columns of `MORE` may be missing.

        Raises:
            TableError: a column is missing, a number is not finite, or a row comes twice.
        """
        require_columns(text, COLUMNS)
        dense: Evaluation | None = None
        rows: dict[tuple[str, Factorization], Row] = {}
        for line, cells in numbered_rows(text):
            with at_line(line):
                evaluation = _read_scores(cells)
                if cells["method"] == "dense":
                    if dense is not None:
                        raise ValueError("the dense generator comes twice")
                    dense = evaluation
                    continue
                row = _read_row(cells, evaluation)
                if rows.setdefault((row.layer, row.choice), row) is not row:
                    raise ValueError(f"{row.layer} {row.choice} comes twice")
        if dense is None:
            raise TableError("the table has no row for the dense generator (method 'dense')")
        return SensitivityTable(dense, tuple(rows.values()))


def _scores(e: Evaluation) -> list[float]:
    return [e.fid, e.delta_fid, e.ci_low, e.ci_high]


def _read_scores(cells: Cells) -> Evaluation:
    fid, delta, low, high = (number_cell(cells, name) for name in COLUMNS[-4:])
    return Evaluation(fid, delta, low, high, _count(cells, "samples"), "")


def _read_row(cells: Cells, evaluation: Evaluation) -> Row:
    layer, kind, method = (text_cell(cells, name) for name in ("layer", "kind", "method"))
    rank = whole_cells(cells, "rank")
    choice = Factorization(method, rank)
    params, macs = whole_cell(cells, "params"), whole_cell(cells, "macs")
    dense_params, dense_macs = _count(cells, "dense_params"), _count(cells, "dense_macs")
    signature = cells.get("signature") or ""
    return Row(layer, kind, choice, params, macs, evaluation, dense_params, dense_macs, signature)


def _count(cells: Cells, name: str) -> int:
    """A whole number that may be missing or 0."""
    return whole_cell(cells, name) if cells.get(name) not in (None, "", "0") else 0
