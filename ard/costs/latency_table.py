"""Measured milliseconds of layers, dense and factorized: a table that any net may be priced by.

`python -m edge_bench.layers` writes it on the machine that counts; it is read wherever ranks are
chosen. A layer is known by its signature (`ard.signature`), so a table serves every layer of that
shape in every net. Times of layers add up to that of a net approximately: a layer alone finds its
weights in the cache, and pays for a call that a whole net pays once.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ard.csv_cells import (
    Cells,
    at_line,
    number_cell,
    numbered_rows,
    read_table_text,
    require_columns,
    text_cell,
    whole_cell,
)
from ard.errors import LatencyError, TableError
from ard.layers import LayerProfile
from ard.plan import Factorization
from ard.signature import LayerSignature
from nas_gan.files import write_text

COLUMNS = (
    "signature", "choice", "batch", "milliseconds", "ci_low", "ci_high",
    "runtime", "device", "threads", "precision",
)  # fmt: skip
DENSE = "dense"
REMEDY = "measure it with python -m ard.latency"


@dataclass(frozen=True, order=True)
class Conditions:
    """Under what a time was measured; times under different ones do not compare."""

    batch: int
    runtime: str
    device: str
    threads: int
    precision: str

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"batch {self.batch}, {self.precision}, {self.runtime}, {threads}, on {self.device}"


@dataclass(frozen=True)
class LatencyRow:
    """The median time of one batch through one layer, with the interval of that median.

    `choice` is None for the layer as it is.
    """

    signature: str
    choice: Factorization | None
    milliseconds: float
    ci_low: float
    ci_high: float
    conditions: Conditions


@dataclass(frozen=True)
class LatencyTable:
    """Times by signature and choice.

    >>> under = Conditions(1, "onnxruntime", "a board", 1, "fp32")
    >>> halves = [
    ...     LatencyRow("linear 64x64", Factorization("svd", (rank,)), ms, ms, ms, under)
    ...     for rank, ms in ((4, 1.0), (8, 3.0))
    ... ]
    >>> LatencyTable(tuple(halves)).milliseconds("linear 64x64", Factorization("svd", (5,)))
    1.5
    """

    rows: tuple[LatencyRow, ...]

    @staticmethod
    def read(path: Path) -> LatencyTable:
        """The table in a file.

        Raises:
            TableError: as `from_csv`; the message names the file.
        """
        text = read_table_text(path, COLUMNS)
        try:
            return LatencyTable.from_csv(text)
        except TableError as error:
            raise TableError(f"{path}: {error}") from error

    @staticmethod
    def from_csv(text: str) -> LatencyTable:
        """Read what `to_csv` or `python -m edge_bench.layers` wrote.

        Raises:
            TableError: a column is missing, a time is not a positive number, a layer under one
                choice and the same conditions comes twice, or there is no row.
        """
        require_columns(text, COLUMNS)
        rows: dict[tuple[str, Factorization | None, Conditions], LatencyRow] = {}
        for line, cells in numbered_rows(text):
            with at_line(line):
                row = _read_row(cells)
                if rows.setdefault((row.signature, row.choice, row.conditions), row) is not row:
                    raise ValueError(f"{row.signature} as {_name(row.choice)} comes twice")
        if not rows:
            raise TableError("the latency table is empty: it has a header but no rows")
        return LatencyTable(tuple(rows.values()))

    def to_csv(self) -> str:
        """The columns of `COLUMNS`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.rows:
            c = row.conditions
            times = (row.milliseconds, row.ci_low, row.ci_high)
            place = (c.runtime, c.device, c.threads, c.precision)
            writer.writerow([row.signature, _name(row.choice), c.batch, *times, *place])
        return text.getvalue()

    def save(self, path: Path) -> None:
        """Write `to_csv`, whole or not at all."""
        write_text(path, self.to_csv())

    @property
    def conditions(self) -> tuple[Conditions, ...]:
        """Every set of conditions that occurs, sorted."""
        return tuple(sorted({row.conditions for row in self.rows}))

    def at(self, batch: int | None = None) -> LatencyTable:
        """The rows of one batch size, which were all measured under the same conditions.

        `batch` may be left out where the table has only one.

        Raises:
            LatencyError: no row has that batch size, or the rows do not compare.
        """
        rows = tuple(r for r in self.rows if batch is None or r.conditions.batch == batch)
        chosen = LatencyTable(rows)
        if not rows:
            found = sorted({str(c.batch) for c in self.conditions}, key=int)
            raise LatencyError(
                f"the latency table has no times at batch {batch}, only at {', '.join(found)}; "
                "measure that size too, or choose one of these"
            )
        if len(chosen.conditions) > 1:
            listed = "; ".join(map(str, chosen.conditions))
            remedy = (
                "choose one by its batch size"
                if len({c.batch for c in chosen.conditions}) == len(chosen.conditions)
                else "keep the rows of one of them in a file of their own"
            )
            raise LatencyError(
                f"the latency table was measured under several conditions, whose times do not "
                f"compare ({listed}); {remedy}"
            )
        return chosen

    def milliseconds(self, signature: str, choice: Factorization | None) -> float:
        """The time of a layer with that signature under a choice.

        What was measured is returned as it was. Between two measured ranks of the same method the
        time lies on the straight line through its two neighbours, over the number of weights; so it
        never leaves the range between them, and never falls as the rank grows where they do not.
        Outside of the measured ranks there is no answer: kernels have a floor that no line knows.

        Raises:
            LatencyError: it was not measured, nor were a smaller and a larger rank.
        """
        exact = self._times.get((signature, choice))
        if exact is not None:
            return exact
        if choice is None:
            raise LatencyError(f"the latency table has no dense {signature}; {REMEDY}")
        points = self._curve(signature, choice.method)
        if not points:
            raise LatencyError(f"the latency table has no {choice} of {signature}; {REMEDY}")
        weights = _weights(signature, choice)
        below = [point for point in points if point[0] <= weights]
        above = [point for point in points if point[0] >= weights]
        if not below or not above:
            (_, _, smallest), (_, _, largest) = points[0], points[-1]
            raise LatencyError(
                f"the latency table has no {choice} of {signature}, only {smallest} to {largest}, "
                f"and times are not extrapolated; {REMEDY} and more fractions"
            )
        (x0, y0, _), (x1, y1, _) = below[-1], above[0]
        return y0 if x1 == x0 else y0 + (y1 - y0) * (weights - x0) / (x1 - x0)

    @cached_property
    def _times(self) -> dict[tuple[str, Factorization | None], float]:
        return {(row.signature, row.choice): row.milliseconds for row in self.rows}

    def _curve(self, signature: str, method: str) -> list[tuple[int, float, Factorization]]:
        """`(weights, milliseconds, choice)` of one layer by one method, the smallest first."""
        return sorted(
            (_weights(signature, choice), milliseconds, choice)
            for (of, choice), milliseconds in self._times.items()
            if of == signature and choice is not None and choice.method == method
        )


def _weights(signature: str, choice: Factorization) -> int:
    layer = LayerSignature.parse(signature)
    shape = LayerProfile("", layer.kind, layer.weight_shape, groups=layer.groups)
    return shape.params(choice)


def _name(choice: Factorization | None) -> str:
    return DENSE if choice is None else str(choice)


def _read_row(cells: Cells) -> LatencyRow:
    choice = text_cell(cells, "choice")
    median, low, high = (number_cell(cells, n) for n in ("milliseconds", "ci_low", "ci_high"))
    if min(median, low, high) <= 0:
        raise ValueError(f"a time is {min(median, low, high):g} ms; it must be above 0")
    return LatencyRow(
        text_cell(cells, "signature"),
        None if choice == DENSE else Factorization.parse(choice),
        median,
        low,
        high,
        Conditions(
            whole_cell(cells, "batch"),
            text_cell(cells, "runtime"),
            text_cell(cells, "device"),
            whole_cell(cells, "threads"),
            text_cell(cells, "precision"),
        ),
    )
