"""What a plan costs, as a number to make small.

A cost of the whole net is the sum of its layers' costs plus that of everything no plan changes.
Parameters and MACs add up exactly; a latency measured layer by layer does so approximately.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

from ard.costs.latency_table import LatencyTable
from ard.errors import LatencyError, PlanError
from ard.layers import LayerProfile, Profile
from ard.plan import Factorization, RankPlan
from nas_gan.errors import InvalidValueError, unknown_name

Quantity = Literal["params", "macs", "latency"]
Objective = Literal["params", "macs", "latency", "mixed"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


class Cost(Protocol):
    """The cost of a generator under a plan, in any unit; smaller is better."""

    def __call__(self, plan: RankPlan) -> float: ...


class LayerCost(Protocol):
    """The cost of one layer under a choice, `None` being the dense layer."""

    def __call__(self, layer: LayerProfile, choice: Factorization | None) -> float: ...


def params_cost(layer: LayerProfile, choice: Factorization | None) -> int:
    """Parameters of the layer, with bias."""
    return layer.params(choice)


def macs_cost(layer: LayerProfile, choice: Factorization | None) -> int:
    """Multiply-adds of the layer for one image."""
    return layer.macs(choice)


@dataclass(frozen=True)
class LatencyCost:
    """Milliseconds of all calls of the layer, for the batch size that the table was measured at."""

    table: LatencyTable

    def __call__(self, layer: LayerProfile, choice: Factorization | None) -> float:
        if not layer.signatures:
            raise LatencyError(
                f"{layer.name}: nothing says what decides its speed; profile the generator by "
                "profile_layers, which runs it once"
            )
        try:
            return sum(self.table.milliseconds(call, choice) for call in layer.signatures)
        except LatencyError as error:
            raise LatencyError(f"{layer.name}: {error}") from error


@dataclass(frozen=True)
class MixedCost:
    """A weighted mean of costs, each as a share of its total over the dense layers.

    `parts` are `(weight, cost, dense total)`. The dense layers together cost 1.
    """

    parts: tuple[tuple[float, LayerCost, float], ...]

    def __call__(self, layer: LayerProfile, choice: Factorization | None) -> float:
        weights = math.fsum(weight for weight, _, _ in self.parts)
        shares = (weight * cost(layer, choice) / total for weight, cost, total in self.parts)
        return math.fsum(shares) / weights


def mixed_cost(
    weights: Mapping[Quantity, float],
    layers: Sequence[LayerProfile],
    *,
    table: LatencyTable | None = None,
) -> MixedCost:
    """The mean of several costs of `layers`, weighted; only the ratios of the weights matter.

    Parameters count in millions and milliseconds in units, so each part is first divided by what
    the dense layers cost together: with equal weights, a percent of either is worth the same.

    Raises:
        InvalidValueError: there is no weight, or one is not a positive number.
        LatencyError: latency has a weight, and the table does not hold the dense layers.
    """
    if not weights:
        raise InvalidValueError(f"a mix needs a weight for at least one of {', '.join(QUANTITIES)}")
    parts = []
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise InvalidValueError(f"the weight of {name} must be above 0; got {weight}")
        cost = make_cost(parse_quantity(name), table=table)
        parts.append((weight, cost, math.fsum(cost(layer, None) for layer in layers)))
    return MixedCost(tuple(parts))


def make_cost(
    objective: Objective,
    *,
    table: LatencyTable | None = None,
    weights: Mapping[Quantity, float] | None = None,
    layers: Sequence[LayerProfile] = (),
) -> LayerCost:
    """The layer cost with that name.

    `table` is what latency is read from, of one batch size and one runtime. A mix needs its
    `weights`, and the `layers` among which it compares.

    Raises:
        InvalidValueError: the name is not known, or what it needs was not given.
        LatencyError: the times of the table do not compare with one another.
    """
    objective = parse_objective(objective)
    if objective == "params":
        return params_cost
    if objective == "macs":
        return macs_cost
    if objective == "latency":
        if table is None:
            raise InvalidValueError(
                "the objective latency needs --latency-table FILE; measure one by "
                "python -m ard.latency CHECKPOINT --out DIR"
            )
        return LatencyCost(table.at())
    if not weights or not layers:
        raise InvalidValueError(
            "the objective mixed needs weights, as in params=1 latency=2, and the layers to weigh"
        )
    return mixed_cost(weights, layers, table=table)


def parse_objective(text: str) -> Objective:
    """The objective with that name.

    Raises:
        InvalidValueError: there is none; the message lists them.
    """
    if text not in OBJECTIVES:
        raise unknown_name("objective", text, OBJECTIVES)
    return cast(Objective, text)


def parse_quantity(text: str) -> Quantity:
    """The quantity with that name: an objective that is measured and not mixed.

    Raises:
        InvalidValueError: there is none; the message lists them.
    """
    if text not in QUANTITIES:
        raise unknown_name("quantity", text, QUANTITIES)
    return cast(Quantity, text)


def parse_weights(texts: Sequence[str]) -> dict[Quantity, float]:
    """Weights of a mix as a user writes them.

    >>> parse_weights(["params=1", "latency=2.5"])
    {'params': 1.0, 'latency': 2.5}

    Raises:
        InvalidValueError: one is not NAME=NUMBER, its name is not known or comes twice.
    """
    weights: dict[Quantity, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        quantity = parse_quantity(name.strip())
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            raise InvalidValueError(f"weight {text!r} is none; write {quantity}=2 with 2 above 0")
        if quantity in weights:
            raise InvalidValueError(f"{quantity} has two weights; give it one")
        weights[quantity] = weight
    return weights


def fixed_cost(profile: Profile, objective: Objective) -> int:
    """The part of the objective that lies outside of the profile's layers.

    0 for latency and for a mix: a table of layers does not know what lies between them. It is the
    same for every plan.
    """
    objective = parse_objective(objective)
    if objective == "params":
        return profile.fixed_params
    return profile.fixed_macs if objective == "macs" else 0


def plan_cost(
    plan: RankPlan, layers: Sequence[LayerProfile], fixed: float, cost: LayerCost
) -> float:
    """The cost of the whole generator: `fixed` plus each layer as the plan leaves it.

    Raises:
        PlanError: the plan names a layer that is not among `layers`, or a rank that does not fit.
    """
    known = {layer.name for layer in layers}
    if unknown := [name for name in plan if name not in known]:
        raise PlanError(
            f"the plan names {', '.join(unknown)}, which the generator does not have; "
            f"its layers are {', '.join(sorted(known))}"
        )
    return fixed + sum(cost(layer, plan.get(layer.name)) for layer in layers)


@dataclass(frozen=True)
class PlanCost:
    """A `Cost` of whole plans made from a cost of single layers."""

    layers: tuple[LayerProfile, ...]
    fixed: float
    layer_cost: LayerCost

    def __call__(self, plan: RankPlan) -> float:
        return plan_cost(plan, self.layers, self.fixed, self.layer_cost)
