"""Lists of layers as data, and the modules that they describe.

A layer is a dictionary of plain values, `{"type": "conv", "out": 64, "kernel": 4, "stride": 2}`.
Its input is not part of it, but follows from the layers before it. Two types are slots that a net
fills by name: `hidden`, the activation between layers, and `output`, the last one.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.networks.activations import (
    SYMMETRIC,
    UNIT,
    Init,
    Interval,
    make_activation,
    make_output_activation,
)

# The shape of one image or vector, without the batch: (c, h, w) or (n,).
Shape = tuple[int, ...]
LayerSpec = Mapping[str, Any]
Sharing = Literal["unit", "channel", "site"]
# Smallest distance of a probability from 0 and 1; nearer ones are clamped.
PROBABILITY_FLOOR = 1e-5


@dataclass(frozen=True)
class Slots:
    """What the activation slots of a network hold.

    Attributes:
        hidden: a name of `nas_gan.networks.activations.ACTIVATIONS`; None is the default of each
            layer.
        output: `default` (tanh, or none for scores) or an output activation.
        interval: the range of the output: `SYMMETRIC` for images, `UNIT` for a probability, which
            becomes its log odds, so that every discriminator returns scores.
        init: how learned parameters of slots are initialised.
        sharing: whether a learned parameter has a value per unit, per channel or per site.
    """

    hidden: str | None = None
    output: str = "default"
    interval: Interval = SYMMETRIC
    init: Init = "default"
    sharing: Sharing = "unit"

    def parameter_shape(self, shape: Shape) -> Shape:
        """The shape of a learned parameter at a site whose inputs have the given shape."""
        if self.sharing == "site":
            return (1,)
        if self.sharing == "channel" and len(shape) == 3:
            return (shape[0], 1, 1)
        if self.sharing not in ("unit", "channel"):
            raise unknown_name("activation sharing", self.sharing, ("unit", "channel", "site"))
        return shape


@dataclass(frozen=True)
class Built:
    """A layer, the shape of its output, and its kernels that need spectral norm.

    `normed` has the dotted name of each such layer within `module` (empty for `module` itself), the
    shape of its input, and the constant that becomes its largest singular value.
    """

    module: nn.Module
    shape: Shape
    normed: tuple[tuple[str, Shape, float], ...] = ()


class Maxout(nn.Module):
    """`(n, c_in)` to `(n, c_out)`: the largest of `pieces` linear maps, for each unit."""

    def __init__(self, c_in: int, c_out: int, pieces: int) -> None:
        super().__init__()
        self.pieces, self.out_features = pieces, c_out
        self.linear = nn.Linear(c_in, c_out * pieces)

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.linear(x).view(-1, self.pieces, self.out_features)
        return pieces.amax(dim=1)


class Noise(nn.Module):
    """Adds noise in training: uniform in [0, rate), or normal with deviation `rate`.

    In evaluation mode it does nothing.
    """

    def __init__(self, rate: float, distribution: Literal["uniform", "normal"]) -> None:
        super().__init__()
        self.rate, self.distribution = rate, distribution

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        draw = torch.rand_like if self.distribution == "uniform" else torch.randn_like
        return x + self.rate * draw(x)


class SelfAttention(nn.Module):
    """Self-attention over the positions of a feature map, `(n, c, h, w)` to the same (SAGAN, 2019).

    Keys and values are pooled to a quarter of the positions. The result is added with a learned
    weight that starts at 0, so that a new block is the identity.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        narrow, half = max(1, channels // reduction), max(1, channels // 2)
        self.query = nn.Conv2d(channels, narrow, 1, bias=False)
        self.key = nn.Conv2d(channels, narrow, 1, bias=False)
        self.value = nn.Conv2d(channels, half, 1, bias=False)
        self.project = nn.Conv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # (n, c/8, hw)
        key = F.max_pool2d(self.key(x), 2).flatten(2)  # (n, c/8, hw/4)
        value = F.max_pool2d(self.value(x), 2).flatten(2)  # (n, c/2, hw/4)
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)  # (n, hw, hw/4)
        attended = (value @ weights.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:])
        return x + self.gamma * self.project(attended)


class LogOdds(nn.Module):
    """Probabilities to scores, `log(p / (1 - p))`, the inverse of a sigmoid.

    Values outside (0, 1), which some output activations reach, are clamped but keep their gradient,
    since a score without one could never return.
    """

    def forward(self, p: Tensor) -> Tensor:
        inside = p.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        p = p + (inside - p).detach()
        return torch.log(p) - torch.log1p(-p)


def _linear(
    shape: Shape, slots: Slots, *, out: int, bias: bool = True, spectral_norm: float | None = None
) -> Built:
    (features,) = _rank(shape, 1)
    module = nn.Linear(features, _size("out", out), bias=bias)
    return Built(module, (out,), _marked(shape, spectral_norm))


def _conv(
    shape: Shape,
    slots: Slots,
    *,
    out: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    bias: bool = True,
    spectral_norm: float | None = None,
) -> Built:
    def after(side: int) -> int:
        return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1

    counts = {"out": out, "kernel": kernel, "stride": stride, "dilation": dilation}
    margins = {"padding": padding}
    return _convolution(nn.Conv2d, shape, after, counts, margins, bias, spectral_norm)


def _conv_transpose(
    shape: Shape,
    slots: Slots,
    *,
    out: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    bias: bool = True,
    spectral_norm: float | None = None,
) -> Built:
    def after(side: int) -> int:
        return (side - 1) * stride - 2 * padding + kernel + output_padding

    counts = {"out": out, "kernel": kernel, "stride": stride}
    margins = {"padding": padding, "output_padding": output_padding}
    return _convolution(nn.ConvTranspose2d, shape, after, counts, margins, bias, spectral_norm)


def _convolution(
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d],
    shape: Shape,
    after: Callable[[int], int],
    counts: Mapping[str, int],
    margins: Mapping[str, int],
    bias: bool,
    spectral_norm: float | None,
) -> Built:
    """A convolution or transposed convolution, which maps a side of `n` pixels to `after(n)`.

    The options in `counts` are at least 1 and those in `margins` at least 0.
    """
    channels, *sides = _rank(shape, 3)
    sizes: dict[str, Any] = {name: _size(name, value) for name, value in counts.items()}
    sizes |= {name: _size(name, value, least=0) for name, value in margins.items()}
    out, kernel = sizes.pop("out"), sizes.pop("kernel")
    module = kind(channels, out, kernel, bias=bias, **sizes)
    return Built(module, _positive((out, *map(after, sides))), _marked(shape, spectral_norm))


def _maxout(shape: Shape, slots: Slots, *, out: int, pieces: int) -> Built:
    (features,) = _rank(shape, 1)
    return Built(Maxout(features, _size("out", out), _size("pieces", pieces)), (out,))


def _upsample(
    shape: Shape,
    slots: Slots,
    *,
    scale: int = 2,
    mode: Literal["nearest", "bilinear", "bicubic"] = "nearest",
) -> Built:
    channels, *sides = _rank(shape, 3)
    if mode not in ("nearest", "bilinear", "bicubic"):
        raise unknown_name("interpolation", mode, ("nearest", "bilinear", "bicubic"))
    module = nn.Upsample(
        scale_factor=_size("scale", scale),
        mode=mode,
        align_corners=None if mode == "nearest" else False,
    )
    return Built(module, (channels, *(side * scale for side in sides)))


def _average_pool(shape: Shape, slots: Slots, *, size: int = 2) -> Built:
    channels, *sides = _rank(shape, 3)
    if any(side % _size("size", size) for side in sides):
        raise InvalidValueError(f"a map of {shape} does not divide into {size} x {size} squares")
    return Built(nn.AvgPool2d(size), (channels, *(side // size for side in sides)))


def _batch_norm(shape: Shape, slots: Slots, *, eps: float = 1e-5, momentum: float = 0.1) -> Built:
    norm = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    return Built(norm(shape[0], eps=eps, momentum=momentum), shape)


def _hidden(shape: Shape, slots: Slots, *, slope: float | None = None) -> Built:
    """The hidden slot: ReLU, or leaky ReLU if the layer has a slope for negative inputs."""
    if slots.hidden is not None:
        parameters = slots.parameter_shape(shape)
        return Built(make_activation(slots.hidden, parameters, slots.init), shape)
    return Built(nn.ReLU() if slope is None else nn.LeakyReLU(slope), shape)


def _output(shape: Shape, slots: Slots) -> Built:
    if slots.interval == UNIT and slots.output in ("default", "none", "sigmoid"):
        return Built(nn.Identity(), shape)  # the log odds of a sigmoid are its input
    name = "tanh" if slots.output == "default" else slots.output
    parameters = slots.parameter_shape(shape)
    activation = make_output_activation(name, slots.interval, parameters, slots.init)
    if slots.interval == UNIT:
        activation = nn.Sequential(activation, LogOdds())
    return Built(activation, shape)


def _activation(shape: Shape, slots: Slots, *, name: str) -> Built:
    """An activation that is not a slot."""
    return Built(make_activation(name, slots.parameter_shape(shape), slots.init), shape)


def _dropout(shape: Shape, slots: Slots, *, rate: float) -> Built:
    if not 0 <= rate < 1:
        raise InvalidValueError(f"rate must be in [0, 1); got {rate}")
    return Built(nn.Dropout(rate), shape)


def _noise(
    shape: Shape,
    slots: Slots,
    *,
    rate: float,
    distribution: Literal["uniform", "normal"] = "uniform",
) -> Built:
    if rate < 0 or distribution not in ("uniform", "normal"):
        raise InvalidValueError(
            f"noise is uniform or normal, with a rate of at least 0; got {distribution!r}, {rate}"
        )
    return Built(Noise(rate, distribution), shape)


def _reshape(shape: Shape, slots: Slots, *, to: Sequence[int]) -> Built:
    after = tuple(to)
    if math.prod(after) != math.prod(shape):
        raise InvalidValueError(f"{shape} has {math.prod(shape)} values, {after} another number")
    return Built(nn.Unflatten(1, after) if len(shape) == 1 else _Reshape(after), after)


class _Reshape(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape)


def _flatten(shape: Shape, slots: Slots) -> Built:
    return Built(nn.Flatten(), (math.prod(shape),))


def _self_attention(
    shape: Shape, slots: Slots, *, reduction: int = 8, spectral_norm: float | None = None
) -> Built:
    channels, *sides = _rank(shape, 3)
    if any(side % 2 for side in sides):
        raise InvalidValueError(f"self-attention pools by 2; a map of {shape} has an odd side")
    module = SelfAttention(channels, _size("reduction", reduction))
    marks = (
        ()
        if spectral_norm is None
        else tuple(
            (name, (layer.in_channels, *sides), _scale(spectral_norm))
            for name, layer in module.named_children()
            if isinstance(layer, nn.Conv2d)
        )
    )
    return Built(module, shape, marks)


LAYERS: dict[str, Callable[..., Built]] = {
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "maxout": _maxout,
    "upsample": _upsample,
    "average_pool": _average_pool,
    "batch_norm": _batch_norm,
    "hidden": _hidden,
    "output": _output,
    "activation": _activation,
    "dropout": _dropout,
    "noise": _noise,
    "reshape": _reshape,
    "flatten": _flatten,
    "self_attention": _self_attention,
}


def build_layers(
    specs: Sequence[LayerSpec], shape: Shape, slots: Slots, where: str = "layers"
) -> Built:
    """The layers of a list as an `nn.Sequential` with parts `conv1`, `conv2` and so on.

    `shape` is that of the input without the batch. `where` names the list in errors.

    Raises:
        InvalidValueError: a type or an option is unknown, or a layer does not fit its input.
    """
    built = nn.Sequential()
    normed: list[tuple[str, Shape, float]] = []
    count: Counter[str] = Counter()
    for number, spec in enumerate(specs, start=1):
        try:
            layer = _build(spec, shape, slots)
        except (InvalidValueError, TypeError, ValueError) as error:
            kind = spec.get("type") if isinstance(spec, Mapping) else spec
            reason = str(error).splitlines()[0]
            raise InvalidValueError(
                f"{where}: layer {number} ({kind}) after {shape}: {reason}"
            ) from error
        count[spec["type"]] += 1
        name = f"{spec['type']}{count[spec['type']]}"
        built.add_module(name, layer.module)
        normed += [
            (f"{name}.{inner}".rstrip("."), before, scale) for inner, before, scale in layer.normed
        ]
        shape = layer.shape
    return Built(built, shape, tuple(normed))


def _build(spec: LayerSpec, shape: Shape, slots: Slots) -> Built:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("type"), str):
        raise InvalidValueError('a layer is a dictionary with a "type"')
    if spec["type"] not in LAYERS:
        raise unknown_name("layer type", spec["type"], LAYERS)
    build = LAYERS[spec["type"]]
    options = {name: value for name, value in spec.items() if name != "type"}
    known = [name for name in inspect.signature(build).parameters if name not in ("shape", "slots")]
    for name in options:
        if name not in known:
            raise unknown_name("option", name, known)
    return build(shape, slots, **options)


def _rank(shape: Shape, dimensions: int) -> Shape:
    if len(shape) != dimensions:
        wanted = "a feature map (c, h, w)" if dimensions == 3 else "a vector (n,)"
        raise InvalidValueError(f"it takes {wanted}; put reshape or flatten before it")
    return shape


def _size(name: str, value: int, least: int = 1) -> int:
    if type(value) is not int or value < least:
        raise InvalidValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
    return value


def _positive(shape: Shape) -> Shape:
    if min(shape) < 1:
        raise InvalidValueError("the map is too small for this kernel")
    return shape


def _scale(value: float) -> float:
    if isinstance(value, bool) or not value > 0:
        raise InvalidValueError(
            f"spectral_norm is the norm of the layer and must be above 0; got {value!r}"
        )
    return float(value)


def _marked(shape: Shape, spectral_norm: float | None) -> tuple[tuple[str, Shape, float], ...]:
    return () if spectral_norm is None else (("", shape, _scale(spectral_norm)),)
