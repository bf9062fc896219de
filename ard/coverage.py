"""How much of a generator is in layers that can be factorized, and in what the rest is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Below this share a compressed generator is hardly smaller, whatever happens to its layers.
LOW = 0.2
# Groups that a sentence names; the smaller ones are counted together.
N_NAMED = 6


@dataclass(frozen=True)
class Remainder:
    """Modules of one kind whose parameters stay.

    Attributes:
        kind: the class that owns the parameters, and why they stay if it is a layer.
        modules: how many modules those are.
        params: their parameters.
    """

    kind: str
    modules: int
    params: int


@dataclass(frozen=True)
class Coverage:
    """The parameters in layers that can be factorized, and the rest.

    Attributes:
        factorizable: parameters in layers that can be factorized, with their biases.
        rest: the other parameters by kind, most of them first.
    """

    factorizable: int = 0
    rest: tuple[Remainder, ...] = ()

    @staticmethod
    def of(factorizable: int, others: Iterable[tuple[str, int]]) -> Coverage:
        """The coverage, from the kind and the number of parameters of every other module."""
        groups: dict[str, Remainder] = {}
        for kind, params in others:
            known = groups.get(kind, Remainder(kind, 0, 0))
            groups[kind] = Remainder(kind, known.modules + 1, known.params + params)
        rest = sorted(groups.values(), key=lambda group: (-group.params, group.kind))
        return Coverage(factorizable, tuple(rest))

    @property
    def total(self) -> int:
        """All parameters that were counted."""
        return self.factorizable + sum(group.params for group in self.rest)

    @property
    def share(self) -> float:
        """The part of the parameters in layers that can be factorized, 0 to 1."""
        return self.factorizable / self.total if self.total else 0.0

    @property
    def low(self) -> bool:
        """Whether so little can be factorized that the user should know before all else."""
        return self.share < LOW and self.total > 0

    def describe(self) -> str:
        """One sentence for the user.

        >>> Coverage.of(3_100_000, [("Conv2DMod", 4_800_000), ("Embedding", 2_100_000)]).describe()
        '31 % of the parameters are in layers that this tool can factorize; the rest: \
Conv2DMod (1 layer, 4.8 M), Embedding (1 layer, 2.1 M)'
        """
        text = (
            f"{_percent(self.share)} of the parameters are in layers that this tool can factorize"
        )
        if not self.rest:
            return text
        named, others = self.rest[:N_NAMED], self.rest[N_NAMED:]
        if others:
            modules, params = sum(g.modules for g in others), sum(g.params for g in others)
            named = (*named, Remainder(f"{len(others)} other kinds", modules, params))
        return f"{text}; the rest: {', '.join(map(_group, named))}"


def _group(group: Remainder) -> str:
    layers = "layer" if group.modules == 1 else "layers"
    return f"{group.kind} ({group.modules} {layers}, {_count(group.params)})"


def _percent(share: float) -> str:
    """Whole percent, in which neither nothing nor everything is claimed falsely."""
    percent = round(100 * share)
    if percent == 0 and share > 0:
        return "under 1 %"
    return "over 99 %" if percent == 100 and share < 1 else f"{percent} %"


def _count(value: int) -> str:
    """A number with two significant digits.

    >>> [_count(n) for n in (12, 1024, 2_100_000, 18_000_000, 999_999)]
    ['12', '1 k', '2.1 M', '18 M', '1 M']
    """
    rounded = float(f"{value:.2g}")
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rounded >= factor:
            return f"{rounded / factor:g} {prefix}"
    return str(value)
