"""Rank candidates: which factorizations of a layer are tried, at which sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ard.factorization.methods import COMPETITORS
from ard.layers import LayerProfile
from ard.plan import Factorization

FRACTIONS = (0.5, 0.35, 0.25, 0.17, 0.12, 0.08, 0.05)


@dataclass(frozen=True)
class RankGrid:
    """The rank candidates of every layer.

    Attributes:
        methods: names of the factorization methods that compete.
        fractions: target sizes of a factorized layer, as fractions of its dense weights.
        multiple_of: every rank is rounded to a multiple of this if the layer is wide enough.
    """

    methods: tuple[str, ...] = COMPETITORS
    fractions: tuple[float, ...] = FRACTIONS
    multiple_of: int = 1

    def choices(self, layer: LayerProfile) -> Iterator[Factorization]:
        """Every candidate for one layer; each has fewer parameters than the dense layer."""
        for method in self.methods:
            yield from layer.rank_grid(method, self.fractions, self.multiple_of)


DEFAULT_GRID = RankGrid()
