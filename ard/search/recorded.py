"""Recorded single-layer scores, and choosing a plan from them without measuring.

There are two kinds of table. A plain table has one row per layer and rank, with the columns `layer,
rank, fid, reduction_pct`; it does not say how layers were factorized. The other kind is the
`sensitivity.csv` of a sweep. Both may have the columns `dense_params` and `dense_macs`, the cost of
the dense layer. A `sensitivity.csv` may have `signature`, which identifies the layer in a latency
table.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ard.costs.cost import LatencyCost
from ard.costs.latency_table import LatencyTable
from ard.csv_cells import (
    Cells,
    at_line,
    header,
    number_cell,
    numbered_rows,
    read_table_text,
    require_columns,
    text_cell,
    whole_cell,
)
from ard.errors import RankError, TableError
from ard.factorization.methods import METHODS
from ard.layers import LayerProfile, Part
from ard.measuring.score import metric_of_rise
from ard.measuring.sensitivity import Row, SensitivityTable
from ard.plan import Factorization, Replacement
from ard.search.allocation import N_BINS, Knapsack, Option
from ard.search.ladder import layer_options
from ard.signature import split_signatures
from nas_gan.networks.layer_types import Kind

PLAIN_COLUMNS = ("layer", "rank", "fid", "reduction_pct")
# Columns that only a sensitivity table has; any of them tells the two kinds apart.
SENSITIVITY_ONLY = ("kind", "method", "ci_low", "ci_high")
Value = TypeVar("Value")
DENSE_COLUMNS: dict[str, str] = {"params": "dense_params", "macs": "dense_macs"}
SIGNATURE = "signature"
# A layer of unknown dense size is assumed to be this many times its largest row, because the
# largest choice of a sweep keeps about half of the weights.
ASSUMED_RATIO = 2
MAX_SIDE, MAX_KERNEL = 1024, 11


@dataclass(frozen=True)
class ScoredChoice:
    """The score of a generator with one layer replaced.

    Attributes:
        layer: the layer's name.
        choice: what replaces it; a bare rank if the table does not name the method.
        value: the score of the whole generator.
        reduction_pct: the reduction in size of the layer in percent; negative if it grew.
    """

    layer: str
    choice: int | Replacement
    value: float
    reduction_pct: float

    @property
    def order(self) -> float:
        """A sort key, from the smallest to the largest choice of a layer."""
        return self.choice if isinstance(self.choice, int) else -self.reduction_pct


def read_text(path: Path) -> str:
    """The text of a table, without a byte order mark.

    Raises:
        TableError: the file is empty or not text.
    """
    return read_table_text(path, PLAIN_COLUMNS)


def is_sensitivity(text: str) -> bool:
    """Whether this is a sensitivity table, even one that lacks columns."""
    columns = header(text)
    return metric_of_rise(columns) is not None or any(name in columns for name in SENSITIVITY_ONLY)


# -- plain tables


def read_plain(text: str) -> tuple[ScoredChoice, ...]:
    """The rows of a plain table, in order.

    Raises:
        TableError: a column is missing, there are no rows, a (layer, rank) is duplicated, or a
            value is invalid.
    """
    require_columns(text, PLAIN_COLUMNS)
    rows: dict[tuple[str, int | Replacement], ScoredChoice] = {}
    for line, cells in numbered_rows(text):
        with at_line(line):
            row = ScoredChoice(
                text_cell(cells, "layer"),
                whole_cell(cells, "rank"),
                number_cell(cells, "fid"),
                number_cell(cells, "reduction_pct"),
            )
            if row.reduction_pct > 100:
                raise ValueError(f"reduction_pct is {row.reduction_pct:g}, above 100")
            if rows.setdefault((row.layer, row.choice), row) is not row:
                raise ValueError(f"layer {row.layer}, rank {row.choice} comes twice")
    if not rows:
        raise TableError("the table is empty: it has a header but no rows")
    return tuple(rows.values())


def ranks_within(
    rows: Sequence[ScoredChoice], dense: float, allowed: float, sizes: Mapping[str, float]
) -> dict[str, ScoredChoice | None]:
    """A row per layer, None for dense: the smallest total size with total rise within `allowed`.

    A multiple-choice knapsack. A score below the dense one counts as no rise: it is noise, and must
    not pay for another layer's damage.

    Args:
        rows: the rows of a plain table.
        dense: the dense generator's score.
        allowed: the largest sum of rises.
        sizes: sizes of the dense layers by name; a layer without one has size 1.
    """
    names = list(dict.fromkeys(row.layer for row in rows))
    candidates: list[list[ScoredChoice | None]] = []
    options: list[list[Option]] = []
    for name in names:
        of_layer = [row for row in rows if row.layer == name]
        size = sizes.get(name, 1.0)
        candidates.append([None, *of_layer])
        options.append(
            [
                Option(None, size, 0.0),
                *(
                    Option(None, size * (1 - r.reduction_pct / 100), max(r.value - dense, 0.0))
                    for r in of_layer
                ),
            ]
        )
    return {
        name: next(c for c, o in zip(rows_, options_, strict=True) if o is option)
        for name, rows_, options_, option in zip(
            names, candidates, options, _allocate(options, allowed), strict=True
        )
    }


def _allocate(options: Sequence[Sequence[Option]], allowed: float) -> list[Option]:
    """An allocation without the loss from rounding damages to whole bins.

    With a slightly larger allowance, every plan within `allowed` also fits after rounding, so a
    result that is within `allowed` is the optimum for the exact damages.
    """
    knapsack = Knapsack(options)
    for bins in (len(options), len(options) / 4, 0):
        chosen = knapsack.within(allowed * (1 + bins / N_BINS))
        # Sums of decimal scores equal a decimal budget only up to rounding errors.
        if math.fsum(option.damage for option in chosen) <= allowed * (1 + 1e-9):
            break
    return chosen


# -- sensitivity tables


def read_sensitivity(text: str) -> SensitivityTable:
    """Parse a sensitivity table with at least one layer.

    Raises:
        TableError: as `SensitivityTable.from_csv`, or the table scores no layer.
    """
    try:
        table = SensitivityTable.from_csv(text)
    except csv.Error as error:
        raise TableError(f"not a CSV table: {error}") from error
    if not table.rows:
        raise TableError("the table is empty: it scores no layer")
    return table


@dataclass(frozen=True)
class RecordedCosts:
    """The costs of a table's layers, dense and under each recorded choice.

    Attributes:
        dense: costs by layer.
        factorized: costs by layer and choice.
        assumed: the layers whose dense cost is only assumed.
    """

    dense: Mapping[str, float]
    factorized: Mapping[tuple[str, Replacement], float]
    assumed: tuple[str, ...] = ()

    def __call__(self, layer: Part, choice: Replacement | None) -> float:
        """The cost as an `ard.costs.cost.LayerCost`; only the name of the layer matters."""
        return self.dense[layer.name] if choice is None else self.factorized[layer.name, choice]


def scored_choices(table: SensitivityTable, costs: RecordedCosts) -> tuple[ScoredChoice, ...]:
    """The rows of a table with their reductions in cost."""
    return tuple(
        ScoredChoice(
            row.layer,
            row.choice,
            row.score.value,
            100 * (1 - costs.factorized[row.layer, row.choice] / costs.dense[row.layer]),
        )
        for row in table.rows
    )


def plan_within(table: SensitivityTable, allowed: float, costs: RecordedCosts) -> dict[str, Option]:
    """The options, by layer, of the cheapest plan with a total damage within `allowed`.

    Damages are those of the controller: monotone in cost per method, and at least half the upper
    end of their interval.
    """
    names = list(dict.fromkeys(row.layer for row in table.rows))
    options = [
        layer_options(LayerProfile(name, "linear", (1, 1)), table.of_layer(name), costs)
        for name in names
    ]
    return dict(zip(names, _allocate(options, allowed), strict=True))


# -- what the layers cost


def counted_costs(text: str, table: SensitivityTable, quantity: str) -> RecordedCosts:
    """Parameters or multiply-adds from the rows, and from `dense_sizes` for the dense layers.

    Raises:
        TableError: a layer has two different dense sizes.
    """
    dense, assumed = dense_sizes(text, table, quantity)
    recorded = {(row.layer, row.choice): float(getattr(row, quantity)) for row in table.rows}
    return RecordedCosts(dense, recorded, assumed)


def latency_costs(text: str, table: SensitivityTable, times: LatencyTable) -> RecordedCosts:
    """Milliseconds of the layers, looked up by the column `signature`.

    Raises:
        TableError: a layer has no signature, or two different ones.
        LatencyError: the time of a layer or a choice is missing.
    """
    names = dict.fromkeys(row.layer for row in table.rows)
    signatures = recorded_signatures(text)
    if missing := [name for name in names if name not in signatures]:
        raise TableError(
            f"the table has no {SIGNATURE} for {missing[0]}, so its times cannot be looked up; "
            "sweep again with this version, or choose another objective"
        )
    cost = LatencyCost(times)
    layers = {
        name: LayerProfile(name, "linear", (1, 1), signatures=signatures[name]) for name in names
    }
    return RecordedCosts(
        {name: cost(layer, None) for name, layer in layers.items()},
        {(r.layer, r.choice): cost(layers[r.layer], r.choice) for r in table.rows},
    )


def recorded_signatures(text: str) -> dict[str, tuple[str, ...]]:
    """The signatures of each layer; empty if the table has no such column.

    Raises:
        TableError: a layer has two different ones.
    """
    found = _by_layer(text, SIGNATURE, text_cell)
    return {layer: split_signatures(joined) for layer, joined in found.items()}


def dense_sizes(
    text: str, table: SensitivityTable, quantity: str
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The dense cost of every layer, and the names of the layers whose cost is only assumed.

    The cost is read from its column if there is one, else inferred from the costs of the rows, else
    assumed to be `ASSUMED_RATIO` times the largest row.

    Raises:
        TableError: a layer has two different dense sizes.
    """
    sizes: dict[str, float] = dict(recorded_sizes(text, quantity))
    assumed = []
    for name in dict.fromkeys(row.layer for row in table.rows):
        rows = table.of_layer(name)
        if name not in sizes:
            layer = infer_layer(rows)
            if layer is None:
                assumed.append(name)
                sizes[name] = ASSUMED_RATIO * max(getattr(row, quantity) for row in rows)
            else:
                sizes[name] = getattr(layer, quantity)()
    return sizes, tuple(assumed)


def recorded_sizes(text: str, quantity: str) -> dict[str, int]:
    """The recorded dense cost of each layer; empty if the table has no such column.

    Raises:
        TableError: a cell is not a whole number, or a layer has two different sizes.
    """
    return _by_layer(text, DENSE_COLUMNS[quantity], whole_cell)


def _by_layer(text: str, column: str, read: Callable[[Cells, str], Value]) -> dict[str, Value]:
    """The value of a column for each layer; cells of one layer must agree or be empty."""
    values: dict[str, Value] = {}
    if column not in header(text):
        return values
    for line, cells in numbered_rows(text):
        layer = (cells.get("layer") or "").strip()
        if not layer or not (cells.get(column) or "").strip():
            continue
        with at_line(line):
            value = read(cells, column)
            if values.setdefault(layer, value) != value:
                raise ValueError(f"{column} of {layer} is {value} here and {values[layer]} above")
    return values


def infer_layer(rows: Sequence[Row]) -> LayerProfile | None:
    """The only layer whose factorizations cost exactly what the rows say, or None.

    Parameters include the bias and MACs do not, so at `p` output positions `params - macs / p` is
    the number of biases, which is the number of output channels. One row then gives the number of
    input channels for each kernel size, and the other rows confirm it or rule it out. The search
    covers layers with a bias, a square kernel, and as many input as output positions. The result is
    None if no layer fits, or if several with different costs do.
    """
    fitting: dict[tuple[int, int], LayerProfile] = {}
    for side in range(1, MAX_SIDE + 1):
        positions = side**2
        biases = {row.params - row.macs // positions for row in rows}
        if len(biases) > 1 or any(row.macs % positions for row in rows) or min(biases) < 1:
            continue
        for layer in _layers_like(rows[0], biases.pop(), positions):
            if _explains(layer, rows):
                fitting.setdefault((layer.params(), layer.macs()), layer)
    return next(iter(fitting.values())) if len(fitting) == 1 else None


def _layers_like(row: Row, c_out: int, positions: int) -> Iterator[LayerProfile]:
    """Layers with `c_out` outputs, one per kernel size, for which the row's `params` are right."""
    if not isinstance(row.choice, Factorization):
        return  # an activation has no kernel
    choice = row.choice
    kernels = (1,) if row.kind == "linear" else range(1, MAX_KERNEL + 1)
    kind: Kind = "linear" if row.kind == "linear" else "conv2d"
    for k in kernels:
        # The weights of every factorization are linear in c_in: offset + slope c_in.
        offset, one = (_weights(choice, c_out, c_in, k) for c_in in (0, 1))
        c_in, rest = divmod(row.params - c_out - offset, one - offset)
        if c_in > 0 and rest == 0:
            shape = (c_out, c_in) if kind == "linear" else (c_out, c_in, k, k)
            yield LayerProfile(row.layer, kind, shape, positions=positions)


def _weights(choice: Factorization, c_out: int, c_in: int, k: int) -> int:
    return sum(METHODS[choice.method].factor_sizes(choice.rank, (c_out, c_in, k, k)))


def _explains(layer: LayerProfile, rows: Sequence[Row]) -> bool:
    try:
        costs = [(layer.params(row.choice), layer.macs(row.choice)) for row in rows]
    except RankError:
        return False
    smaller = all(row.params < layer.params() for row in rows)
    return smaller and costs == [(row.params, row.macs) for row in rows]
