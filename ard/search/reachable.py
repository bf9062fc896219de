"""How far a generator can shrink on its grid of choices, before whole plans are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ard.costs.cost import LayerCost, cost_of
from ard.layers import LayerProfile, Profile
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import DENSE, RankPlan
from ard.search.allocation import allocate
from ard.search.controller import layer_options
from nas_gan.tables import text_table

# Shares of the damage that the cheapest plan does, from mild to all of it.
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Reachable:
    """A plan that nobody measured: its cost and the rise that the single layers suggest.

    `cost` is that of the layers in the objective's unit, `cost_ratio` the dense one over it.
    `expected` adds up what single layers lose, which recovered plans are guessed to lose.
    """

    plan: RankPlan
    params: int
    macs: int
    cost: float
    cost_ratio: float
    expected: float


def reachable_plans(
    table: SensitivityTable, profile: Profile, layers: Sequence[LayerProfile], cost: LayerCost
) -> tuple[Reachable, ...]:
    """The cheapest plans at a few damages, the last one being the smallest on this grid.

    Equal plans come once. `layers` are those that the table scores.
    """
    options = [layer_options(layer, table.of_layer(layer.name), cost) for layer in layers]
    most = sum(of_layer[-1].damage for of_layer in options)
    dense = cost_of(cost, profile.layers, DENSE)
    found: dict[RankPlan, Reachable] = {}
    for share in SHARES:
        chosen = allocate(options, share * most)
        pairs = zip(layers, chosen, strict=True)
        plan = RankPlan({layer.name: o.choice for layer, o in pairs if o.choice is not None})
        of_plan = cost_of(cost, profile.layers, plan)
        found[plan] = Reachable(
            plan,
            profile.fixed_params + sum(x.params(plan.get(x.name)) for x in profile.layers),
            profile.fixed_macs + sum(x.macs(plan.get(x.name)) for x in profile.layers),
            of_plan,
            dense / of_plan,
            sum(option.damage for option in chosen),
        )
    return tuple(found.values())


def to_text(rows: Sequence[Reachable], profile: Profile, dense: float, distance: str) -> str:
    """The plans as a table, mildest first.

    `dense` is the dense generator's score, and `distance` what the metric is called.
    """
    columns = ("reachable", "params", "ratio", "MACs", "ratio", f"Δ{distance} expected", "of dense")
    cells = (
        (
            "smallest" if number == len(rows) else f"plan {number}",
            f"{row.params:,}",
            f"{profile.total_params / row.params:.2f}x",
            f"{row.macs:,}",
            f"{profile.total_macs / max(row.macs, 1):.2f}x",
            f"+{row.expected:.3g}",
            f"{row.expected / dense:.0%}" if dense > 0 else "",
        )
        for number, row in enumerate(rows, start=1)
    )
    return text_table(columns, cells)
