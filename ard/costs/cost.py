"""The cost of a plan, as a number to minimise.

The cost of a network is the sum of the costs of its layers plus that of everything no plan changes.
Parameters and MACs add up exactly; latencies measured layer by layer add up approximately.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ard.costs.latency_table import LatencyTable
from ard.errors import LatencyError
from ard.layers import Part
from ard.plan import RankPlan, Replacement
from nas_gan.errors import InvalidValueError


class LayerCost(Protocol):
    """A function that returns the cost of a part under a choice; None leaves it as it is."""

    def __call__(self, layer: Part, choice: Replacement | None) -> float: ...


def params_cost(layer: Part, choice: Replacement | None) -> int:
    """Parameters of the layer, with bias.

    Args:
        layer: shapes of the dense layer.
        choice: its factorization; None leaves it dense.

    Returns:
        Number of parameters, with the bias.
    """
    return layer.params(choice)


def macs_cost(layer: Part, choice: Replacement | None) -> int:
    """Multiply-adds of the layer, per image.

    Args:
        layer: shapes of the dense layer.
        choice: its factorization; None leaves it dense.

    Returns:
        Multiply-adds per image.
    """
    return layer.macs(choice)


@dataclass(frozen=True)
class LatencyCost:
    """Milliseconds of all calls of a layer, at the batch size of the table."""

    table: LatencyTable

    def __call__(self, layer: Part, choice: Replacement | None) -> float:
        if not layer.signatures:
            raise LatencyError(
                f"{layer.name}: its signature is not known; profile the generator with "
                "profile_layers, which runs it once"
            )
        try:
            return sum(self.table.milliseconds(call, choice) for call in layer.signatures)
        except LatencyError as error:
            raise LatencyError(f"{layer.name}: {error}") from error


@dataclass(frozen=True)
class MixedCost:
    """A weighted mean of costs, each relative to its total over the dense layers.

    `parts` are `(weight, cost, dense total)`. All dense layers together cost 1.
    """

    parts: tuple[tuple[float, LayerCost, float], ...]

    def __call__(self, layer: Part, choice: Replacement | None) -> float:
        weights = math.fsum(weight for weight, _, _ in self.parts)
        shares = (weight * cost(layer, choice) / total for weight, cost, total in self.parts)
        return math.fsum(shares) / weights


def mixed_cost(
    weighted: Sequence[tuple[str, float, LayerCost]], layers: Sequence[Part]
) -> MixedCost:
    """The weighted mean of several costs; only the ratios of the weights matter.

    Costs differ in scale, with millions of parameters but few milliseconds. So each one is divided
    by its total over the dense layers: with equal weights, one percent of either counts the same.

    Args:
        weighted: names, weights and costs.
        layers: the layers whose dense costs are added up.

    Raises:
        InvalidValueError: there are no weights, or one is not a positive number.
        LatencyError: latency has a weight, and its table lacks a dense layer.
    """
    if not weighted or not layers:
        raise InvalidValueError(
            "a mixed objective needs weights, such as params=1 latency=2, and layers"
        )
    parts = []
    for name, weight, cost in weighted:
        if not (math.isfinite(weight) and weight > 0):
            raise InvalidValueError(f"the weight of {name} must be above 0; got {weight}")
        parts.append((weight, cost, math.fsum(cost(layer, None) for layer in layers)))
    return MixedCost(tuple(parts))


def cost_of(cost: LayerCost, layers: Sequence[Part], plan: RankPlan) -> float:
    """The total cost of `layers` under a plan."""
    return sum(cost(layer, plan.get(layer.name)) for layer in layers)
