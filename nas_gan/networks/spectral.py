"""Spectral norm by power iteration, on a convolution as an operator or on its flattened kernel.

The norm of the flattened kernel (Miyato et al. 2018) only bounds that of the convolution; how far
off it is depends on stride, padding and image size. The iteration on the operator itself (Wang,
Sun, Halgamuge; ICLR 2019) converges to the norm of the layer for images of one size. The weight of
a layer becomes `weight * constant / sigma`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from nas_gan.errors import InvalidValueError
from nas_gan.networks.hooks import OnInput, observing
from nas_gan.networks.layer_types import Conv, Layer, Transposed

Method = Literal["operator", "kernel"]
LinearMap = Callable[[Tensor, Tensor], Tensor]
EPSILON = 1e-10
# Rounds before the first use; without them, the estimate from a random start is far too small.
WARM_UP = 15

_FUNCTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


class SpectralScale(nn.Module):
    """Parametrization `weight -> weight * constant / sigma`.

    `sigma` is the largest singular value of `x -> apply(weight, x)`. Its right singular vector is a
    buffer in the state dict; each forward pass in training mode moves it by `n_iterations` rounds.
    Everything is float32, even under autocast.
    """

    vector: Tensor

    def __init__(
        self, apply: LinearMap, vector: Tensor, *, constant: float, n_iterations: int
    ) -> None:
        super().__init__()
        self.apply_weight, self.constant, self.n_iterations = apply, constant, n_iterations
        self.register_buffer("vector", _normalised(vector))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            if self.training:
                self.iterate(weight, self.n_iterations)
            # The gradient passes through the weight alone, as if the vector were exact.
            sigma = self.apply_weight(weight, self.vector.clone()).norm()
            return weight * (self.constant / sigma.clamp(min=EPSILON))

    @torch.no_grad()
    def iterate(self, weight: Tensor, rounds: int) -> None:
        """Move the vector `rounds` rounds towards the singular vector of `weight`, in place."""
        vector = self.vector.clone()
        apply = partial(self.apply_weight, weight)
        for _ in range(rounds):
            out, adjoint, *_ = torch.func.vjp(apply, vector)
            vector = _normalised(adjoint(_normalised(out))[0])
        self.vector.copy_(vector)

    def sigma(self, weight: Tensor) -> Tensor:
        """The present estimate of the largest singular value, a scalar."""
        return self.apply_weight(weight, self.vector).norm()


def spectral_norm_(
    layer: nn.Module,
    *,
    method: Method = "operator",
    input_size: Sequence[int] | None = None,
    constant: float = 1.0,
    n_iterations: int = 1,
    rng: torch.Generator | None = None,
) -> nn.Module:
    """Apply spectral norm to a convolution, transposed convolution or Linear, in place.

    `input_size` is the spatial size of the layer's input, 1 to 3 numbers; the operator method needs
    it for a convolution. Create optimisers afterwards, because the parameter is replaced.

    Raises:
        InvalidValueError: The layer cannot have such a norm or already has one, or `input_size` is
            missing.
    """
    if not isinstance(layer, Layer):
        raise InvalidValueError(
            f"spectral norm is for convolutions and Linear; got {type(layer).__name__}"
        )
    if parametrize.is_parametrized(layer, "weight"):
        raise InvalidValueError(f"{layer}: its weight already has a parametrization")
    if method not in ("operator", "kernel"):
        raise InvalidValueError(f"method must be operator or kernel; got {method!r}")
    if not (constant > 0 and n_iterations >= 1):
        raise InvalidValueError(
            f"constant must be above 0 and n_iterations at least 1; "
            f"got {constant} and {n_iterations}"
        )
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    if method == "kernel" or isinstance(layer, nn.Linear):
        dim = 1 if isinstance(layer, Transposed) else 0
        apply: LinearMap = _Flattened(dim)
        shape: tuple[int, ...] = (weight.numel() // weight.shape[dim],)
    else:
        apply, shape = _operator(layer, input_size)
    start = torch.randn(shape, generator=rng).to(weight)
    scale = SpectralScale(apply, start, constant=constant, n_iterations=n_iterations)
    scale.iterate(weight.detach(), WARM_UP)
    parametrize.register_parametrization(layer, "weight", scale)
    return layer


def normalise_network_(
    network: nn.Module,
    *example: Tensor,
    method: Method = "operator",
    constant: float | None = None,
    gain: float = 1.0,
    n_iterations: int = 1,
    rng: torch.Generator | None = None,
) -> nn.Module:
    """Apply spectral norm to every convolution and Linear of a network, in place.

    `example` is an input of the network, which shows the input size of each layer. Without
    `constant`, each of the L layers gets `gain^(1/L)`, so that `gain` bounds the whole chain.
    """
    sizes = _input_sizes(network, example)
    if not sizes:
        raise InvalidValueError("the network has no convolution or Linear to normalise")
    if constant is None:
        constant = gain ** (1 / len(sizes))
    for layer, size in sizes.items():
        spectral_norm_(
            layer,
            method=method,
            input_size=size,
            constant=constant,
            n_iterations=n_iterations,
            rng=rng,
        )
    return network


def _input_sizes(network: nn.Module, example: Sequence[Tensor]) -> dict[nn.Module, tuple[int, ...]]:
    """Spatial size of the input of every layer that is used."""
    sizes: dict[nn.Module, tuple[int, ...]] = {}

    def note(layer: nn.Module) -> OnInput:
        return lambda x: sizes.update({layer: tuple(x.shape[2:])})

    layers = [(layer, note(layer)) for layer in network.modules() if isinstance(layer, Layer)]
    with observing(network, entering=layers):
        network(*example)
    return sizes


class _Flattened:
    """A kernel as a matrix whose rows are the dimension `dim`."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, weight: Tensor, x: Tensor) -> Tensor:
        return weight.transpose(0, self.dim).flatten(1) @ x


class _Operator:
    """A convolution without its bias, as a function of weight and input `(1, c, h, w)`."""

    def __init__(
        self, function: Callable[..., Tensor], settings: dict[str, Any], padding: Sequence[int] = ()
    ) -> None:
        self.function, self.settings, self.padding = function, settings, tuple(padding)
        self.mode = "constant"

    def __call__(self, weight: Tensor, x: Tensor) -> Tensor:
        if self.padding:
            x = F.pad(x, self.padding, mode=self.mode)
        return self.function(x, weight, **self.settings)


def _operator(
    layer: nn.Module, input_size: Sequence[int] | None
) -> tuple[_Operator, tuple[int, ...]]:
    """The linear map of a convolution, and the shape of its input."""
    assert isinstance(layer, Conv | Transposed)
    n_axes = layer.weight.ndim - 2
    if input_size is None or len(input_size) != n_axes or min(input_size) < 1:
        raise InvalidValueError(
            f"{layer}: the operator norm needs an input_size of {n_axes} numbers; got {input_size}"
        )
    settings: dict[str, Any] = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    function = next(f for kind, f in _FUNCTIONS.items() if isinstance(layer, kind))
    if isinstance(layer, Transposed):
        operator = _Operator(function, settings | {"output_padding": layer.output_padding})
    elif layer.padding_mode == "zeros":
        operator = _Operator(function, settings)
    else:
        operator = _Operator(
            function, settings | {"padding": 0}, layer._reversed_padding_repeated_twice
        )
        operator.mode = layer.padding_mode
    return operator, (1, layer.in_channels, *input_size)


def _normalised(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp(min=EPSILON)
