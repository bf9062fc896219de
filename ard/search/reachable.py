"""How far a generator can be compressed, estimated before any whole plan is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ard.costs.cost import LayerCost, cost_of
from ard.layers import Part, Profile
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import DENSE, RankPlan
from ard.search.ladder import Ladder
from nas_gan.tables import text_table

# Fractions of the damage of the cheapest plan.
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Reachable:
    """A plan that was not measured: its cost, and the rise to expect.

    Attributes:
        plan: the plan.
        params: parameters of the whole generator.
        macs: MACs of the whole generator, per image.
        cost: the cost of the factorizable layers, in the unit of the objective.
        cost_ratio: the dense cost divided by `cost`.
        expected: the sum of the single-layer damages, a guess at the rise after recovery.
    """

    plan: RankPlan
    params: int
    macs: int
    cost: float
    cost_ratio: float
    expected: float


def reachable_plans(
    table: SensitivityTable, profile: Profile, layers: Sequence[Part], cost: LayerCost
) -> tuple[Reachable, ...]:
    """The cheapest plans at several total damages, the last one being the cheapest of all.

    Duplicate plans are removed. `layers` are the layers in the table.
    """
    ladder = Ladder(table, layers, cost)
    dense = cost_of(cost, profile.parts, DENSE)
    found: dict[RankPlan, Reachable] = {}
    for share in SHARES:
        rung = ladder.rung(share * ladder.most)
        plan, of_plan = rung.plan, cost_of(cost, profile.parts, rung.plan)
        found[plan] = Reachable(
            plan,
            profile.fixed_params + sum(x.params(plan.get(x.name)) for x in profile.parts),
            profile.fixed_macs + sum(x.macs(plan.get(x.name)) for x in profile.parts),
            of_plan,
            dense / of_plan,
            rung.damage,
        )
    return tuple(found.values())


def to_text(rows: Sequence[Reachable], profile: Profile, dense: float, distance: str) -> str:
    """The plans as a table, the mildest first.

    `dense` is the dense generator's score, and `distance` the label of the metric.
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
