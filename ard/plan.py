"""Rank plans: which layer is replaced by which factorization, which activation by which gate."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from ard.errors import PlanError
from ard.factorization.methods import METHODS
from nas_gan.errors import UnreadableError
from nas_gan.networks.gates import FORMS
from nas_gan.reading import parse_json

FORMAT = 1
_FACTORIZATION = re.compile(r"\s*(\w+)\s*\(\s*(\d{1,9}(?:\s*,\s*\d{1,9})*)\s*\)\s*", re.ASCII)


@dataclass(frozen=True, order=True)
class Factorization:
    """A factorization method and its rank: `(r_out, r_in)` for `tucker2`, `(r,)` for `svd`.

    >>> print(Factorization("tucker2", (64, 32)))
    tucker2(64, 32)
    >>> Factorization.parse("svd(8)").rank
    (8,)

    Raises:
        PlanError: the method is unknown, or the rank is not as many positive integers as it takes.
    """

    method: str
    rank: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise PlanError(f"method {self.method!r} is not known; use one of {', '.join(METHODS)}")
        object.__setattr__(self, "rank", tuple(self.rank))
        if not all(type(r) is int and r > 0 for r in self.rank):
            raise PlanError(f"a rank consists of positive integers; got {self.method}{self.rank}")
        if len(self.rank) != (n_ranks := len(METHODS[self.method].ranks)):
            raise PlanError(f"{self.method} takes {n_ranks} rank(s); got {self}")

    def __str__(self) -> str:
        return f"{self.method}({', '.join(map(str, self.rank))})"

    @staticmethod
    def parse(text: str) -> Factorization:
        """Parse the output of `str`; spaces do not matter.

        Raises:
            PlanError: the text is not a factorization.
        """
        match = _FACTORIZATION.fullmatch(text)
        if match is None:
            raise PlanError(
                f"not a factorization: {text[:60]!r}; write for example tucker2(64, 64)"
            )
        method, ranks = match.groups()
        return Factorization(method, tuple(int(r) for r in ranks.split(",")))


@dataclass(frozen=True, order=True)
class ActivationForm:
    """A gate that takes the place of an activation: one of `nas_gan.networks.gates.FORMS`.

    >>> print(ActivationForm("swish_gate"))
    swish_gate

    Raises:
        PlanError: there is no such form.
    """

    method: str

    def __post_init__(self) -> None:
        if self.method not in FORMS:
            raise PlanError(f"form {self.method!r} is not known; use one of {', '.join(FORMS)}")

    @property
    def rank(self) -> tuple[int, ...]:
        """None: a gate has nothing to choose but its form."""
        return ()

    def __str__(self) -> str:
        return self.method


# What a plan holds for a layer or an activation.
Replacement = Factorization | ActivationForm


def parse_replacement(text: str) -> Replacement:
    """Parse the output of `str` of a factorization or of the form of an activation.

    Raises:
        PlanError: the text is neither.
    """
    form = text.strip()
    return ActivationForm(form) if form in FORMS else Factorization.parse(text)


def replacement(method: str, rank: Sequence[int]) -> Replacement:
    """The replacement with this method and this rank, as tables list them.

    Raises:
        PlanError: there is no such method, or the rank does not fit it.
    """
    form = method in FORMS and not rank
    return ActivationForm(method) if form else Factorization(method, tuple(rank))


@dataclass(frozen=True, init=False, repr=False, eq=False)
class RankPlan(Mapping[str, Replacement]):
    """A mapping from names to what replaces them; layers and activations that are absent stay.

    Plans are immutable and hashable. Layers are sorted by name, so that equal plans have equal
    JSON. A plan may carry the shapes of the weights that it was made for, so that it can be
    refused for another network; they do not count when plans are compared.

    >>> plan = RankPlan({"l1": Factorization("svd", (8,))})
    >>> print(plan.with_layer("cell1", Factorization.parse("tucker2(4, 4)")))
    cell1: tucker2(4, 4), l1: svd(8)
    >>> plan.without_layer("l1") == DENSE
    True
    >>> RankPlan.from_json(plan.to_json()) == plan
    True
    """

    layers: tuple[tuple[str, Replacement], ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    def __init__(
        self,
        layers: Mapping[str, Replacement] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        object.__setattr__(self, "layers", tuple(sorted((layers or {}).items())))
        if not shapes:
            object.__setattr__(self, "shapes", ())
            return
        known = {name: tuple(shape) for name, shape in shapes.items() if name in self}
        object.__setattr__(self, "shapes", tuple(sorted(known.items())))

    def __getitem__(self, name: str) -> Replacement:
        at = bisect_left(self.layers, name, key=itemgetter(0))  # they are in this order
        if at < len(self.layers) and self.layers[at][0] == name:
            return self.layers[at][1]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __eq__(self, other: object) -> bool:
        return self.layers == other.layers if isinstance(other, RankPlan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.layers)

    def __str__(self) -> str:
        return ", ".join(f"{name}: {choice}" for name, choice in self.layers) or "dense"

    def __repr__(self) -> str:
        return f"RankPlan({self})"

    def with_layer(self, name: str, choice: Replacement) -> RankPlan:
        """This plan with `name` replaced by `choice`, in place of any earlier choice."""
        return RankPlan({**self, name: choice}, dict(self.shapes))

    def with_shapes(self, shapes: Mapping[str, Sequence[int]]) -> RankPlan:
        """This plan with the shapes of its layers' weights, as torch stores them."""
        return RankPlan(self, shapes)

    def without_layer(self, name: str) -> RankPlan:
        """This plan with `name` dense.

        Raises:
            PlanError: the layer is not in the plan.
        """
        if name not in self:
            raise PlanError(
                f"layer {name!r} is not in the plan; it holds {', '.join(self) or 'none'}"
            )
        kept = {layer: choice for layer, choice in self.layers if layer != name}
        return RankPlan(kept, dict(self.shapes))

    def to_json(self) -> str:
        """JSON of the form `{"format": 1, "layers": {"l1": "svd(8)"}}`.

        If the plan carries shapes, `"shapes": {"l1": [512, 40]}` is added.
        """
        layers = {name: str(choice) for name, choice in self.layers}
        shapes = {"shapes": {name: list(s) for name, s in self.shapes}} if self.shapes else {}
        return json.dumps({"format": FORMAT, "layers": layers, **shapes}, indent=2)

    @staticmethod
    def from_json(text: str) -> RankPlan:
        """Parse the output of `to_json`.

        Raises:
            PlanError: the text is not JSON, has another format number, or holds a bad layer.
        """
        try:
            data: Any = parse_json(text, "the text")
        except UnreadableError as error:
            raise PlanError(f"not a plan: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise PlanError(f'not a plan: expected "format": {FORMAT}; found {found!r}')
        layers = data.get("layers")
        if not isinstance(layers, dict):
            raise PlanError(
                f'not a plan: expected an object "layers"; found {type(layers).__name__}'
            )
        shapes = data.get("shapes", {})
        if not isinstance(shapes, dict) or not all(map(_is_shape, shapes.values())):
            raise PlanError('not a plan: "shapes" must hold a list of sizes for each layer')
        return RankPlan(
            {name: _parse_named(name, choice) for name, choice in layers.items()}, shapes
        )


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 < n < 2**31 for n in value)


def _parse_named(name: str, text: Any) -> Replacement:
    try:
        return parse_replacement(str(text))
    except PlanError as error:
        raise PlanError(f"{name}: {error}") from error


DENSE = RankPlan()
