"""What a run is for: the settings that a target implies, and the cost that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from ard.costs.cost import LayerCost, cost_of
from ard.errors import BudgetError
from ard.layers import Profile
from ard.pipeline import Reach
from ard.plan import DENSE, RankPlan
from ard.search.target import Target
from ard.session.config import SearchConfig
from nas_gan.errors import UsageError

Config = TypeVar("Config", bound=SearchConfig)
TIMED = "latency"


def parse_targets(texts: Sequence[str], setting: str) -> list[Target]:
    """The targets of one run in the order given, without duplicates.

    Raises:
        BudgetError: one cannot be parsed.
        UsageError: they are costs of different kinds, or times of different batches.
    """
    targets = [Target.parse(text, setting) for text in dict.fromkeys(texts)]
    kinds = {(target.quantity, target.batch or 1) for target in targets}
    if len(kinds) > 1:
        raise UsageError(
            f"must all be of one kind, and times of one batch size; got {' '.join(texts)}",
            setting=setting,
        )
    return targets


def with_target(config: Config, target: Target) -> Config:
    """The settings of a run that has to reach a target: its cost is the objective.

    Raises:
        UsageError: another objective or another batch size was set.
    """
    default = SearchConfig.objective
    if config.objective not in (default, target.quantity):
        raise UsageError(
            f"is {config.objective}, but the target {target.text} is one of {target.quantity}; "
            "leave it out",
            setting="objective",
        )
    config = replace(config, objective=target.quantity)
    if target.batch is None or target.batch == config.latency_batch:
        return config
    if config.latency_batch != SearchConfig.latency_batch:
        raise UsageError(
            f"is {config.latency_batch}, but the target {target.text} means batches of "
            f"{target.batch}; leave it out",
            setting="latency_batch",
        )
    return replace(config, latency_batch=target.batch)


def reach_of(
    target: Target,
    profile: Profile,
    cost: LayerCost,
    dense: nn.Module,
    timed: Callable[[nn.Module, RankPlan], float] | None,
    setting: str,
) -> tuple[Reach, float]:
    """The cost of the whole network that a target asks for, and that of the dense one.

    Args:
        target: the target.
        profile: the layers of the dense generator, and its slow activations.
        cost: the cost of a layer in the quantity of the target.
        dense: the dense generator.
        timed: measures the milliseconds of a network; None if only its layers can be timed, which
            then stand for the whole.
        setting: the name of the setting of the target, for the error message.

    Raises:
        BudgetError: the dense network reaches the target already.
    """
    layers = float(cost_of(cost, profile.parts, DENSE))
    if target.quantity != TIMED:
        counted = {"params": profile.fixed_params, "macs": profile.fixed_macs}
        fixed = float(counted[target.quantity])
        whole, timed = layers + fixed, None
    else:
        whole = layers if timed is None else timed(dense, DENSE)
        # Single layers find their weights in the cache, so their sum may also be the larger one.
        fixed = max(whole - layers, 0.0)
    reach = Reach(target.limit(whole), fixed, timed)
    if reach.limit >= whole:
        raise BudgetError(
            f"{target.text} is reached by the dense network already, which takes {whole:.4g}; ask "
            f"for less than {target.quantity} of {reach.limit:.4g}",
            setting=setting,
        )
    return reach, whole
