"""Choose ranks from a recorded table, without measuring anything.

    python -m ard.select table.csv --fid-budget 0.5

Reads the `sensitivity.csv` of a sweep, or a plain table `layer,rank,fid,reduction_pct`. Prints
`layer,choice` as CSV. With --penalty each layer is chosen by the published rule; with a budget the
cheapest choices whose single-layer rises add up to no more than the budget. Cheap means few
parameters, few multiply-adds, or little time by a table that `python -m ard.latency` measured.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ard.costs.latency_table import LatencyTable
from ard.costs.objectives import objective_named
from ard.search.budget import Budget
from ard.selection import Priced, Rule, parse_penalty, select
from nas_gan.cli import DONE, run
from nas_gan.errors import InvalidValueError, UsageError
from nas_gan.files import write_text


@dataclass(frozen=True)
class SelectConfig:
    """The table, and the rule by which to choose: exactly one of --penalty and a budget."""

    table: Annotated[Path, tyro.conf.Positional]
    """A sensitivity.csv, or a CSV file with the columns layer, rank, fid, reduction_pct."""
    penalty: str | None = None
    """Weight of size against FID in the published rule, as 0.2 or 1/5; more makes smaller."""
    fid_budget: str | None = None
    """Allowed sum of rises: 0.5 is absolute, 5% is relative to the dense generator."""
    quality_budget: str | None = None
    """The same for a table of another metric."""
    dense_fid: float | None = None
    """Score of the dense generator; needed for a plain table, which does not hold it."""
    objective: str = "params"
    """What to make small: params, macs or latency; reduction_pct of a plain table is of it."""
    latency_table: Path | None = None
    """Times of layers, as `python -m ard.latency` measures them; for --objective latency."""
    latency_batch: int | None = None
    """Which batch size of that table counts, if it has several."""
    out: Path | None = None
    """Also write the choices here: a plan if the name ends in .json, else the printed CSV."""


def rule_of(config: SelectConfig) -> Rule:
    """The one rule that was given.

    Raises:
        UsageError: none was given, or several.
    """
    given = {
        "--penalty": config.penalty,
        "--fid-budget": config.fid_budget,
        "--quality-budget": config.quality_budget,
    }
    found = [option for option, value in given.items() if value is not None]
    if len(found) != 1:
        got = "neither" if not found else "both" if len(found) == 2 else "all"
        raise UsageError(
            f"give one of --penalty and --fid-budget; got {got} "
            "(--quality-budget is for tables of another metric)"
        )
    if config.penalty is not None:
        return Rule(parse_penalty(config.penalty), None)
    budget = config.fid_budget or config.quality_budget or ""
    return Rule(None, Budget.parse(budget, found[0].removeprefix("--").replace("-", "_")))


def main(config: SelectConfig) -> int:
    rule, objective = rule_of(config), objective_named(config.objective)
    if objective.timed != (config.latency_table is not None):
        raise InvalidValueError(
            "--objective latency and --latency-table FILE go together; got --objective "
            f"{config.objective} and {config.latency_table or 'no table'}"
        )
    times = None
    if config.latency_table is not None:
        times = LatencyTable.read(config.latency_table).at(config.latency_batch)
    selection = select(config.table, rule, Priced(config.objective, times), config.dense_fid)
    text = selection.to_csv()
    if config.out is not None:
        as_plan = config.out.suffix == ".json"
        write_text(config.out, selection.to_plan().to_json() + "\n" if as_plan else text)
    for remark in selection.remarks:
        sys.stderr.write(f"note: {remark}\n")
    sys.stdout.write(text)
    return DONE


if __name__ == "__main__":
    sys.exit(run(main, SelectConfig, prog="python -m ard.select", description=__doc__))
