"""The registry of objectives: the cost that each one minimises, and its wording in reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ard.costs.cost import LatencyCost, LayerCost, macs_cost, mixed_cost, params_cost
from ard.costs.latency_table import LatencyTable
from ard.layers import Part
from nas_gan.errors import InvalidValueError, unknown_name


@dataclass(frozen=True)
class Objective:
    """A quantity that a search can minimise.

    Attributes:
        name: its name on command lines, in weights of a mix and in reports.
        noun: the noun in sentences such as "with as few parameters as that allows".
        axis: the quantity on the axis of a figure of dense over compressed.
        cost: makes the cost of a layer from a table of layer times, which may be None.
        timed: whether it needs that table.
    """

    name: str
    noun: str
    axis: str
    cost: Callable[[LatencyTable | None], LayerCost]
    timed: bool = False


def _latency(table: LatencyTable | None) -> LayerCost:
    if table is None:
        raise InvalidValueError(
            "must be given to minimise latency; measure a table with python -m ard.latency",
            setting="latency_table",
        )
    return LatencyCost(table.at())


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("params", "few parameters", "parameters", lambda table: params_cost),
        Objective("macs", "few MACs", "MACs", lambda table: macs_cost),
        Objective("latency", "little latency", "latency of its layers", _latency, timed=True),
    )
}
# The name of a weighted mean of the others.
MIXED = "mixed"
# A type of its own, so that command lines offer the names as choices.
if TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[(*OBJECTIVES, MIXED)]


def register(objective: Objective) -> None:
    """Register an objective, for configurations, reports and figures.

    Raises:
        ValueError: another objective has that name.
    """
    if objective.name == MIXED or OBJECTIVES.setdefault(objective.name, objective) is not objective:
        raise ValueError(f"there is an objective {objective.name!r} already; choose another name")


def objective_named(name: str) -> Objective:
    """The objective of this name, other than `mixed`.

    Raises:
        InvalidValueError: there is none; the message suggests the closest name.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def objective_noun(name: str) -> str:
    """The noun of an objective in reports, such as "few parameters"."""
    return OBJECTIVES[name].noun if name in OBJECTIVES else f"little {name} cost"


def objective_axis(name: str) -> str:
    """The quantity on the axis of a figure of dense over compressed."""
    return OBJECTIVES[name].axis if name in OBJECTIVES else f"{name} cost"


def is_timed(name: str, weights: Mapping[str, float]) -> bool:
    """Whether an objective, or a part of a mix, needs layer times."""
    return any(objective_named(part).timed for part in (weights if name == MIXED else (name,)))


def make_cost(
    name: str,
    *,
    table: LatencyTable | None = None,
    weights: Mapping[str, float] | None = None,
    layers: Sequence[Part] = (),
) -> LayerCost:
    """The layer cost of an objective.

    Args:
        name: one of `OBJECTIVES`, or `mixed`.
        table: layer times, for one batch size and one runtime; required if the objective is timed.
        weights: the weights of a mix, by the names of its parts.
        layers: the layers over which a mix normalises its parts.

    Returns:
        A function of a layer and its factorization (None if dense), in the objective's unit.

    Raises:
        InvalidValueError: the name is unknown, or an argument that it needs is missing.
        LatencyError: the times of the table are not comparable with one another.
    """
    if name != MIXED:
        if name not in OBJECTIVES:
            raise unknown_name("objective", name, (*OBJECTIVES, MIXED))
        return OBJECTIVES[name].cost(table)
    parts = [
        (part, weight, make_cost(part, table=table)) for part, weight in (weights or {}).items()
    ]
    return mixed_cost(parts, layers)


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """Parse the weights of a mix.

    >>> parse_weights(["params=1", "latency=2.5"])
    {'params': 1.0, 'latency': 2.5}

    Raises:
        InvalidValueError: a text is not NAME=NUMBER, or its name is unknown or duplicated.
    """
    weights: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        objective = objective_named(name.strip()).name
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            raise InvalidValueError(
                f"{text!r} is not a weight; write {objective}=2 or another number above 0"
            )
        if objective in weights:
            raise InvalidValueError(f"{objective} has two weights; give it one")
        weights[objective] = weight
    return weights
