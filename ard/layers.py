"""The layers of a generator, what they cost, and the ranks worth trying on each.

Parameters include the bias. A MAC is one multiply-add of a convolution or a linear map. MACs are
counted per image; bias additions, activations and normalisation are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from torch import Tensor, nn

from ard.errors import NonFiniteError, NothingToFactorizeError, RankError
from ard.factorization.methods import METHODS
from ard.factorization.ranks import Rank, Shape, group_shape
from ard.plan import Factorization
from ard.signature import signature_of
from nas_gan.networks.hooks import OnOutput, observing
from nas_gan.networks.layer_types import (
    LAYER_TYPES,
    Kind,
    Layer,
    LayerType,
    is_plain,
    layer_type_of,
)
from nas_gan.networks.structure import weight_sharers

# With fewer channels than this on either side, no rank lies usefully between 0 and full rank. The
# usual case is the last convolution, which has three output channels.
MIN_CHANNELS = 4


@dataclass(frozen=True)
class LayerProfile:
    """The sizes of one layer that can be factorized.

    The rank of a grouped layer is counted over all groups, and is a multiple of their number.

    Attributes:
        name: the layer's name in the generator.
        kind: the kind of layer, such as `conv2d`.
        weight_shape: the shape of the weight as torch stores it.
        bias: whether the layer has a bias.
        groups: the groups of a convolution.
        positions: output positions per image, summed over all calls of the layer.
        input_positions: input positions per image, likewise; `positions` if None, which is right
            for a layer that keeps height and width.
        middle_positions: positions between a vertical and a horizontal factor (output rows times
            input columns), likewise; `positions` if None.
        aliases: other layers with the same weight. They are replaced together with this one; their
            calls are counted here, but not the biases that they have of their own.
        signatures: for each call, what determines its speed; see `ard.signature`.
    """

    name: str
    kind: Kind
    weight_shape: tuple[int, ...]
    bias: bool = True
    groups: int = 1
    positions: int = 1
    input_positions: int | None = None
    middle_positions: int | None = None
    aliases: tuple[str, ...] = ()
    signatures: tuple[str, ...] = field(default=(), compare=False)

    @property
    def layer_type(self) -> LayerType:
        """The torch layer that it is."""
        return LAYER_TYPES[self.kind]

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution, which stores its input channels first."""
        return self.layer_type.transposed

    @property
    def shape(self) -> Shape:
        """`(c_out, c_in, k_h, k_w)`, whatever the order and number of axes that torch stores.

        Channels are counted over all groups. A 1D kernel has `k_w = 1`; a 3D kernel has its depth
        and height merged into `k_h`.
        """
        first, second, *kernel = self.weight_shape
        c_out, c_in = (second, first) if self.transposed else (first, second)
        if self.transposed:
            c_out *= self.groups
        else:
            c_in *= self.groups
        rows = row_axes(len(kernel))
        return (c_out, c_in, math.prod(kernel[:rows]), math.prod(kernel[rows:]))

    def methods(self) -> tuple[str, ...]:
        """The methods that can factorize this layer; none for a depthwise convolution."""
        shape, n_axes = group_shape(self.shape, self.groups), self.layer_type.n_axes
        if self.groups > 1 and 1 in shape[:2]:
            return ()
        return tuple(name for name, method in METHODS.items() if method.fits(shape, n_axes))

    def max_rank(self, method: str) -> Rank:
        """The rank at which `method` reproduces the layer exactly."""
        return METHODS[method].max_rank(self.shape, self.groups)

    def check(self, choice: Factorization) -> None:
        """Check that `choice` can replace this layer.

        Raises:
            RankError: the method does not fit this kind of layer, or the rank is too large.
        """
        if choice.method not in self.methods():
            fitting = ", ".join(self.methods()) or "none"
            raise RankError(
                f"{choice} does not fit a {self.kind} weight of shape {self.weight_shape} with "
                f"{self.groups} group(s); methods that do: {fitting}"
            )
        METHODS[choice.method].check_rank(choice.rank, self.shape, self.groups)

    def params(self, choice: Factorization | None = None) -> int:
        """The number of weights and biases under a choice; None is the dense layer."""
        c_out = self.shape[0]
        if choice is None:
            return math.prod(self.weight_shape) + self.bias * c_out
        self.check(choice)
        return sum(self._factor_sizes(choice)) + self.bias * c_out

    def _factor_sizes(self, choice: Factorization) -> tuple[int, ...]:
        return METHODS[choice.method].factor_sizes(choice.rank, self.shape, self.groups)

    def macs(self, choice: Factorization | None = None) -> int:
        """Multiply-adds per image under a choice; None is the dense layer.

        A convolution uses each weight once per output position, a transposed convolution once per
        input position. The same holds for each of its factors.
        """
        before = self.positions if self.input_positions is None else self.input_positions
        middle = self.positions if self.middle_positions is None else self.middle_positions
        if choice is None:
            return math.prod(self.weight_shape) * (before if self.transposed else self.positions)
        self.check(choice)
        # By the axes, rows and columns, along which the factors have moved so far.
        positions = {(False, False): before, (True, False): middle, (True, True): self.positions}
        factors = METHODS[choice.method].of_layer(transposed=self.transposed)
        total, moved = 0, (False, False)
        for factor, size in zip(factors, self._factor_sizes(choice), strict=True):
            read, moved = moved, (moved[0] or factor.rows, moved[1] or factor.columns)
            total += size * positions[read if self.transposed else moved]
        return total

    def rank_grid(
        self, method: str, fractions: Sequence[float], multiple_of: int = 1
    ) -> list[Factorization]:
        """Choices with about the given fractions of the dense weights, without duplicates.

        Ranks are rounded to `multiple_of` if the layer is wide enough. Choices that do not have
        fewer parameters than the dense layer are left out.
        """
        if method not in self.methods():
            return []
        rank_for_fraction = METHODS[method].rank_for_fraction
        choices = (
            Factorization(method, rank_for_fraction(self.shape, fraction, multiple_of, self.groups))
            for fraction in fractions
        )
        return [c for c in dict.fromkeys(choices) if self.params(c) < self.params()]


def row_axes(n_axes: int) -> int:
    """The number of a kernel's axes that count as rows: all but the last one, but at least one.

    A linear layer has none. Factorizations with two spatial factors move along the rows first.

    >>> [row_axes(n) for n in (0, 1, 2, 3)]
    [0, 1, 1, 2]
    """
    return max(min(n_axes, 1), n_axes - 1)


@dataclass(frozen=True)
class Profile:
    """The layers of a generator and its totals.

    Attributes:
        layers: the layers that can be factorized, in execution order.
        skipped: the other convolutions and linear layers, each with the reason.
        total_params: parameters of the whole generator.
        total_macs: MACs per image of all convolutions and linear layers.
    """

    layers: tuple[LayerProfile, ...]
    skipped: tuple[tuple[str, str], ...]
    total_params: int
    total_macs: int

    @property
    def fixed_params(self) -> int:
        """Parameters outside `layers`."""
        return self.total_params - sum(layer.params() for layer in self.layers)

    @property
    def fixed_macs(self) -> int:
        """MACs outside `layers`."""
        return self.total_macs - sum(layer.macs() for layer in self.layers)

    def __getitem__(self, name: str) -> LayerProfile:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)


def describe_layer(
    name: str, module: Layer, before: Sequence[int] = (1, 1), after: Sequence[int] = (1, 1)
) -> LayerProfile:
    """The profile of one layer, given the shapes of its input and output without the batch.

    Only some entries matter: of a convolution the last ones, the axes along which it moves, and of
    a linear layer everything except the features.
    """
    kind = cast(LayerType, layer_type_of(module)).kind
    shape, bias = tuple(module.weight.shape), module.bias is not None
    signatures = (str(signature_of(module, before)),)
    if isinstance(module, nn.Linear):
        positions = math.prod(after[:-1])
        return LayerProfile(name, kind, shape, bias, positions=positions, signatures=signatures)
    axes, rows = module.weight.ndim - 2, row_axes(module.weight.ndim - 2)
    before, after = before[-axes:], after[-axes:]
    return LayerProfile(
        name,
        kind,
        shape,
        bias,
        module.groups,
        positions=math.prod(after),
        input_positions=math.prod(before),
        middle_positions=math.prod([*after[:rows], *before[rows:]]),
        signatures=signatures,
    )


def profile_layers(
    generator: nn.Module, latents: Tensor, min_channels: int = MIN_CHANNELS
) -> Profile:
    """Run `generator(latents)` once and find the layers that can be factorized.

    Layers that share a weight are profiled as one layer, under the name of the one that runs first,
    with the multiply-adds of all calls. A layer is skipped if it is depthwise, too thin or never
    called, if it shares a parameter with a layer of another kind, or if its class is a subclass of
    torch's. On the meta device nothing is computed and values are not checked.

    Args:
        generator: maps latents to images; it is not changed.
        latents: `(n, latent_dim)` latents; one or two are enough.
        min_channels: layers with fewer input or output channels per group are skipped.

    Returns:
        The layers in the order in which they run, and the skipped ones with reasons.

    Raises:
        NothingToFactorizeError: every layer was skipped.
        NonFiniteError: an image or an activation is NaN or infinite.
    """
    calls = _record_calls(generator, latents)
    modules = {n: m for n, m in generator.named_modules() if isinstance(m, Layer)}
    layers: list[LayerProfile] = []
    skipped: list[tuple[str, str]] = []
    done: set[str] = set()
    for name in dict.fromkeys([*calls, *modules]):  # in execution order, unused layers last
        if name in done:
            continue
        aliases = [other for other in weight_sharers(generator, name) if other != name]
        called = [call for member in (name, *aliases) for call in calls.get(member, [])]
        reason = _reason_to_skip(generator, name, called, min_channels)
        if reason is None:
            layers.append(_all_calls(called, tuple(aliases)))
            done.update(aliases)
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


def _all_calls(called: Sequence[LayerProfile], aliases: tuple[str, ...]) -> LayerProfile:
    """The profile that sums up all calls of one weight."""

    def total(counts: Sequence[int | None]) -> int | None:
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    return replace(
        called[0],
        positions=sum(call.positions for call in called),
        input_positions=total([call.input_positions for call in called]),
        middle_positions=total([call.middle_positions for call in called]),
        signatures=tuple(s for call in called for s in call.signatures),
        aliases=aliases,
    )


def _record_calls(generator: nn.Module, latents: Tensor) -> dict[str, list[LayerProfile]]:
    """A profile for every call of every convolution and linear layer, in order."""
    calls: dict[str, list[LayerProfile]] = {}
    not_finite: list[str] = []

    def record(name: str, module: Layer) -> OnOutput:
        def on_output(inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls.setdefault(name, []).append(
                describe_layer(name, module, inputs[0].shape[1:], output.shape[1:])
            )
            if not output.is_meta and not output.isfinite().all():
                not_finite.append(f"{name}: the output of this layer")

        return on_output

    layers = [(n, module) for n, module in generator.named_modules() if isinstance(module, Layer)]
    with observing(generator, leaving=[(module, record(n, module)) for n, module in layers]):
        images = generator(latents)
    if isinstance(images, Tensor) and not images.is_meta and not images.isfinite().all():
        not_finite.append("the image")
    if not_finite:
        raise NonFiniteError(f"{not_finite[0]} is NaN or infinite; check the generator's weights")
    return calls


def _reason_to_skip(
    generator: nn.Module, name: str, called: Sequence[LayerProfile], min_channels: int
) -> str | None:
    module = generator.get_submodule(name)
    if not is_plain(module):
        return f"{type(module).__name__} is a subclass and may compute something else"
    if not called:
        return "never called"
    if stranger := _shares_with(generator, name):
        return f"shares a parameter with {stranger}, which is not replaced with it"
    layer = called[0]
    c_out, c_in = group_shape(layer.shape, layer.groups)[:2]
    if layer.groups > 1 and 1 in (c_out, c_in):
        return f"depthwise convolution ({layer.groups} groups)"
    if min(c_out, c_in) < min_channels:
        where = f" in each of {layer.groups} groups" if layer.groups > 1 else ""
        return f"too thin to factorize ({c_in} -> {c_out} channels{where})"
    smallest = [Factorization(m, (layer.groups,) * len(layer.max_rank(m))) for m in layer.methods()]
    if not any(layer.params(choice) < layer.params() for choice in smallest):
        return f"rank 1 has no fewer parameters than {layer.weight_shape}"
    return None


def _shares_with(generator: nn.Module, name: str) -> str | None:
    """Another module that shares a parameter with this layer but would not be replaced with it."""
    partners = weight_sharers(generator, name)
    own = {id(p) for member in partners for p in generator.get_submodule(member).parameters()}
    for other, module in generator.named_modules():
        if other not in partners and any(id(p) in own for p in module.parameters(recurse=False)):
            return f"{other} ({type(module).__name__})"
    return None
