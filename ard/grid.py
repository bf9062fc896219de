"""Rank candidates: which factorizations of a layer are tried, and at which sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ard.factorization.methods import COMPETITORS
from ard.layers import LayerProfile
from ard.plan import Factorization

FRACTIONS = (0.5, 0.35, 0.25, 0.17, 0.12, 0.08, 0.05)


@dataclass(frozen=True)
class RankGrid:
    """The factorizations that are on offer for every layer.

    Attributes:
        methods: those that compete.
        fractions: shares of a layer's weights that its factorizations aim at.
        multiple_of: ranks are rounded to it where a layer is wide enough.
    """

    methods: tuple[str, ...] = COMPETITORS
    fractions: tuple[float, ...] = FRACTIONS
    multiple_of: int = 1

    def choices(self, layer: LayerProfile) -> Iterator[Factorization]:
        """Every factorization of one layer that has fewer parameters than the layer."""
        for method in self.methods:
            yield from layer.rank_grid(method, self.fractions, self.multiple_of)


DEFAULT_GRID = RankGrid()
