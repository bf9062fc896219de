"""Choose ranks from a recorded table alone: `python -m ard.select table.csv --fid-budget 0.5`.

Reads the `sensitivity.csv` of a sweep, or a plain table `layer,rank,fid,reduction_pct`. Prints
`layer,choice` as CSV. With --penalty each layer is chosen by the published rule; with --fid-budget
the cheapest choices whose single-layer rises in FID add up to no more than the budget. Cheap means
few parameters, few multiply-adds, or little time by a table that `python -m ard.latency` measured.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import tyro

from ard.baselines.rules import penalty_rule
from ard.costs.cost import Quantity, parse_quantity
from ard.costs.latency_table import LatencyTable
from ard.errors import BudgetError, TableError
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import Factorization, RankPlan
from ard.search.budget import FidBudget
from ard.search.recorded import (
    ASSUMED_RATIO,
    DENSE_COLUMNS,
    RecordedCosts,
    counted_costs,
    is_sensitivity,
    latency_costs,
    plan_within,
    ranks_within,
    read_plain,
    read_sensitivity,
    read_text,
    recorded_sizes,
    scored_choices,
)
from nas_gan.cli import DONE, USAGE, run
from nas_gan.errors import InvalidValueError
from nas_gan.files import write_text

Choices = dict[str, int | Factorization | None]


@dataclass(frozen=True)
class SelectConfig:
    """The table, and the rule by which to choose: exactly one of --penalty and --fid-budget."""

    table: Annotated[Path, tyro.conf.Positional]
    """A sensitivity.csv, or a CSV file with the columns layer, rank, fid, reduction_pct."""
    penalty: str | None = None
    """Weight of size against FID in the published rule, as 0.2 or 1/5; more makes smaller."""
    fid_budget: str | None = None
    """Allowed sum of rises: 0.5 is absolute, 5% is relative to the dense generator."""
    dense_fid: float | None = None
    """FID of the dense generator; needed for a plain table, which does not hold it."""
    objective: str = "params"
    """What to make small: params, macs or latency; reduction_pct of a plain table is of it."""
    latency_table: Path | None = None
    """Times of layers, as `python -m ard.latency` measures them; for --objective latency."""
    latency_batch: int | None = None
    """Which batch size of that table counts, where it has several."""
    out: Path | None = None
    """Also write the choices here: a plan if the name ends in .json, else the printed CSV."""


def parse_penalty(text: str) -> float:
    """A number or a fraction of two.

    Raises:
        BudgetError: it is negative or not a number.
    """
    try:
        penalty = float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError, OverflowError):
        penalty = math.nan
    if not penalty >= 0:
        raise BudgetError(f"--penalty {text!r} is not a penalty; give 0 or more, as 0.2 or 1/5")
    return penalty


def choose(config: SelectConfig) -> tuple[Choices, str, list[str]]:
    """What to take for each layer, the word for dense in that table, and remarks for the user.

    Raises:
        TableError: the table cannot be read.
        BudgetError: a number on the command line cannot be used.
        InvalidValueError: the objective is not known, or lacks its table of times.
        LatencyError: a layer was not timed.
    """
    objective = parse_quantity(config.objective)
    if (objective == "latency") != (config.latency_table is not None):
        raise InvalidValueError(
            "--objective latency and --latency-table FILE go together; got --objective "
            f"{objective} and {config.latency_table or 'no table'}"
        )
    if config.dense_fid is not None and not (
        math.isfinite(config.dense_fid) and config.dense_fid >= 0
    ):
        raise BudgetError(f"--dense-fid must be 0 or more; got {config.dense_fid}")
    text = read_text(config.table)
    if is_sensitivity(text):
        choices, remarks = choose_from_sensitivity(config, text, objective)
        return choices, "dense", remarks
    choices, remarks = choose_from_plain(config, text, objective)
    return choices, "nc", remarks


def choose_from_plain(
    config: SelectConfig, text: str, objective: Quantity
) -> tuple[Choices, list[str]]:
    """The choices from a table of bare ranks."""
    rows = read_plain(text)
    if objective == "latency":
        raise TableError(
            f"{config.table}: a table of bare ranks does not say which layers and factorizations "
            "they are of, so no time can be looked up; take --objective params or macs"
        )
    if config.dense_fid is None:
        raise BudgetError(
            f"{config.table} does not hold the dense generator's FID; give it by --dense-fid"
        )
    if config.penalty is not None:
        chosen = penalty_rule(rows, parse_penalty(config.penalty), config.dense_fid)
        return {name: row.choice if row else None for name, row in chosen.items()}, []
    assert config.fid_budget is not None
    allowed = FidBudget.parse(config.fid_budget).absolute(config.dense_fid)
    sizes = recorded_sizes(text, objective)
    remarks = []
    if missing := [name for name in dict.fromkeys(r.layer for r in rows) if name not in sizes]:
        # Sizes of some layers and shares of others do not add up.
        sizes = {}
        remarks.append(
            f"no {DENSE_COLUMNS[objective]} for {_some(missing)}: "
            "a percent of any layer counts as much as of any other"
        )
    chosen = ranks_within(rows, config.dense_fid, allowed, sizes)
    rise = sum(max(row.fid - config.dense_fid, 0) for row in chosen.values() if row)
    return {name: row.choice if row else None for name, row in chosen.items()}, [
        *remarks,
        _estimate(rise, allowed),
    ]


def choose_from_sensitivity(
    config: SelectConfig, text: str, objective: Quantity
) -> tuple[Choices, list[str]]:
    """The choices from the table of a sweep."""
    table = read_sensitivity(text)
    dense_fid = table.dense.fid if config.dense_fid is None else config.dense_fid
    costs = recorded_costs(config, text, table, objective)
    remarks = []
    if costs.assumed and objective != "latency":
        remarks.append(
            f"the dense size of {_some(costs.assumed)} is not in the table and was taken for "
            f"{ASSUMED_RATIO} times its largest row; a column {DENSE_COLUMNS[objective]} "
            "would settle it"
        )
    if config.penalty is not None:
        rows = scored_choices(table, costs)
        picked = penalty_rule(rows, parse_penalty(config.penalty), dense_fid)
        return {name: row.choice if row else None for name, row in picked.items()}, remarks
    assert config.fid_budget is not None
    allowed = FidBudget.parse(config.fid_budget).absolute(dense_fid)
    chosen = plan_within(table, allowed, costs)
    remarks.append(_estimate(sum(option.damage for option in chosen.values()), allowed))
    return {name: option.choice for name, option in chosen.items()}, remarks


def recorded_costs(
    config: SelectConfig, text: str, table: SensitivityTable, objective: Quantity
) -> RecordedCosts:
    """What the layers of the table cost in the objective."""
    if objective != "latency":
        return counted_costs(text, table, objective)
    assert config.latency_table is not None
    times = LatencyTable.read(config.latency_table).at(config.latency_batch)
    return latency_costs(text, table, times)


def _some(names: list[str] | tuple[str, ...]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{rest}"


def _estimate(rise: float, allowed: float) -> str:
    return (
        f"single-layer rises add up to {rise:.4g} of {allowed:.4g} allowed; what the layers do "
        "together is only estimated by that sum, so measure the plan before using it"
    )


def to_csv(choices: Mapping[str, int | Factorization | None], dense: str) -> str:
    """A row for each layer, `dense` being the word for one that stays as it is."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", "choice"))
    writer.writerows((name, dense if c is None else str(c)) for name, c in choices.items())
    return text.getvalue()


def to_plan(choices: Mapping[str, int | Factorization | None]) -> RankPlan:
    """The choices as a plan.

    Raises:
        TableError: the table did not say how its layers were factorized.
    """
    if any(isinstance(choice, int) for choice in choices.values()):
        raise TableError("a table of bare ranks makes no plan; give --out a name ending in .csv")
    return RankPlan({n: c for n, c in choices.items() if isinstance(c, Factorization)})


def main(config: SelectConfig) -> int:
    if (config.penalty is None) == (config.fid_budget is None):
        found = "neither" if config.penalty is None else "both"
        sys.stderr.write(f"error: give one of --penalty and --fid-budget; got {found}\n")
        return USAGE
    choices, dense, remarks = choose(config)
    text = to_csv(choices, dense)
    if config.out is not None:
        as_plan = config.out.suffix == ".json"
        write_text(config.out, to_plan(choices).to_json() + "\n" if as_plan else text)
    for remark in remarks:
        sys.stderr.write(f"note: {remark}\n")
    sys.stdout.write(text)
    return DONE


if __name__ == "__main__":
    sys.exit(run(main, SelectConfig, prog="python -m ard.select", description=__doc__))
