"""Activation functions, each its own module so that a learnable one has one scalar per site."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError

# softplus(beta x) / beta has a pole at beta = 0. The function itself tends to the identity there,
# so the nearest point that float32 resolves well loses nothing.
BETA_MIN = 1e-3


def pmish(x: Tensor, beta: Tensor) -> Tensor:
    """`x * tanh(softplus(beta * x) / beta)`, elementwise; `beta = 1` is Mish.

    Written with `logsigmoid`, which is the same number (`softplus(a) = -logsigmoid(-a)`), never
    overflows, and exports to an operator that ONNX Runtime runs several times faster.
    """
    # Signs and the division act on the scalar, which keeps three passes over x out.
    return x * torch.tanh(F.logsigmoid(x * -beta) * (-1 / beta))


def away_from_zero(beta: Tensor, minimum: float = BETA_MIN) -> Tensor:
    """Move `beta` to at least `minimum` in magnitude, keeping its sign and its gradient.

    The gradient passes straight through: a clamped scalar that received none could never leave.
    It is small there, since PMish hardly differs from the identity, and comes from large inputs.
    """
    sign = torch.where(beta < 0, -1.0, 1.0).to(beta.dtype)
    clamped = torch.where(beta.abs() < minimum, sign * minimum, beta)
    return beta + (clamped - beta).detach()


class PMish(nn.Module):
    """Parametric Mish with one learnable scalar `beta`, initially 1 (IEEE Access 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return pmish(x, away_from_zero(self.beta))


class Swish(nn.Module):
    """`x * sigmoid(beta * x)` with one learnable scalar `beta`, initially 1."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": Swish,
    "mish": nn.Mish,
    "pmish": PMish,
}


def make_activation(name: str) -> nn.Module:
    """A fresh activation module by its name.

    Raises:
        InvalidValueError: the name is not in `ACTIVATIONS`.
    """
    try:
        return ACTIVATIONS[name]()
    except KeyError:
        raise InvalidValueError(
            f"activation {name!r} is not known; choose one of {', '.join(ACTIVATIONS)}"
        ) from None
