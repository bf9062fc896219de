"""The sensitivity table: how much factorizing each layer alone costs in quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ard.csv_cells import (
    Cells,
    at_line,
    header,
    number_cell,
    numbered_rows,
    require_columns,
    text_cell,
    whole_cell,
    whole_cells,
)
from ard.errors import TableError
from ard.layers import Part
from ard.measuring.score import Score, metric_of_rise, score_columns
from ard.plan import Factorization, Replacement, replacement
from ard.signature import join_signatures
from nas_gan.files import write_text
from nas_gan.networks.gates import FORMS
from nas_gan.tables import csv_text

# The columns before those of the score; see `ard.measuring.score.score_columns`.
CHOICE_COLUMNS = ("layer", "kind", "method", "rank", "params", "macs")
# The images of the score (0: estimated), the cost of the dense layer, and its signature.
MORE = ("samples", "dense_params", "dense_macs", "signature")


def columns_of(metric: str) -> tuple[str, ...]:
    """The columns that a table for this metric must have."""
    return (*CHOICE_COLUMNS, *score_columns(metric))


@dataclass(frozen=True)
class Row:
    """The score with one layer factorized and all others dense.

    Attributes:
        layer: the name of the layer.
        kind: its kind, such as `conv2d`.
        choice: its factorization.
        params: parameters of the factorized layer.
        macs: MACs of the factorized layer, per image.
        score: the score of the whole generator.
        dense_params: parameters of the dense layer; 0 if not recorded.
        dense_macs: MACs of the dense layer; 0 if not recorded.
        signature: what determines its speed (see `ard.signature`); may be empty.
    """

    layer: str
    kind: str
    choice: Replacement
    params: int
    macs: int
    score: Score
    dense_params: int = 0
    dense_macs: int = 0
    signature: str = ""


@dataclass(frozen=True)
class SensitivityTable:
    """The score of the dense generator and the single-layer scores."""

    dense: Score
    rows: tuple[Row, ...]

    @staticmethod
    def of(
        dense: Score,
        scores: Mapping[tuple[str, Replacement], Score],
        layers: Sequence[Part],
    ) -> SensitivityTable:
        """The table of a dense score and of single-layer scores by (layer, choice)."""
        profiles = {layer.name: layer for layer in layers}
        rows = []
        for (name, choice), score in scores.items():
            layer = profiles[name]
            rows.append(
                Row(
                    name,
                    layer.kind,
                    choice,
                    layer.params(choice),
                    layer.macs(choice),
                    score,
                    layer.params(),
                    layer.macs(),
                    join_signatures(layer.signatures),
                )
            )
        return SensitivityTable(dense, tuple(rows))

    def of_layer(self, name: str) -> tuple[Row, ...]:
        """The rows of one layer."""
        return self._by_layer.get(name, ())

    @cached_property
    def _by_layer(self) -> dict[str, tuple[Row, ...]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.layer, []).append(row)
        return {name: tuple(rows) for name, rows in found.items()}

    @property
    def metric(self) -> str:
        """The metric of the scores."""
        return self.dense.metric

    def measured(self) -> dict[tuple[str, Replacement], Score]:
        """The scores that were measured, not estimated."""
        return {(r.layer, r.choice): r.score for r in self.rows if r.score.measured}

    def to_csv(self) -> str:
        """CSV of `columns_of(metric)` and `MORE`; the dense row has no layer."""
        rows: list[list[object]] = [
            ["", "", "dense", "", "", "", *_scores(self.dense), _samples(self.dense), "", "", ""]
        ]
        rows += [
            [
                *(row.layer, row.kind, row.choice.method, "x".join(map(str, row.choice.rank))),
                *(row.params, row.macs, *_scores(row.score), _samples(row.score)),
                *(row.dense_params or "", row.dense_macs or "", row.signature),
            ]
            for row in self.rows
        ]
        return csv_text((*columns_of(self.metric), *MORE), rows)

    def save(self, path: Path) -> None:
        """Write `to_csv` atomically."""
        write_text(path, self.to_csv())

    @staticmethod
    def from_csv(text: str) -> SensitivityTable:
        """Parse the output of `to_csv`; the columns of `MORE` may be missing.

        Raises:
            TableError: a column is missing, a number is not finite, or a row is duplicated.
        """
        metric = metric_of_rise(header(text)) or "fid"
        require_columns(text, columns_of(metric))
        dense: Score | None = None
        rows: dict[tuple[str, Replacement], Row] = {}
        for line, cells in numbered_rows(text):
            with at_line(line):
                score = _read_score(cells, metric)
                if cells["method"] == "dense":
                    if dense is not None:
                        raise ValueError("the dense generator comes twice")
                    dense = score
                    continue
                row = _read_row(cells, score)
                if rows.setdefault((row.layer, row.choice), row) is not row:
                    raise ValueError(f"{row.layer} {row.choice} comes twice")
        if dense is None:
            raise TableError("the table has no row for the dense generator (method 'dense')")
        return SensitivityTable(dense, tuple(rows.values()))


def _scores(score: Score) -> list[float]:
    return [score.value, score.rise, score.ci_low, score.ci_high]


def _samples(score: Score) -> int:
    """The images of a score, 0 for an estimate."""
    return score.n_images if score.measured else 0


def _read_score(cells: Cells, metric: str) -> Score:
    value, rise, low, high = (number_cell(cells, name) for name in score_columns(metric))
    samples = _count(cells, "samples")
    if low > high:
        raise ValueError(f"the interval {low:g} to {high:g} is not in order")
    return Score(
        metric=metric,
        value=value,
        rise=rise,
        ci_low=low,
        ci_high=high,
        n_images=samples,
        features="",
        measured=samples > 0,
    )


def _read_row(cells: Cells, score: Score) -> Row:
    layer, kind, method = (text_cell(cells, name) for name in ("layer", "kind", "method"))
    choice = replacement(method, () if method in FORMS else whole_cells(cells, "rank"))
    params = whole_cell(cells, "params")
    # A gate has no multiply-adds to count.
    macs = whole_cell(cells, "macs") if isinstance(choice, Factorization) else 0
    dense_params, dense_macs = _count(cells, "dense_params"), _count(cells, "dense_macs")
    signature = cells.get("signature") or ""
    return Row(layer, kind, choice, params, macs, score, dense_params, dense_macs, signature)


def _count(cells: Cells, name: str) -> int:
    """A whole number that may be missing or 0."""
    return whole_cell(cells, name) if cells.get(name) not in (None, "", "0") else 0
