"""The times of a runtime's nodes, summed up by the layers of the network that was exported."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# `LAYER/OPERATOR`, as `python -m export` names nodes; runtimes add to it.
_NODE = re.compile(r"(?P<layer>[^/]+)/(?P<op>[A-Za-z]+?)(?:_\d+)?(?:_nchwc)?")


@dataclass(frozen=True)
class LayerShare:
    """The time of a layer, or of all nodes of an operator that belong to none.

    Attributes:
        layer: The name of the layer, of several that a runtime fused with a plus; empty for the
            nodes of none.
        operator: The operators that it is made of.
        mean_us: Time per run of the whole model.
        share: Of the time of all nodes.
        nodes: How many nodes it has.
    """

    layer: str
    operator: str
    mean_us: float
    share: float
    nodes: int


def shares(events: Iterable[tuple[str, str, float]], runs: int) -> tuple[LayerShare, ...]:
    """Sum up the times of nodes by layer, and those of no layer by operator.

    Args:
        events: The name, the operator and the microseconds of each execution of a node.
        runs: The number of runs that they come from.

    Returns:
        Their means over the runs, the longest first.
    """
    return summed(
        ((*(of_node(name) or ("", operator)), name, us) for name, operator, us in events), runs
    )


def table(rows: Sequence[LayerShare], most: int = 30) -> str:
    """The slowest rows as text, and how much the rest takes."""
    cells = [("layer", "operator", "nodes", "us", "share")]
    cells += [
        (row.layer or "-", row.operator, str(row.nodes), f"{row.mean_us:.1f}", f"{row.share:.1%}")
        for row in rows[:most]
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    rest = rows[most:]
    if rest:
        lines.append(f"{len(rest)} more: {sum(row.share for row in rest):.1%}")
    total = sum(row.mean_us for row in rows)
    without = sum(row.share for row in rows if not row.layer)
    lines.append(f"all nodes: {total:.1f} us a run, {without:.0%} of it in no layer")
    return "\n".join(lines)


def of_node(name: str) -> tuple[str, str] | None:
    """The layer and the operator that a node is named after; None if it belongs to no layer."""
    found = _NODE.fullmatch(name)
    return None if found is None else (found["layer"], found["op"])


def summed(events: Iterable[tuple[str, str, str, float]], runs: int) -> tuple[LayerShare, ...]:
    """Means over runs of what belongs to the same layer and operator.

    Args:
        events: The layer, the operator, the name of the node and the microseconds of each.
        runs: The number of runs that they come from.

    Returns:
        The longest first.
    """
    times: dict[tuple[str, str], float] = defaultdict(float)
    nodes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for layer, operator, name, us in events:
        times[layer, operator] += us
        nodes[layer, operator].add(name)
    whole = sum(times.values())
    rows = (
        LayerShare(layer, op, us / runs, us / whole if whole else 0.0, len(nodes[layer, op]))
        for (layer, op), us in times.items()
    )
    return tuple(sorted(rows, key=lambda row: -row.mean_us))
