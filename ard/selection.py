"""Choosing ranks from a recorded table, under a budget or by the published penalty rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ard.baselines.rules import penalty_rule
from ard.costs.latency_table import LatencyTable
from ard.costs.objectives import objective_named
from ard.errors import BudgetError, TableError
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import RankPlan, Replacement
from ard.search.budget import Budget
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
from nas_gan.errors import InvalidValueError
from nas_gan.tables import csv_text

Choices = Mapping[str, int | Replacement | None]


@dataclass(frozen=True)
class Rule:
    """How to choose: by the weight of size against quality, or by an allowed rise. One is None."""

    penalty: float | None
    budget: Budget | None


@dataclass(frozen=True)
class Priced:
    """The objective to minimise, and the layer times if it needs them."""

    objective: str
    times: LatencyTable | None

    def __post_init__(self) -> None:
        if not objective_named(self.objective).timed and self.objective not in DENSE_COLUMNS:
            raise InvalidValueError(
                f"{self.objective} is not recorded in tables; use {' or '.join(DENSE_COLUMNS)}",
                setting="objective",
            )
        if objective_named(self.objective).timed != (self.times is not None):
            raise InvalidValueError(
                f"{self.objective} {'needs' if self.times is None else 'does not go with'} "
                "a table of layer times",
                setting="objective",
            )


@dataclass(frozen=True)
class Selection:
    """The choice for each layer (None is dense), the table's word for dense, and remarks."""

    choices: Choices
    dense: str
    remarks: tuple[str, ...]

    def to_csv(self) -> str:
        """CSV with the columns `layer` and `choice`."""
        rows = [
            (name, self.dense if choice is None else str(choice))
            for name, choice in self.choices.items()
        ]
        return csv_text(("layer", "choice"), rows)

    def to_plan(self) -> RankPlan:
        """The choices as a plan.

        Raises:
            TableError: the table does not say how its layers were factorized.
        """
        if any(isinstance(choice, int) for choice in self.choices.values()):
            raise TableError(
                "a table of bare ranks cannot become a plan; write to a file that ends in .csv"
            )
        plan = {n: c for n, c in self.choices.items() if isinstance(c, Replacement)}
        return RankPlan(plan)


def parse_penalty(text: str) -> float:
    """Parse a penalty: a number, or a fraction such as 1/5.

    Raises:
        BudgetError: it is negative or not a number.
    """
    try:
        penalty = float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError, OverflowError):
        penalty = math.nan
    if not penalty >= 0:
        raise BudgetError(
            f"{text!r} is not a penalty; give 0 or more, such as 0.2 or 1/5",
            setting="penalty",
        )
    return penalty


def select(path: Path, rule: Rule, priced: Priced, dense_score: float | None) -> Selection:
    """Choose a rank for every layer of a recorded table.

    Args:
        path: a `sensitivity.csv`, or a plain table with `layer, rank, fid, reduction_pct`.
        rule: how to choose.
        priced: the objective to minimise.
        dense_score: the dense generator's score, which a plain table does not hold.

    Raises:
        TableError: the table cannot be read, or lacks what the objective needs.
        BudgetError: the dense score is missing or not a number.
        LatencyError: the time of a layer is missing.
    """
    if dense_score is not None and not (math.isfinite(dense_score) and dense_score >= 0):
        raise BudgetError(f"must be 0 or more; got {dense_score}", setting="dense_fid")
    text = read_text(path)
    try:
        return _select(path, text, rule, priced, dense_score)
    except TableError as error:
        if str(path) in str(error):
            raise
        raise TableError(f"{path}: {error}") from error


def _select(
    path: Path, text: str, rule: Rule, priced: Priced, dense_score: float | None
) -> Selection:
    if is_sensitivity(text):
        return _from_sensitivity(text, rule, priced, dense_score)
    if priced.times is not None:
        raise TableError(
            f"{path}: a table of bare ranks does not name layer shapes and methods, so times "
            "cannot be looked up; minimise params or macs instead"
        )
    if dense_score is None:
        raise BudgetError(
            f"must be given: {path} does not hold the dense generator's FID", setting="dense_fid"
        )
    return _from_plain(text, rule, priced, dense_score)


def _from_plain(text: str, rule: Rule, priced: Priced, dense: float) -> Selection:
    """Choose from a table of bare ranks."""
    rows = read_plain(text)
    if rule.penalty is not None:
        chosen = penalty_rule(rows, rule.penalty, dense)
        return Selection(
            {name: row.choice if row else None for name, row in chosen.items()}, "nc", ()
        )
    assert rule.budget is not None
    allowed = rule.budget.absolute(dense)
    sizes = recorded_sizes(text, priced.objective)
    remarks = []
    if missing := [name for name in dict.fromkeys(r.layer for r in rows) if name not in sizes]:
        # Absolute sizes of some layers cannot be added to relative sizes of others.
        sizes = {}
        remarks.append(
            f"no {DENSE_COLUMNS[priced.objective]} for {_some(missing)}: "
            "one percent of any layer counts the same"
        )
    picked = ranks_within(rows, dense, allowed, sizes)
    rise = sum(max(row.value - dense, 0) for row in picked.values() if row)
    choices = {name: row.choice if row else None for name, row in picked.items()}
    return Selection(choices, "nc", (*remarks, _estimate(rise, allowed)))


def _from_sensitivity(
    text: str, rule: Rule, priced: Priced, dense_score: float | None
) -> Selection:
    """Choose from the table of a sweep."""
    table = read_sensitivity(text)
    dense = table.dense.value if dense_score is None else dense_score
    costs = _costs(text, table, priced)
    remarks = []
    if costs.assumed and priced.times is None:
        remarks.append(
            f"the dense size of {_some(costs.assumed)} is not in the table and was assumed to be "
            f"{ASSUMED_RATIO} times its largest row; add a column "
            f"{DENSE_COLUMNS[priced.objective]} to set it"
        )
    if rule.penalty is not None:
        picked = penalty_rule(scored_choices(table, costs), rule.penalty, dense)
        choices = {name: row.choice if row else None for name, row in picked.items()}
        return Selection(choices, "dense", tuple(remarks))
    assert rule.budget is not None
    allowed = rule.budget.absolute(dense)
    chosen = plan_within(table, allowed, costs)
    remarks.append(_estimate(sum(option.damage for option in chosen.values()), allowed))
    return Selection(
        {name: option.choice for name, option in chosen.items()}, "dense", tuple(remarks)
    )


def _costs(text: str, table: SensitivityTable, priced: Priced) -> RecordedCosts:
    if priced.times is None:
        return counted_costs(text, table, priced.objective)
    return latency_costs(text, table, priced.times)


def _some(names: list[str] | tuple[str, ...]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{rest}"


def _estimate(rise: float, allowed: float) -> str:
    return (
        f"single-layer rises add up to {rise:.4g} of {allowed:.4g} allowed; the sum only estimates "
        "the rise of the whole plan, so measure the plan before using it"
    )
