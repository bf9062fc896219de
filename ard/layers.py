"""What a generator is made of: its layers, their cost, and the ranks worth trying on each.

Parameters are counted with bias. MACs count one multiply-add of a convolution or a linear map, for
one image; bias additions, activations and normalisation are not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn

from ard.errors import NonFiniteError, NothingToFactorizeError, RankError
from ard.factorization.ranks import (
    Shape,
    check_rank,
    factor_sizes,
    max_rank,
    rank_for_fraction,
)
from ard.plan import Factorization, Method
from nas_gan.structure import evaluating

Kind = Literal["conv2d", "conv_transpose2d", "linear"]
KINDS: dict[type[nn.Module], Kind] = {
    nn.Conv2d: "conv2d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.Linear: "linear",
}
Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
# Fewer channels than this on either side leave no rank between "nothing" and "all of it". The
# image convolution with its three colours is the usual case.
MIN_CHANNELS = 4


@dataclass(frozen=True)
class LayerProfile:
    """One layer that can be factorized, as sizes only.

    `weight_shape` is the shape of the weight as torch stores it. Positions are counted for one
    image: `positions` of the output, `input_positions` of the input, and `middle_positions` of what
    lies between a vertical and a horizontal factor (output rows, input columns). The last two
    default to `positions`, which is right whenever a layer keeps its height and width.
    """

    name: str
    kind: Kind
    weight_shape: tuple[int, ...]
    bias: bool = True
    groups: int = 1
    positions: int = 1
    input_positions: int | None = None
    middle_positions: int | None = None

    @property
    def shape(self) -> Shape:
        """`(c_out, c_in, k_h, k_w)`, whatever order and dimension torch stores."""
        if self.kind == "linear":
            return (self.weight_shape[0], self.weight_shape[1], 1, 1)
        first, second, k_h, k_w = self.weight_shape
        if self.kind == "conv_transpose2d":
            return (second * self.groups, first, k_h, k_w)
        return (first, second * self.groups, k_h, k_w)

    def methods(self) -> tuple[Method, ...]:
        """The methods that can replace this layer; none for a grouped one."""
        if self.groups > 1:
            return ()
        if self.kind == "conv_transpose2d":
            return ("tucker2",)
        if self.shape[2:] == (1, 1):
            return ("svd",)
        return ("tucker2", "spatial_svd", "cp")

    def max_rank(self, method: Method) -> tuple[int, ...]:
        """The rank at which `method` reproduces the layer exactly."""
        return max_rank(method, self.shape)

    def check(self, choice: Factorization) -> None:
        """Do nothing if `choice` can replace this layer.

        Raises:
            RankError: the method does not fit the kind of layer, or its rank is too large.
        """
        if choice.method not in self.methods():
            fitting = ", ".join(self.methods()) or "none"
            raise RankError(
                f"{choice} does not fit a {self.kind} weight of shape {self.weight_shape} with "
                f"{self.groups} group(s); methods that do: {fitting}"
            )
        check_rank(choice.method, choice.rank, self.shape)

    def params(self, choice: Factorization | None = None) -> int:
        """Weights and biases, dense for `None`."""
        c_out = self.shape[0]
        if choice is None:
            return math.prod(self.weight_shape) + self.bias * c_out
        self.check(choice)
        return sum(factor_sizes(choice.method, choice.rank, self.shape)) + self.bias * c_out

    def macs(self, choice: Factorization | None = None) -> int:
        """Multiply-adds for one image, dense for `None`.

        A convolution uses each weight once at every output position, a transposed convolution once
        at every input position.
        """
        before = self.positions if self.input_positions is None else self.input_positions
        middle = self.positions if self.middle_positions is None else self.middle_positions
        after = self.positions
        transposed = self.kind == "conv_transpose2d"
        if choice is None:
            return math.prod(self.weight_shape) * (before if transposed else after)
        self.check(choice)
        where = {
            "tucker2": (before, before if transposed else after, after),
            "svd": (after, after),
            "spatial_svd": (middle, after),
            "cp": (before, middle, after, after),
        }[choice.method]
        sizes = factor_sizes(choice.method, choice.rank, self.shape)
        return sum(size * positions for size, positions in zip(sizes, where, strict=True))

    def rank_grid(
        self, method: Method, fractions: Sequence[float], multiple_of: int = 1
    ) -> list[Factorization]:
        """Choices that hold about the given fractions of the dense weights, without duplicates.

        Ranks are rounded to `multiple_of` where the layer is wide enough. What would not have
        fewer parameters than the dense layer is left out.
        """
        if method not in self.methods():
            return []
        choices = (
            Factorization(method, rank_for_fraction(method, self.shape, fraction, multiple_of))
            for fraction in fractions
        )
        return [c for c in dict.fromkeys(choices) if self.params(c) < self.params()]


@dataclass(frozen=True)
class Profile:
    """The layers of a generator in execution order, what was left out and why, and the totals."""

    layers: tuple[LayerProfile, ...]
    skipped: tuple[tuple[str, str], ...]
    total_params: int
    total_macs: int

    @property
    def fixed_params(self) -> int:
        """Parameters outside of `layers`."""
        return self.total_params - sum(layer.params() for layer in self.layers)

    @property
    def fixed_macs(self) -> int:
        """MACs outside of `layers`."""
        return self.total_macs - sum(layer.macs() for layer in self.layers)

    def __getitem__(self, name: str) -> LayerProfile:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)


def describe_layer(
    name: str, module: Layer, before: Sequence[int] = (1, 1), after: Sequence[int] = (1, 1)
) -> LayerProfile:
    """The profile of one layer from the shapes of its input and output for one image.

    Only their last entries matter: height and width of a convolution, and everything but the
    features of a linear layer.
    """
    kind = next(kind for layer_type, kind in KINDS.items() if isinstance(module, layer_type))
    shape, bias = tuple(module.weight.shape), module.bias is not None
    if isinstance(module, nn.Linear):
        return LayerProfile(name, kind, shape, bias, positions=math.prod(after[:-1]))
    (h_in, w_in), (h_out, w_out) = before[-2:], after[-2:]
    return LayerProfile(
        name,
        kind,
        shape,
        bias,
        module.groups,
        positions=h_out * w_out,
        input_positions=h_in * w_in,
        middle_positions=h_out * w_in,
    )


def profile_layers(
    generator: nn.Module, latents: Tensor, min_channels: int = MIN_CHANNELS
) -> Profile:
    """Run `generator(latents)` once and report what can be factorized.

    Left dense, with the reason in `skipped`: layers that are grouped, too thin, never called or
    called several times, that share a parameter with another layer, or whose class overrides the
    plain one. On the meta device nothing is computed and the values are not checked.

    Raises:
        NothingToFactorizeError: no layer is left.
        NonFiniteError: an image or an activation is NaN or infinite.
    """
    calls = _record_calls(generator, latents)
    owners = Counter(
        id(p) for module in generator.modules() for p in module.parameters(recurse=False)
    )
    modules = {n: m for n, m in generator.named_modules() if isinstance(m, Layer)}
    layers: list[LayerProfile] = []
    skipped: list[tuple[str, str]] = []
    for name in dict.fromkeys([*calls, *modules]):  # in execution order, the unused ones last
        called = calls.get(name, [])
        reason = _reason_to_skip(modules[name], called, owners, min_channels)
        if reason is None:
            layers.append(called[0])
        else:
            skipped.append((name, reason))
    if not layers:
        found = "; ".join(f"{name}: {reason}" for name, reason in skipped) or "no conv, no linear"
        raise NothingToFactorizeError(f"the generator has no layer to factorize ({found})")
    return Profile(
        layers=tuple(layers),
        skipped=tuple(skipped),
        total_params=sum(parameter.numel() for parameter in generator.parameters()),
        total_macs=sum(layer.macs() for called in calls.values() for layer in called),
    )


def _record_calls(generator: nn.Module, latents: Tensor) -> dict[str, list[LayerProfile]]:
    """A profile for every call of every convolution and linear layer, in order."""
    calls: dict[str, list[LayerProfile]] = {}
    not_finite: list[str] = []

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            profile = describe_layer(
                name, cast(Layer, module), inputs[0].shape[1:], output.shape[1:]
            )
            calls.setdefault(name, []).append(profile)
            if not output.is_meta and not output.isfinite().all():
                not_finite.append(f"{name}: the output of this layer")

        return hook

    handles = [
        module.register_forward_hook(hook_for(name))
        for name, module in generator.named_modules()
        if isinstance(module, Layer)
    ]
    try:
        with evaluating(generator):
            images = generator(latents)
    finally:
        for handle in handles:
            handle.remove()
    if isinstance(images, Tensor) and not images.is_meta and not images.isfinite().all():
        not_finite.append("the image")
    if not_finite:
        raise NonFiniteError(f"{not_finite[0]} is NaN or infinite; check the generator's weights")
    return calls


def _reason_to_skip(
    module: Layer, called: list[LayerProfile], owners: Counter[int], min_channels: int
) -> str | None:
    if type(module) not in KINDS:
        return f"{type(module).__name__} is a subclass and may compute something else"
    if len(called) != 1:
        return f"called {len(called)} times in one pass" if called else "never called"
    if any(owners[id(p)] > 1 for p in module.parameters()):
        return "shares a parameter with another layer"
    layer = called[0]
    if layer.groups > 1:
        return f"grouped convolution ({layer.groups} groups)"
    c_out, c_in = layer.shape[:2]
    if min(c_out, c_in) < min_channels:
        return f"too thin to factorize ({c_in} -> {c_out} channels)"
    smallest = [Factorization(m, (1,) * len(layer.max_rank(m))) for m in layer.methods()]
    if not any(layer.params(choice) < layer.params() for choice in smallest):
        return f"rank 1 has no fewer parameters than {layer.weight_shape}"
    return None
