"""Choose ranks from a recorded table, without measuring anything.

    python -m ard.select table.csv --fid-budget 0.5

Reads the `sensitivity.csv` of a sweep, or a plain table `layer,rank,fid,reduction_pct`, and prints
`layer,choice` as CSV. With --penalty, the published rule chooses for each layer. With a budget, the
choices are the cheapest whose single-layer rises add up to no more than the budget. Cost is the
number of parameters or multiply-adds, or the time in a table measured by `python -m ard.latency`.
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
from nas_gan.panels import OBJECTIVE


@dataclass(frozen=True)
class SelectConfig:
    """The table, and the rule to choose by: either --penalty or a budget."""

    table: Annotated[Path, tyro.conf.Positional]
    """Sensitivities: a sensitivity.csv, or a CSV file with the columns layer, rank, fid and
    reduction_pct."""
    penalty: str | None = None
    """Weight of size against FID in the published rule, such as 0.2 or 1/5; a larger one makes the
    network smaller."""
    fid_budget: str | None = None
    """Allowed sum of rises in FID: 0.5 is absolute, 5% is relative to the dense generator's."""
    quality_budget: str | None = None
    """Allowed sum of rises for a table of another metric, in the same format."""
    dense_fid: float | None = None
    """Score of the dense generator; required for a plain table, which does not hold it."""
    objective: str = "params"
    """Cost to minimise: params, macs or latency; a plain table's reduction_pct refers to it."""
    latency_table: Annotated[Path | None, OBJECTIVE] = None
    """Table of layer times from python -m ard.latency; required to minimise latency."""
    latency_batch: Annotated[int | None, OBJECTIVE] = None
    """Batch size to read from that table, if it has several."""
    out: Path | None = None
    """File to write the choices to as well: a plan if the name ends in .json, else CSV."""


def rule_of(config: SelectConfig) -> Rule:
    """The one rule that was given.

    Raises:
        UsageError: no rule was given, or several were.
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
