"""What a plan costs, as a number to make small.

A cost of the whole net is the sum of its layers' costs plus that of everything no plan changes.
Parameters and MACs add up exactly; a latency measured layer by layer does so approximately.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ard.costs.latency_table import LatencyTable
from ard.errors import LatencyError
from ard.layers import LayerProfile
from ard.plan import Factorization, RankPlan
from nas_gan.errors import InvalidValueError


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
    weighted: Sequence[tuple[str, float, LayerCost]], layers: Sequence[LayerProfile]
) -> MixedCost:
    """The mean of several costs of `layers`, weighted; only the ratios of the weights matter.

    `weighted` are names, weights and costs. Parameters count in millions and milliseconds in units,
    so each part is first divided by what the dense layers cost together: with equal weights, a
    percent of either is worth the same.

    Raises:
        InvalidValueError: there is no weight, or one is not a positive number.
        LatencyError: latency has a weight, and its table does not hold the dense layers.
    """
    if not weighted or not layers:
        raise InvalidValueError(
            "a mixed objective needs weights, as in params=1 latency=2, and the layers to weigh"
        )
    parts = []
    for name, weight, cost in weighted:
        if not (math.isfinite(weight) and weight > 0):
            raise InvalidValueError(f"the weight of {name} must be above 0; got {weight}")
        parts.append((weight, cost, math.fsum(cost(layer, None) for layer in layers)))
    return MixedCost(tuple(parts))


def cost_of(cost: LayerCost, layers: Sequence[LayerProfile], plan: RankPlan) -> float:
    """What `layers` cost together as a plan leaves them."""
    return sum(cost(layer, plan.get(layer.name)) for layer in layers)
