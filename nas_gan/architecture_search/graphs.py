"""Genotypes as tables, and as graphs of feature maps joined by operations."""

from __future__ import annotations

from typing import NamedTuple

from nas_gan.networks.genotype import (
    D_EDGES,
    EDGES,
    N_BLOCKS,
    N_CELLS,
    DiscriminatorGenotype,
    Genotype,
)
from nas_gan.networks.operations import SKIP_MODE
from nas_gan.tables import text_table

NODES_PER_CELL = 4
# Edge -> the nodes that it joins, within a cell and within a block; 0 is the input of either.
CELL_NODES = {
    "up0": (0, 1),
    "up1": (0, 2),
    "c0": (1, 3),
    "c1": (2, 3),
    "c2": (1, 4),
    "c3": (2, 4),
    "c4": (3, 4),
}
BLOCK_NODES = {
    "c0": (0, 1),
    "c1": (0, 2),
    "c2": (0, 3),
    "c3": (1, 2),
    "c4": (1, 3),
    "down0": (2, 4),
    "down1": (3, 4),
}
SKIP_NODE = 3


def genotype_table(genotype: Genotype | DiscriminatorGenotype) -> str:
    """The operations of a genotype, a line for each cell or block and a column for each edge."""
    is_generator = isinstance(genotype, Genotype)
    edges, part = (EDGES, "cell") if is_generator else (D_EDGES, "block")
    rows = [
        [f"{part} {number}", *(genotype.operation(number, edge) for edge in edges)]
        for number in range(1, len(genotype.rows) + 1)
    ]
    return text_table(["", *edges], rows, n_text=1 + len(edges))


class GraphEdge(NamedTuple):
    """An operation between two nodes; `skip` marks the fixed connections between cells."""

    source: int
    target: int
    operation: str
    skip: bool = False


def graph_edges(genotype: Genotype | DiscriminatorGenotype) -> tuple[GraphEdge, ...]:
    """Every edge of a genotype that is not `none`, in the order of its cells.

    A generator has the nodes 0..12, a discriminator 0..16: the input, then four for each cell or
    block, of which the last is the input of the next.
    """
    is_generator = isinstance(genotype, Genotype)
    names, nodes = (EDGES, CELL_NODES) if is_generator else (D_EDGES, BLOCK_NODES)
    found = []
    for number in range(1, (N_CELLS if is_generator else N_BLOCKS) + 1):
        offset = NODES_PER_CELL * (number - 1)
        for name in names:
            operation = genotype.operation(number, name)
            source, target = nodes[name]
            if operation != "none":
                found.append(GraphEdge(offset + source, offset + target, operation))
        if is_generator:
            for earlier in range(1, number):
                source = NODES_PER_CELL * (earlier - 1) + SKIP_NODE
                found.append(GraphEdge(source, offset + SKIP_NODE, SKIP_MODE[number], skip=True))
    return tuple(found)
