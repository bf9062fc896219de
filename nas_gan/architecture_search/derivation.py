"""From architecture parameters to genotypes: the most probable operations, and a few hard rules.

Probabilities are a softmax over the operations of one edge. (The published code takes it over the
edges of a discriminator block, which compares numbers that were never trained against each other.)
"""

from __future__ import annotations

from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.networks.genotype import (
    DOWN,
    FIRST,
    FIRST_EDGES,
    N_BLOCKS,
    N_CELLS,
    N_NORMAL_EDGES,
    N_RESAMPLING_EDGES,
    NORMAL,
    UP,
    DiscriminatorGenotype,
    Genotype,
    Table,
)

NONE = NORMAL.index("none")


def derive_generator(normal: Tensor, up: Tensor, table: Table = "mmd-nas") -> Genotype:
    """The genotype of architecture parameters `(3, 5, 7)` and `(3, 2, up operations)`.

    In each cell node 2 gets an input if `c0` and `c1` are both `none`, and node 3 if `c2`, `c3`
    and `c4` are: the edge that is least surely `none` takes its next operation.

    Raises:
        InvalidValueError: the parameters have another shape, or are not finite.
    """
    _check("normal", normal, (N_CELLS, N_NORMAL_EDGES, len(NORMAL)))
    _check("up", up, (N_CELLS, N_RESAMPLING_EDGES, min(up.shape[-1], len(UP[table]))))
    rows = []
    for cell in range(N_CELLS):
        probabilities = normal[cell].double().softmax(dim=-1)  # (5, 7)
        choice = probabilities.argmax(dim=-1).tolist()
        for inputs in ((0, 1), (2, 3, 4)):
            _connect(choice, probabilities, inputs)
        rows.append((*up[cell].argmax(dim=-1).tolist(), *choice))
    return Genotype(tuple(rows), table)


def derive_discriminator(normal: Tensor, down: Tensor) -> DiscriminatorGenotype:
    """The genotype of architecture parameters `(4, 5, 7)` and `(4, 2, 6)`.

    The first three edges of block 1 choose among their five operations. In the others node 1 gets
    an input if `c1` and `c3` are both `none`, node 2 if `c2` and `c4` are, and then node 0 if
    anything reads it.

    Raises:
        InvalidValueError: the parameters have another shape, or are not finite.
    """
    _check("normal", normal, (N_BLOCKS, N_NORMAL_EDGES, len(NORMAL)))
    _check("down", down, (N_BLOCKS, N_RESAMPLING_EDGES, len(DOWN)))
    rows = []
    for block in range(N_BLOCKS):
        probabilities = normal[block].double().softmax(dim=-1)  # (5, 7)
        choice = probabilities.argmax(dim=-1).tolist()
        if block == 0:
            first = len(FIRST_EDGES)
            choice[:first] = probabilities[:first, : len(FIRST)].argmax(dim=-1).tolist()
        else:
            _connect(choice, probabilities, (1, 3))
            _connect(choice, probabilities, (2, 4))
            if any(choice[edge] != NONE for edge in (3, 4)):
                _connect(choice, probabilities, (0,))
        rows.append((*choice, *down[block].argmax(dim=-1).tolist()))
    return DiscriminatorGenotype(tuple(rows))


def _connect(choice: list[int], probabilities: Tensor, edges: tuple[int, ...]) -> None:
    """Change `choice` in place so that not all of `edges` are `none`."""
    if any(choice[edge] != NONE for edge in edges):
        return
    likeliest = min(edges, key=lambda edge: probabilities[edge, NONE].item())
    others = probabilities[likeliest].clone()
    others[NONE] = -1
    choice[likeliest] = int(others.argmax())


def _check(name: str, alphas: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(alphas.shape) != shape:
        raise InvalidValueError(
            f"architecture parameters {name!r} must have shape {shape}; got {tuple(alphas.shape)}"
        )
    if not alphas.isfinite().all():
        raise InvalidValueError(f"architecture parameters {name!r} are not finite")
