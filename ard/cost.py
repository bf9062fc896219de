"""What a plan costs, as a number to make small.

A cost of the whole net is the sum of its layers' costs plus that of everything no plan changes.
Parameters and MACs add up exactly; a latency measured layer by layer does so approximately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from ard.errors import ArdError, PlanError
from ard.layers import LayerProfile, Profile
from ard.plan import Factorization, RankPlan

Objective = Literal["params", "macs"]


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


def make_cost(objective: Objective) -> LayerCost:
    """The layer cost with that name.

    Raises:
        ArdError: the name is not known.
    """
    if objective == "params":
        return params_cost
    if objective == "macs":
        return macs_cost
    raise ArdError(
        f"objective {objective!r} is not known; use one of {', '.join(get_args(Objective))}"
    )


def fixed_cost(profile: Profile, objective: Objective) -> int:
    """The part of the objective that lies outside of the profile's layers."""
    make_cost(objective)
    return profile.fixed_params if objective == "params" else profile.fixed_macs


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
