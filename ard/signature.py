"""What determines the speed of a layer, as text that is the same in every network and machine.

    conv2d 64x32x3x3 in=16x16 padding=1x1 bias
    conv_transpose2d 64x32x4x4 in=8x8 stride=2x2 padding=1x1 bias
    linear 4096x40 bias

A signature begins with the kind of the layer and the shape of its weight as torch stores it. The
size of the input follows, then the options that differ from torch's defaults. The layer's name and
the values of its weights are not part of it. Neither is the activation in front of the layer, which
takes the same time under every choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ard.errors import LatencyError
from nas_gan.networks.layer_types import LAYER_TYPES, Kind, LayerType, layer_type_of
from nas_gan.seeds import folded

# The options of a convolution and their defaults, which signatures omit.
NEUTRAL: dict[str, int | str] = {
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "dilation": 1,
    "groups": 1,
    "padding_mode": "zeros",
}
Value = tuple[int, ...] | str
# Separates the signatures of a layer that runs several times per pass, in one cell of a table.
AND = " + "


@dataclass(frozen=True)
class LayerSignature:
    """A layer as a runtime sees it; `parse` is the inverse of `str`.

    `input_size` is the height and width of a convolution's input. For a linear layer it is the
    number of positions that the layer is applied to, or empty if there is only one. `options` are
    the options that differ from `NEUTRAL`.

    >>> text = "conv2d 64x32x3x3 in=16x16 padding=1x1 bias"
    >>> str(LayerSignature.parse(text)) == text
    True

    Raises:
        LatencyError: from `parse`, if the text is not a signature.
    """

    kind: Kind
    weight_shape: tuple[int, ...]
    input_size: tuple[int, ...] = ()
    options: tuple[tuple[str, Value], ...] = ()
    bias: bool = True

    def __str__(self) -> str:
        return " ".join(self._words())

    def _words(self) -> Iterator[str]:
        yield self.kind
        yield _join(self.weight_shape)
        if self.input_size:
            yield f"in={_join(self.input_size)}"
        for name, value in self.options:
            yield f"{name}={value if isinstance(value, str) else _join(value)}"
        if self.bias:
            yield "bias"

    @staticmethod
    def parse(text: str) -> LayerSignature:
        """Read what `str` writes."""
        try:
            kind, shape, *rest = text.split()
            if kind not in LAYER_TYPES:
                raise ValueError(f"{kind!r} is none of {', '.join(LAYER_TYPES)}")
            bias = rest[-1:] == ["bias"]
            named = [word.split("=", 1) for word in (rest[:-1] if bias else rest)]
            if unknown := [word for word, *_ in named if word not in ("in", *NEUTRAL)]:
                raise ValueError(f"{unknown[0]!r} is none of in, {', '.join(NEUTRAL)}")
            values = {name: _value(value) for name, value in named}
            size = values.pop("in", ())
            weight_shape = _value(shape)
            if isinstance(size, str) or isinstance(weight_shape, str):
                raise ValueError("sizes are whole numbers, as in 64x32x3x3")
            axes = LAYER_TYPES[cast(Kind, kind)].n_axes
            if len(weight_shape) != 2 + axes or (axes and len(size) != axes):
                raise ValueError(f"a {kind} has {2 + axes} sizes and an input of {axes or 'one'}")
        except ValueError as error:
            raise LatencyError(f"not the signature of a layer: {text!r} ({error})") from error
        return LayerSignature(cast(Kind, kind), weight_shape, size, tuple(values.items()), bias)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        if not self.layer_type.n_axes:
            return (*self.input_size, self.weight_shape[1])
        if self.transposed:
            return (self.weight_shape[0], *self.input_size)
        return (self.weight_shape[1] * self.groups, *self.input_size)

    @property
    def layer_type(self) -> LayerType:
        """The torch layer that it is."""
        return LAYER_TYPES[self.kind]

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution, which stores its input channels first."""
        return self.layer_type.transposed

    @property
    def groups(self) -> int:
        """The groups of a convolution, usually 1."""
        return int(dict(self.options).get("groups", (1,))[0])

    def build(self, seed: int = 0) -> nn.Module:
        """A layer with this signature. Its weights are random, which does not affect its speed.

        Raises:
            LatencyError: torch has no such layer.
        """
        layer_type: type[nn.Module] = self.layer_type.module
        is_conv = self.layer_type.n_axes > 0
        options: dict[str, Any] = dict(self.options)
        if is_conv:
            options["groups"] = self.groups
        out_channels = self.weight_shape[0]
        if self.transposed:
            out_channels = self.weight_shape[1] * self.groups
        kernel = (self.weight_shape[2:],) if is_conv else ()
        channels = self.input_shape[0] if is_conv else self.input_shape[-1]
        try:
            layer = layer_type(channels, out_channels, *kernel, bias=self.bias, **options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LatencyError(f"no layer has the signature {self} ({error})") from error
        rng = torch.Generator().manual_seed(folded(seed))
        with torch.no_grad():
            for parameter in layer.parameters():
                scale = math.prod(self.weight_shape[1:]) ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=rng))
        return layer.eval().requires_grad_(False)


def signature_of(module: nn.Module, input_shape: Sequence[int]) -> LayerSignature:
    """The signature of a layer, given the shape of its input without the batch.

    Raises:
        LatencyError: it is neither a convolution nor a linear layer.
    """
    if isinstance(module, nn.Linear):
        positions = math.prod(input_shape[:-1])
        applied = (positions,) if positions > 1 else ()
        bias = module.bias is not None
        return LayerSignature("linear", tuple(module.weight.shape), applied, bias=bias)
    known = layer_type_of(module)
    if known is None:
        raise LatencyError(
            f"a {type(module).__name__} has no signature; only {', '.join(LAYER_TYPES)}"
        )
    conv = cast(_ConvNd, module)
    dimensions = len(conv.kernel_size)
    options: list[tuple[str, Value]] = []
    for name, neutral in NEUTRAL.items():
        value = getattr(conv, name)
        value = (value,) if isinstance(value, int) else value
        if value != neutral and set(value) != {neutral}:
            options.append((name, value))
    size = tuple(input_shape[-dimensions:])
    bias = conv.bias is not None
    return LayerSignature(known.kind, tuple(conv.weight.shape), size, tuple(options), bias)


def join_signatures(signatures: Sequence[str]) -> str:
    """The signatures of all calls of one layer as one text; `split_signatures` undoes it."""
    return AND.join(signatures)


def split_signatures(text: str) -> tuple[str, ...]:
    """The signatures that `join_signatures` joined."""
    return tuple(part.strip() for part in text.split(AND))


def _join(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _value(text: str) -> Value:
    parts = text.split("x")
    if all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        return tuple(map(int, parts))
    if text not in ("same", "valid", "reflect", "replicate", "circular"):
        raise ValueError(f"{text!r} is not a size")
    return text
