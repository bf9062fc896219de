"""Every objective by its name: what is to become small, and how reports speak of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ard.costs.cost import LatencyCost, LayerCost, macs_cost, mixed_cost, params_cost
from ard.costs.latency_table import LatencyTable
from ard.layers import LayerProfile
from nas_gan.errors import InvalidValueError, unknown_name


@dataclass(frozen=True)
class Objective:
    """One quantity that a search can make small.

    Attributes:
        name: as in `--objective`, in weights of a mix and in reports.
        noun: what there is to be little of, as in "with as few parameters as that allows".
        axis: what a picture of dense over compressed shows.
        cost: the cost of one layer, given the times of layers where there are any.
        timed: whether it needs those times.
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
# A weighted mean of the others.
MIXED = "mixed"
# Command lines offer the names as choices.
if TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[(*OBJECTIVES, MIXED)]


def register(objective: Objective) -> None:
    """Make an objective known by its name, to configurations, reports and pictures.

    Raises:
        ValueError: another objective has that name.
    """
    if objective.name == MIXED or OBJECTIVES.setdefault(objective.name, objective) is not objective:
        raise ValueError(f"there is an objective {objective.name!r} already; choose another name")


def objective_named(name: str) -> Objective:
    """The objective of this name, which is not a mix.

    Raises:
        InvalidValueError: there is none; the message offers the nearest.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def objective_noun(name: str) -> str:
    """What a report says there is little of."""
    return OBJECTIVES[name].noun if name in OBJECTIVES else f"little {name} cost"


def objective_axis(name: str) -> str:
    """What a picture of dense over compressed shows."""
    return OBJECTIVES[name].axis if name in OBJECTIVES else f"{name} cost"


def is_timed(name: str, weights: Mapping[str, float]) -> bool:
    """Whether an objective, or a part of a mix, needs the times of layers."""
    return any(objective_named(part).timed for part in (weights if name == MIXED else (name,)))


def make_cost(
    name: str,
    *,
    table: LatencyTable | None = None,
    weights: Mapping[str, float] | None = None,
    layers: Sequence[LayerProfile] = (),
) -> LayerCost:
    """The layer cost of an objective.

    Args:
        name: one of `OBJECTIVES`, or `mixed`.
        table: times of layers for one batch size and one runtime.
        weights: of a mix, by the names of its parts.
        layers: those among which a mix compares.

    Raises:
        InvalidValueError: the name is not known, or what it needs was not given.
        LatencyError: the times of the table do not compare with one another.
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
    """Weights of a mix as a user writes them.

    >>> parse_weights(["params=1", "latency=2.5"])
    {'params': 1.0, 'latency': 2.5}

    Raises:
        InvalidValueError: one is not NAME=NUMBER, its name is not known or comes twice.
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
            raise InvalidValueError(f"weight {text!r} is none; write {objective}=2 with 2 above 0")
        if objective in weights:
            raise InvalidValueError(f"{objective} has two weights; give it one")
        weights[objective] = weight
    return weights
