"""The layers of a generator, what they cost, and the ranks worth trying on each.

Parameters include the bias. A MAC is one multiply-add of a convolution or a linear map. MACs are
counted per image; bias additions, activations and normalisation are not counted.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from ard.activations import ActivationProfile
from ard.coverage import Coverage
from ard.errors import NonFiniteError, NothingToFactorizeError, RankError
from ard.factorization.methods import METHODS
from ard.factorization.ranks import Rank, Shape, group_shape
from ard.plan import Factorization, Replacement
from ard.signature import signature_of
from nas_gan.errors import InvalidValueError
from nas_gan.networks.hooks import OnOutput, observing
from nas_gan.networks.layer_types import (
    LAYER_TYPES,
    Kind,
    Layer,
    LayerType,
    is_plain,
    layer_type_of,
)
from nas_gan.networks.parametrizations import computes_weight
from nas_gan.networks.randomness import run_repeatably
from nas_gan.networks.structure import evaluating, replace_modules, weight_sharers

# With fewer channels than this on either side, no rank lies usefully between 0 and full rank. The
# usual case is the last convolution, which has three output channels.
MIN_CHANNELS = 4
# Reasons in the message for a generator in which nothing can be factorized.
N_LISTED = 5
_OWN = {"weight", "bias"}
_BARE = nn.Module()
_NOT_REGISTERED = (
    "kept in a plain list or dictionary, so that it is not part of the network; "
    "use nn.ModuleList or nn.ModuleDict"
)


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

    @cached_property
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
        return tuple(name for name in METHODS if self._takes(name))

    def _takes(self, method: str) -> bool:
        shape = group_shape(self.shape, self.groups)
        if method not in METHODS or (self.groups > 1 and 1 in shape[:2]):
            return False
        return METHODS[method].fits(shape, self.layer_type.n_axes)

    def max_rank(self, method: str) -> Rank:
        """The rank at which `method` reproduces the layer exactly."""
        return METHODS[method].max_rank(self.shape, self.groups)

    def check(self, choice: Replacement) -> None:
        """Check that `choice` can replace this layer.

        Raises:
            RankError: the method does not fit this kind of layer, or the rank is too large.
        """
        if not self._takes(choice.method):
            fitting = ", ".join(self.methods()) or "none"
            raise RankError(
                f"{choice} does not fit a {self.kind} weight of shape {self.weight_shape} with "
                f"{self.groups} group(s); methods that do: {fitting}"
            )
        METHODS[choice.method].check_rank(choice.rank, self.shape, self.groups)

    def params(self, choice: Replacement | None = None) -> int:
        """The number of weights and biases under a choice; None is the dense layer."""
        c_out = self.shape[0]
        if choice is None:
            return math.prod(self.weight_shape) + self.bias * c_out
        self.check(choice)
        return sum(self._factor_sizes(choice)) + self.bias * c_out

    def _factor_sizes(self, choice: Replacement) -> tuple[int, ...]:
        return METHODS[choice.method].factor_sizes(choice.rank, self.shape, self.groups)

    def macs(self, choice: Replacement | None = None) -> int:
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


# A part of a generator that a plan may replace.
Part = LayerProfile | ActivationProfile


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
        coverage: the share of the parameters that is in `layers`, and in what the rest is.
        activations: the activations that gates may replace; only looked for where time counts.
    """

    layers: tuple[LayerProfile, ...]
    skipped: tuple[tuple[str, str], ...]
    total_params: int
    total_macs: int
    coverage: Coverage = field(default_factory=Coverage)
    activations: tuple[ActivationProfile, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything that a plan may replace: the layers, then the activations."""
        return (*self.layers, *self.activations)

    @property
    def fixed_params(self) -> int:
        """Parameters outside `parts`."""
        return self.total_params - sum(part.params() for part in self.parts)

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
    called, if it shares a parameter with a layer of another kind, if its class is a subclass of
    torch's, or if the generator does more with it than call it. The last is found by running a copy
    in which every layer is replaced. On the meta device nothing is computed and values are not
    checked.

    Args:
        generator: maps latents to images; it is not changed.
        latents: `(n, latent_dim)` latents; one or two are enough.
        min_channels: layers with fewer input or output channels per group are skipped.

    Returns:
        The layers in the order in which they run, and the skipped ones with reasons.

    Raises:
        NothingToFactorizeError: every layer was skipped.
        NonFiniteError: an image or an activation is NaN or infinite.
        InvalidValueError: the generator cannot be copied.
    """
    hidden = _unregistered(generator)
    calls, images = _record_calls(generator, latents, hidden)
    modules = {n: m for n, m in generator.named_modules() if isinstance(m, Layer)}
    layers: list[LayerProfile] = []
    left: list[tuple[str, _Reason]] = []
    done: set[str] = set()
    for name in dict.fromkeys([*calls, *modules]):  # in execution order, unused layers last
        if name in done:
            continue
        if name in hidden:
            left.append((name, _Reason("not registered", _NOT_REGISTERED)))
            continue
        aliases = [other for other in weight_sharers(generator, name) if other != name]
        called = [call for member in (name, *aliases) for call in calls.get(member, [])]
        reason = _reason_to_skip(generator, name, called, min_channels)
        if reason is None:
            layers.append(_all_calls(called, tuple(aliases)))
            done.update(aliases)
        else:
            left.append((name, reason))
    units = [(layer.name, *layer.aliases) for layer in layers]
    # A layer that is never called is not unused if its weight is read.
    units += [(name,) for name, reason in left if reason is _UNUSED]
    harmed = entangled(generator, latents, images, units)
    left = [(name, harmed.get(name, reason)) for name, reason in left]
    left += [(layer.name, harmed[layer.name]) for layer in layers if layer.name in harmed]
    layers = [layer for layer in layers if layer.name not in harmed]
    coverage = _coverage(generator, layers, dict(left), hidden)
    if not layers:
        found = "; ".join(f"{name}: {reason.text}" for name, reason in left[:N_LISTED])
        more = f"; and {len(left) - N_LISTED} more" if len(left) > N_LISTED else ""
        raise NothingToFactorizeError(
            f"the generator has no layer to factorize ({found or 'no conv, no linear'}{more}). "
            f"{coverage.describe()}"
        )
    return Profile(
        layers=tuple(layers),
        skipped=tuple((name, reason.text) for name, reason in left),
        total_params=sum(parameter.numel() for parameter in generator.parameters()),
        total_macs=sum(layer.macs() for called in calls.values() for layer in called),
        coverage=coverage,
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


@dataclass(frozen=True)
class _Reason:
    """Why a layer stays dense: in two words for a group of layers, and in full."""

    short: str
    text: str


_UNUSED = _Reason("never called", "never called")
_HELD = _Reason(
    "held elsewhere", "the generator holds its weight in a second place, such as a list of weights"
)


def _record_calls(
    generator: nn.Module, latents: Tensor, hidden: Mapping[str, Layer]
) -> tuple[dict[str, list[LayerProfile]], object]:
    """A profile for every call of every convolution and linear layer, in order, and the images."""
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
    layers += hidden.items()
    with observing(generator, leaving=[(module, record(n, module)) for n, module in layers]):
        images = run_repeatably(generator, latents)
    if isinstance(images, Tensor) and not images.is_meta and not images.isfinite().all():
        not_finite.append("the image")
    if not_finite:
        raise NonFiniteError(f"{not_finite[0]} is NaN or infinite; check the generator's weights")
    return calls, images


def _reason_to_skip(
    generator: nn.Module, name: str, called: Sequence[LayerProfile], min_channels: int
) -> _Reason | None:
    module = generator.get_submodule(name)
    kind = type(module).__name__
    if not is_plain(module):
        return _Reason("a subclass", f"{kind} is a subclass and may compute something else")
    if computes_weight(module):
        return _Reason(
            "weight computed", "its weight is not a parameter, but computed whenever it runs"
        )
    if extra := sorted({*module._parameters, *module._buffers, *module._modules} - _OWN):
        return _Reason("with additions", f"it has {extra[0]}, which its factors would not have")
    if _has_hooks(module):
        return _Reason("with hooks", "it has hooks, which its factors would not have")
    if not called:
        return _UNUSED
    if stranger := _shares_with(generator, name):
        return _Reason(
            "shared", f"shares a parameter with {stranger}, which is not replaced with it"
        )
    layer = called[0]
    c_out, c_in = group_shape(layer.shape, layer.groups)[:2]
    if layer.groups > 1 and 1 in (c_out, c_in):
        return _Reason("depthwise", f"depthwise convolution ({layer.groups} groups)")
    if min(c_out, c_in) < min_channels:
        where = f" in each of {layer.groups} groups" if layer.groups > 1 else ""
        return _Reason("too thin", f"too thin to factorize ({c_in} -> {c_out} channels{where})")
    smallest = [Factorization(m, (layer.groups,) * len(layer.max_rank(m))) for m in layer.methods()]
    if not any(layer.params(choice) < layer.params() for choice in smallest):
        return _Reason("too small", f"rank 1 has no fewer parameters than {layer.weight_shape}")
    return None


def _has_hooks(module: nn.Module) -> bool:
    """Whether something happens when a layer is called that is not in its class."""
    forward = module.__dict__.get("forward")
    replaced = (
        forward is not None and getattr(forward, "__func__", None) is not type(module).forward
    )
    return bool(module._forward_hooks or module._forward_pre_hooks) or replaced


def _shares_with(generator: nn.Module, name: str) -> str | None:
    """Another module that shares a parameter with this layer but would not be replaced with it."""
    partners = weight_sharers(generator, name)
    own = {id(p) for member in partners for p in generator.get_submodule(member).parameters()}
    for other, module in generator.named_modules():
        if other not in partners and any(id(p) in own for p in module.parameters(recurse=False)):
            return f"{other} ({type(module).__name__})"
    return None


# -- layers with which the generator does more than call them


def entangled(
    generator: nn.Module, latents: Tensor, images: object, units: Sequence[tuple[str, ...]]
) -> dict[str, _Reason]:
    """The layers that cannot be replaced because the generator reads or inspects them.

    Every layer is put inside an `nn.Sequential`, which is what factors are; those of one unit share
    a weight and are replaced together. If the generator then fails, or its images change, the
    layers at fault are found by halving.
    """
    found: dict[str, _Reason] = {}

    def search(units: Sequence[tuple[str, ...]]) -> None:
        reason = _harm(generator, latents, images, [name for unit in units for name in unit])
        if reason is None:
            return
        if len(units) == 1:
            found.update(dict.fromkeys(units[0], reason))
            return
        middle = len(units) // 2
        search(units[:middle])
        search(units[middle:])

    for unit in _held_elsewhere(generator, units):
        found.update(dict.fromkeys(unit, _HELD))
    if alone := [unit for unit in units if unit[0] not in found]:
        search(alone)
    return found


def _held_elsewhere(
    generator: nn.Module, units: Sequence[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """The units with a parameter that something besides their layers holds, such as a list.

    A copy of the generator without the layers then still contains it. It would keep the dense
    weight, which is not in the state dict under that name.
    """
    layers = {name: generator.get_submodule(name) for unit in units for name in unit}
    memo: dict[int, object] = {id(layer): nn.Identity() for layer in layers.values()}
    try:
        copy.deepcopy(generator, memo)
    except Exception as error:  # whatever a stranger's module raises
        raise InvalidValueError(
            f"the generator cannot be copied by copy.deepcopy, which factorizing needs: {error}"
        ) from error
    return [
        unit
        for unit in units
        if any(id(p) in memo for name in unit for p in layers[name].parameters())
    ]


def _harm(
    generator: nn.Module, latents: Tensor, images: object, names: Sequence[str]
) -> _Reason | None:
    """What goes wrong if the named layers are replaced, or None."""
    inside = {name: nn.Sequential(generator.get_submodule(name)) for name in names}
    try:
        replaced = replace_modules(generator, inside)
        with evaluating(replaced):
            after = run_repeatably(replaced, latents)
    except Exception as error:  # whatever a stranger's forward raises
        return _reason_of(error)
    if not (isinstance(images, Tensor) and isinstance(after, Tensor)) or images.is_meta:
        return None
    if torch.allclose(images, after, rtol=1e-3, atol=1e-3 * float(images.abs().max())):
        return None
    with evaluating(generator):
        again = run_repeatably(generator, latents)
    if not (isinstance(again, Tensor) and torch.equal(again, images)):
        return None  # it is not the same twice, whatever is replaced
    return _Reason("inspected", "the images change if another module takes its place")


def _reason_of(error: Exception) -> _Reason:
    if missing := re.search(r"'Sequential' object has no attribute '(\w+)'", str(error)):
        return _Reason(
            f"{missing[1]} read directly", f"its {missing[1]} is read without calling it"
        )
    line = (str(error).splitlines() or [""])[0]
    if isinstance(error, TypeError) and "forward()" in line:
        return _Reason("called with more", "it is called with more than its input")
    return _Reason(
        "not replaceable", f"the generator fails without it ({type(error).__name__}: {line})"
    )


# -- what the rest of the parameters is


def _unregistered(generator: nn.Module) -> dict[str, Layer]:
    """Layers in plain lists and dictionaries of a module, of which the network does not know."""
    registered = set(generator.modules())
    found: dict[Layer, str] = {}
    for name, module in generator.named_modules():
        for attribute, value in vars(module).items():
            if attribute in vars(_BARE):
                continue
            for key, item in _items(value):
                if not isinstance(item, nn.Module) or item in registered:
                    continue
                for inner, layer in item.named_modules():
                    path = ".".join(part for part in (name, f"{attribute}[{key!r}]", inner) if part)
                    if isinstance(layer, Layer) and layer not in registered:
                        found.setdefault(layer, path)
    return {name: layer for layer, name in found.items()}


def _items(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, dict):
        yield from value.items()


def _coverage(
    generator: nn.Module,
    layers: Sequence[LayerProfile],
    left: Mapping[str, _Reason],
    hidden: Mapping[str, Layer],
) -> Coverage:
    """The parameters by the class of the module that owns them, each counted once.

    The buffers of the generator itself are counted too if they are saved and hold real numbers,
    since a constant input is often one.
    """
    counted: set[int] = set()

    def new(tensors: Iterator[Tensor]) -> int:
        fresh = {id(t): t.numel() for t in tensors if id(t) not in counted}
        counted.update(fresh)
        return sum(fresh.values())

    names = [name for layer in layers for name in (layer.name, *layer.aliases)]
    factorizable = sum(new(generator.get_submodule(name).parameters()) for name in names)
    owned: dict[str, int] = {}
    for name, module in generator.named_modules():
        # torch keeps what a weight is computed from in a submodule of the layer.
        owner = name.partition(".parametrizations.")[0]
        owned[owner] = owned.get(owner, 0) + new(module.parameters(recurse=False))
    unsaved = generator._non_persistent_buffers_set
    owned[""] += new(
        buffer
        for name, buffer in generator.named_buffers(recurse=False)
        if name not in unsaved and buffer.is_floating_point()
    )
    others: list[tuple[str, int]] = []
    for name, params in owned.items():
        kind = type(generator.get_submodule(name)).__name__
        qualifier = f", {left[name].short}" if name in left else "" if name else " itself"
        if params:
            others.append((kind + qualifier, params))
    for name, layer in hidden.items():
        if name in left and (params := new(layer.parameters())):
            others.append((f"{type(layer).__name__}, {left[name].short}", params))
    return Coverage.of(factorizable, others)
