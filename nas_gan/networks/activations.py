"""Activation functions as modules, so that each site has its own learnable parameters.

Three families: the fixed ones; those of MMD-PMish-NAS with scalars that start at 1 (IEEE Access
2024); and the bi-hyperbolic ones of the adaptive-activation GANs, which have a value per unit and a
random initialisation. A net has two slots for them: the hidden one (`make_activation`) and the
output, whose range is an interval (`make_output_activation`).

Every formula is written so that no finite input overflows, even in half precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.networks.pmish import pmish

Interval = tuple[float, float]
SYMMETRIC: Interval = (-1.0, 1.0)  # images
UNIT: Interval = (0.0, 1.0)  # probabilities
# `"default"`, `"xavier_normal"`, or `{"name": "normal", "mean": m, "std": s}`; a parameter can have
# its own values: `{"name": "normal", "t": {"mean": m, "std": s}}`.
Init = str | Mapping[str, Any]
INITS = ("default", "normal", "xavier_normal")

# softplus(beta x) / beta has a pole at beta = 0, where the function tends to the identity; the
# nearest point that float32 resolves well is as good.
BETA_MIN = 1e-3
# Keeps the slope of a root finite at the origin; far below the resolution of float32 near 1.
ROOT_FLOOR = 1e-12


def away_from_zero(beta: Tensor, minimum: float = BETA_MIN) -> Tensor:
    """Move `beta` to at least `minimum` in magnitude, keeping its sign and its gradient.

    The gradient passes straight through, since a clamped scalar without one could never move again.
    It is small there, because PMish hardly differs from the identity, and comes from large inputs.
    """
    sign = torch.where(beta < 0, -1.0, 1.0).to(beta.dtype)
    clamped = torch.where(beta.abs() < minimum, sign * minimum, beta)
    return beta + (clamped - beta).detach()


def hypotenuse(a: Tensor, b: Tensor) -> Tensor:
    """`sqrt(a^2 + b^2)`, elementwise, without overflow and with a finite slope at the origin."""
    # Homogeneous of degree one: the scale cancels, also in the gradient, and needs none.
    scale = torch.maximum(a.abs(), b.abs()).detach().clamp(min=1e-4)
    return scale * torch.sqrt((a / scale).square() + (b / scale).square() + ROOT_FLOOR)


def bhaa(x: Tensor, t1: Tensor, t2: Tensor, slope: Tensor, interval: Interval) -> Tensor:
    """The bi-hyperbolic asymmetric function, elementwise; `t1 = t2` is the symmetric BHSA.

    For (-1, 1): `0.5 * (sqrt((1 + 2 l x)^2 + 4 t1^2) - sqrt((1 - 2 l x)^2 + 4 t2^2))`; for (0, 1)
    `0.25 * (sqrt((1 + 4 l x)^2 + 16 t1^2) - sqrt((1 - 4 l x)^2 + 16 t2^2)) + 0.5`. It leaves the
    interval if t1 and t2 differ.
    """
    low, high = interval
    width = high - low
    k = 4 / width
    u = k * slope * x
    roots = hypotenuse(1 + u, k * t1) + hypotenuse(1 - u, k * t2)  # at least 2
    # The difference of roots as that of their squares over their sum, without cancellation for
    # large x.
    return (low + high) / 2 + width * (u / roots) + 4 / width * (t1**2 - t2**2) / roots


def bhaa_range(t1: Tensor, t2: Tensor, interval: Interval) -> tuple[Tensor, Tensor]:
    """Infimum and supremum of `bhaa` over all x, with the shape of `t1`.

    The function is the difference of the distances of a point on a line from two others, so it is
    bounded by the triangle inequality; the reference divides by `t1 - t2` instead.
    """
    low, high = interval
    middle, half = (low + high) / 2, (high - low) / 2
    beyond = hypotenuse(torch.full_like(t1, half), t1.abs() - t2.abs())
    bottom = torch.where(t1.abs() < t2.abs(), middle - beyond, torch.full_like(t1, low))
    top = torch.where(t1.abs() > t2.abs(), middle + beyond, torch.full_like(t1, high))
    return bottom, top


def bhana(x: Tensor, t1: Tensor, t2: Tensor, slope: Tensor, interval: Interval) -> Tensor:
    """`bhaa` rescaled from its own range to the interval, elementwise; continuous in t1 and t2."""
    low, high = interval
    bottom, top = bhaa_range(t1, t2, interval)
    return low + (high - low) * (bhaa(x, t1, t2, slope, interval) - bottom) / (top - bottom)


def shrelu(x: Tensor, t: Tensor) -> Tensor:
    """`0.5 * (x + sqrt(x^2 + t^2))`, elementwise: a hyperbola that hugs ReLU."""
    positive = x.clamp(min=0)
    # |x| by the same branch as the positive part, so that the slope at 0 is correct, 1/2.
    magnitude = 2 * positive - x
    # The root minus |x| without cancellation; the floor is for t = 0.
    return positive + 0.5 * t * (t / (hypotenuse(x, t) + magnitude + 1e-7))


def mida(x: Tensor, t: Tensor, slope: Tensor) -> Tensor:
    """`x * BHSA(softplus(x))` with the range (-1, 1), elementwise."""
    return x * bhaa(F.softplus(x), t, t, slope, SYMMETRIC)


def dsilu(x: Tensor, b: Tensor, interval: Interval) -> Tensor:
    """The derivative of SiLU, shifted and scaled towards (0, 1) or (-1, 1), elementwise."""
    low, high = interval
    unit = (_silu_slope(b * x) + 0.1) / 1.28
    return low + (high - low) * unit


def _silu_slope(a: Tensor) -> Tensor:
    """`d/da (a sigmoid(a))`."""
    return torch.sigmoid(a) * (1 + a * torch.sigmoid(-a))


def bhata(x: Tensor, t1: Tensor, t2: Tensor, slope: Tensor, interval: Interval) -> Tensor:
    """`bhaa` clipped to the interval, elementwise."""
    return bhaa(x, t1, t2, slope, interval).clamp(*interval)


Starts = Mapping[str, tuple[float, float]]  # parameter -> (mean, standard deviation) at the start


class LearnedActivation(nn.Module):
    """`function(x, **parameters)` with a learned parameter for every name in `starts`.

    `shape` is that of one input without the batch, `(n,)` or `(c, h, w)`, for a value per unit, or
    any shape that broadcasts to it; `(1,)` is a scalar for the site. An initialisation with
    deviation 0 is a constant.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        starts: Starts,
        shape: Sequence[int] = (1,),
        init: Init = "default",
    ) -> None:
        super().__init__()
        self.function, self.starts = function, starts
        self.frozen = False
        self.init = _checked_init(init, starts)
        for name in starts:
            self.register_parameter(name, nn.Parameter(torch.empty(*shape)))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        parameters: dict[str, Tensor] = {name: getattr(self, name) for name in self.starts}
        if self.frozen:
            # Not requires_grad, which a training step turns off and on for a whole network.
            parameters = {name: value.detach() for name, value in parameters.items()}
        return self.function(x, **parameters)

    @torch.no_grad()
    def reset_parameters(self, rng: torch.Generator | None = None) -> None:
        """Initialise the parameters again, from `rng` if it is not None."""
        for name, (mean, std) in self.starts.items():
            parameter: nn.Parameter = getattr(self, name)
            if self.init["name"] == "xavier_normal":
                # A vector counts as one row: fan-in and fan-out are n and 1.
                rows = parameter.view(1, -1) if parameter.ndim == 1 else parameter
                nn.init.xavier_normal_(rows, generator=rng)
                continue
            if self.init["name"] == "normal":
                asked = {**self.init, **self.init.get(name, {})}
                mean, std = asked.get("mean", mean), asked.get("std", std)
            if std == 0:
                parameter.fill_(mean)  # a constant uses no random number
            else:
                parameter.normal_(mean, std, generator=rng)

    def extra_repr(self) -> str:
        function = self.function.func if isinstance(self.function, partial) else self.function
        shapes = [f"{name} {tuple(getattr(self, name).shape)}" for name in self.starts]
        return ", ".join([function.__name__.lstrip("_"), *shapes])


def _checked_init(init: Init, starts: Starts) -> dict[str, Any]:
    described = {"name": init} if isinstance(init, str) else dict(init)
    name = described.get("name")
    if name not in INITS:
        raise unknown_name("activation initialiser", name, INITS)
    known = {"name", "mean", "std", *starts} if name == "normal" else {"name"}
    if unknown := sorted(set(described) - known):
        raise InvalidValueError(
            f"activation initialiser {name!r} has no {unknown[0]!r}; "
            f"it takes {', '.join(sorted(known))}"
        )
    for values in (described, *(described[p] for p in starts if p in described)):
        numbers = values if isinstance(values, Mapping) else {"mean": values, "std": None}
        for key in ("mean", "std"):
            value: Any = numbers.get(key, 0)
            if type(value) not in (int, float) or (key == "std" and value < 0):
                raise InvalidValueError(
                    f"activation initialiser: mean and std must be numbers, std at least 0; "
                    f"got {values!r}"
                )
    return described


ONE_BETA: Starts = {"beta": (1.0, 0.0)}
ONE_ALPHA_BETA: Starts = {"alpha": (1.0, 0.0), "beta": (1.0, 0.0)}


def _pmish(x: Tensor, beta: Tensor) -> Tensor:
    return pmish(x, away_from_zero(beta))


def _swish(x: Tensor, beta: Tensor) -> Tensor:
    return x * torch.sigmoid(beta * x)


def _mish_a(x: Tensor, beta: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(beta * x))


def _mish_b(x: Tensor, beta: Tensor) -> Tensor:
    beta = away_from_zero(beta)
    return x * torch.tanh(F.softplus(beta * x)) / beta


def _pmish_ab(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * x * torch.tanh(F.softplus(beta * x))


def _prmmish(x: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    return alpha * x * torch.tanh(gamma * F.softplus(beta * x))


def _new(x: Tensor) -> Tensor:
    # E(u) = (1 - exp(-u)) / (1 + exp(-u)) is tanh(u / 2).
    return x * torch.tanh(F.softplus(x) / 2)


def _pnew(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * x * torch.tanh(F.softplus(beta * x) / 2)


def _mida_old(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a * x * torch.tanh(F.softplus(x + b))


def _bhsa(x: Tensor, t: Tensor, slope: Tensor, interval: Interval) -> Tensor:
    return bhaa(x, t, t, slope, interval)


class PMish(LearnedActivation):
    """Parametric Mish with one learned `beta`, initially 1 (IEEE Access 2024)."""

    beta: nn.Parameter

    def __init__(self, shape: Sequence[int] = (1,), init: Init = "default") -> None:
        super().__init__(_pmish, ONE_BETA, shape, init)


class Swish(LearnedActivation):
    """`x * sigmoid(beta * x)` with one learned `beta`, initially 1."""

    beta: nn.Parameter

    def __init__(self, shape: Sequence[int] = (1,), init: Init = "default") -> None:
        super().__init__(_swish, ONE_BETA, shape, init)


# name -> (function, initialisation of its parameters)
_HIDDEN: dict[str, tuple[Callable[..., Tensor], Starts]] = {
    "mish_a": (_mish_a, ONE_BETA),
    "mish_b": (_mish_b, ONE_BETA),
    "pmish_ab": (_pmish_ab, ONE_ALPHA_BETA),
    "prmmish": (_prmmish, {**ONE_ALPHA_BETA, "gamma": (1.0, 0.0)}),
    "new": (_new, {}),
    "pnew": (_pnew, ONE_ALPHA_BETA),
    "shrelu": (shrelu, {"t": (0.0, 0.2)}),
    "mida": (mida, {"t": (0.25, 0.01), "slope": (0.7, 0.01)}),
    "mida_old": (_mida_old, {"a": (1.0, 0.05), "b": (0.0, 0.001)}),
}
_FIXED: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "none": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": Swish,
    "mish": nn.Mish,
    "pmish": PMish,
    **{name: partial(LearnedActivation, *row) for name, row in _HIDDEN.items()},
}

_HALF = (0.5, 0.05)
_SPREAD = {SYMMETRIC: (0.25, 0.05), UNIT: (0.7, 0.05)}
# name -> function(x, interval=..., **parameters), and its initialisation for each interval
OUTPUT_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], dict[Interval, Starts]]] = {
    "bhsa": (_bhsa, {i: {"t": t, "slope": _HALF} for i, t in _SPREAD.items()}),
    **{
        name: (function, {i: {"t1": t, "t2": t, "slope": _HALF} for i, t in _SPREAD.items()})
        for name, function in (("bhaa", bhaa), ("bhata", bhata), ("bhana", bhana))
    },
    "dsilu": (dsilu, {SYMMETRIC: {"b": (1.0, 0.0)}, UNIT: {"b": (0.58, 0.0)}}),
}


def make_activation(name: str, shape: Sequence[int] = (1,), init: Init = "default") -> nn.Module:
    """A new activation for a hidden site by name; one without parameters ignores the rest.

    Raises:
        InvalidValueError: The name is not in `ACTIVATIONS`, or `init` is not an initialiser.
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    if name in _FIXED:
        return ACTIVATIONS[name]()
    return ACTIVATIONS[name](shape=shape, init=init)


def make_output_activation(
    name: str, interval: Interval, shape: Sequence[int] = (1,), init: Init = "default"
) -> nn.Module:
    """A new activation for the output, whose range is `SYMMETRIC` or `UNIT`.

    Raises:
        InvalidValueError: the name is neither in `OUTPUT_ACTIVATIONS` nor tanh, sigmoid or none,
            the activation does not have the interval, or `init` is not an initialiser.
    """
    plain = {SYMMETRIC: "tanh", UNIT: "sigmoid"}.get(interval)
    if name in ("none", plain):
        return _FIXED[name]()
    if name not in OUTPUT_ACTIVATIONS:
        choices = [n for n in (plain, "none", *OUTPUT_ACTIVATIONS) if n is not None]
        raise unknown_name("output activation", name, choices)
    function, starts = OUTPUT_ACTIVATIONS[name]
    if interval not in starts:
        raise InvalidValueError(
            f"output activation {name} maps to (-1, 1) or (0, 1); asked for {interval}"
        )
    return LearnedActivation(partial(function, interval=interval), starts[interval], shape, init)


def learned_activations(module: nn.Module) -> Iterator[tuple[str, LearnedActivation]]:
    """The activations with parameters in `module`, by dotted name."""
    for name, child in module.named_modules():
        if isinstance(child, LearnedActivation) and child.starts:
            yield name, child


def activation_statistics(module: nn.Module) -> dict[str, float]:
    """Mean, largest and smallest value of every activation parameter, as scalars for a log.

    Keys are like `cell1.c0.ops.0.op.0.beta/mean`.
    """
    scalars = {}
    for site, activation in learned_activations(module):
        for parameter in activation.starts:
            values: Tensor = getattr(activation, parameter).detach().float()
            name = f"{site}.{parameter}" if site else parameter
            scalars[f"{name}/mean"] = values.mean().item()
            scalars[f"{name}/max"] = values.max().item()
            scalars[f"{name}/min"] = values.min().item()
    return scalars


def freeze_activations_(module: nn.Module, *, epoch: int, from_epoch: int | None) -> bool:
    """Freeze the activation parameters of `module` from `from_epoch` on, in place.

    Call it at the start of every epoch; None never freezes. In an epoch before `from_epoch` they
    learn again, so that a resumed run equals an uninterrupted one.

    Returns:
        Whether they are frozen now.
    """
    frozen = from_epoch is not None and epoch >= from_epoch
    for _, activation in learned_activations(module):
        activation.frozen = frozen
        if frozen:
            # An optimiser moves every parameter with a gradient, even one of the last update.
            activation.zero_grad(set_to_none=True)
    return frozen
