"""Measured times of layers, dense and factorized, from which plans are priced.

`python -m edge_bench.layers` writes the table on the target machine; it can be read anywhere.
Layers are identified by their signatures (`ard.signature`), so a table serves all layers of the
same shape in all networks. The times of layers add up to that of a network only approximately: a
single layer finds its weights in the cache, and pays the overhead of a call that a whole network
pays once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ard.activations import ActivationProfile
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
from ard.plan import Factorization, Replacement, parse_replacement
from ard.signature import LayerSignature
from nas_gan.files import write_text
from nas_gan.tables import csv_text

COLUMNS = (
    "signature", "choice", "batch", "milliseconds", "ci_low", "ci_high",
    "runtime", "device", "threads", "precision",
)  # fmt: skip
DENSE = "dense"
REMEDY = "measure it with python -m ard.latency"


@dataclass(frozen=True, order=True)
class Conditions:
    """The conditions of a measurement; times under different conditions are not comparable."""

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

    `choice` is None for the dense layer.
    """

    signature: str
    choice: Replacement | None
    milliseconds: float
    ci_low: float
    ci_high: float
    conditions: Conditions


@dataclass(frozen=True)
class LatencyTable:
    """Times by signature and choice, in milliseconds.

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
        """Parse the output of `to_csv` or of `python -m edge_bench.layers`.

        Raises:
            TableError: a column is missing, a time is not a positive number, a measurement is
                duplicated, or there are no rows.
        """
        require_columns(text, COLUMNS)
        rows: dict[tuple[str, Replacement | None, Conditions], LatencyRow] = {}
        for line, cells in numbered_rows(text):
            with at_line(line):
                row = _read_row(cells)
                if rows.setdefault((row.signature, row.choice, row.conditions), row) is not row:
                    raise ValueError(f"{row.signature} as {_name(row.choice)} comes twice")
        if not rows:
            raise TableError("the latency table is empty: it has a header but no rows")
        return LatencyTable(tuple(rows.values()))

    def to_csv(self) -> str:
        """CSV with the columns `COLUMNS`."""
        rows = []
        for row in self.rows:
            c = row.conditions
            times = (row.milliseconds, row.ci_low, row.ci_high)
            place = (c.runtime, c.device, c.threads, c.precision)
            rows.append((row.signature, _name(row.choice), c.batch, *times, *place))
        return csv_text(COLUMNS, rows)

    def save(self, path: Path) -> None:
        """Write `to_csv` atomically."""
        write_text(path, self.to_csv())

    @property
    def conditions(self) -> tuple[Conditions, ...]:
        """All conditions in the table, sorted."""
        return tuple(sorted({row.conditions for row in self.rows}))

    def prices(self, activation: ActivationProfile) -> bool:
        """Whether an activation and every gate in its place were timed; older tables lack them."""
        return all(
            (signature, choice) in self._times
            for signature in activation.signatures
            for choice in (None, *activation.choices())
        )

    def at(self, batch: int | None = None) -> LatencyTable:
        """The rows of one batch size, which must all have the same conditions.

        `batch` may be None if the table has only one batch size.

        Raises:
            LatencyError: there are no rows of that batch size, or their conditions differ.
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
                else "keep only the rows of one of them"
            )
            raise LatencyError(
                "the latency table was measured under several conditions, whose times are not "
                f"comparable ({listed}); {remedy}"
            )
        return chosen

    def milliseconds(self, signature: str, choice: Replacement | None) -> float:
        """The time of a layer with this signature under a choice, in milliseconds.

        A measured time is returned as it is. Between two measured ranks of the same method, times
        are interpolated linearly in the number of weights, so they stay between their neighbours
        and are monotone in the rank if those are. Times are not extrapolated: a kernel has a
        minimum time that a line does not show.

        Raises:
            LatencyError: neither this rank was measured, nor both a smaller and a larger one.
        """
        exact = self._times.get((signature, choice))
        if exact is not None:
            return exact
        if choice is None:
            raise LatencyError(f"the latency table has no dense {signature}; {REMEDY}")
        points = self._curve(signature, choice.method)
        if not points or not isinstance(choice, Factorization):
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
    def _times(self) -> dict[tuple[str, Replacement | None], float]:
        return {(row.signature, row.choice): row.milliseconds for row in self.rows}

    def _curve(self, signature: str, method: str) -> list[tuple[int, float, Factorization]]:
        """`(weights, milliseconds, choice)` of a layer with one method, the smallest first."""
        return sorted(
            (_weights(signature, choice), milliseconds, choice)
            for (of, choice), milliseconds in self._times.items()
            if of == signature and isinstance(choice, Factorization) and choice.method == method
        )


def _weights(signature: str, choice: Factorization) -> int:
    layer = LayerSignature.parse(signature)
    shape = LayerProfile("", layer.kind, layer.weight_shape, groups=layer.groups)
    return shape.params(choice)


def _name(choice: Replacement | None) -> str:
    return DENSE if choice is None else str(choice)


def _read_row(cells: Cells) -> LatencyRow:
    choice = text_cell(cells, "choice")
    median, low, high = (number_cell(cells, n) for n in ("milliseconds", "ci_low", "ci_high"))
    if min(median, low, high) <= 0:
        raise ValueError(f"a time is {min(median, low, high):g} ms; it must be above 0")
    if low > high:
        raise ValueError(f"the interval {low:g} to {high:g} is not in order")
    return LatencyRow(
        text_cell(cells, "signature"),
        None if choice == DENSE else parse_replacement(choice),
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
