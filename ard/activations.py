"""Activations that a gate can replace: what they are, and how a gate is fitted to one.

A runtime computes PMish, Mish or GELU with four to six operators. A gate has two or three, and its
scalars are fitted to the inputs of the activation, so that it differs little where the network is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor, nn

from ard.errors import RankError
from ard.plan import ActivationForm, Replacement
from nas_gan.networks.gates import FORMS, Gate

KIND = "activation"
# Values of its input that a gate is fitted to.
N_SAMPLES = 4096


@dataclass(frozen=True)
class ActivationSignature:
    """What determines the speed of an activation: its operators, and the shape of one input.

    `module` is an activation with these operators; it does not count when signatures are compared.
    """

    operators: tuple[str, ...]
    input_shape: tuple[int, ...]
    module: nn.Module = field(compare=False, repr=False)

    def __str__(self) -> str:
        size = "x".join(map(str, self.input_shape))
        return f"{KIND} {'.'.join(self.operators)} in={size}"


@dataclass(frozen=True)
class ActivationProfile:
    """One activation that gates can replace; like `ard.layers.LayerProfile`, without a weight.

    Attributes:
        name: the activation's name in the generator.
        own_params: its learned scalars.
        calls: for each call, what determines its speed.
    """

    name: str
    own_params: int
    calls: tuple[ActivationSignature, ...] = field(default=(), compare=False)
    kind: str = field(default=KIND, init=False)
    weight_shape: tuple[int, ...] = field(default=(), init=False)

    @property
    def signatures(self) -> tuple[str, ...]:
        """The signatures of all calls as text."""
        return tuple(str(call) for call in self.calls)

    def choices(self) -> list[ActivationForm]:
        """The gates that can replace it, from the most accurate to the fastest."""
        return [ActivationForm(form) for form in FORMS]

    def check(self, choice: Replacement) -> None:
        """Check that `choice` can replace it.

        Raises:
            RankError: it is a factorization.
        """
        if not isinstance(choice, ActivationForm):
            raise RankError(
                f"{choice} does not fit {self.name}, which is an activation; its forms are "
                f"{', '.join(FORMS)}"
            )

    def params(self, choice: Replacement | None = None) -> int:
        """Its learned scalars under a choice; None is the activation itself."""
        if choice is None:
            return self.own_params
        self.check(choice)
        return sum(p.numel() for p in Gate(choice.method, device="meta").parameters())

    def macs(self, choice: Replacement | None = None) -> int:
        """None: activations are not counted in multiply-adds."""
        if choice is not None:
            self.check(choice)
        return 0


def is_elementwise(module: nn.Module, x: Tensor) -> bool:
    """Whether a module is one scalar function, applied to every value of `x` alike.

    It is applied to the same values in another order, which must come out in that order.
    """
    order = torch.from_numpy(np.random.default_rng(0).permutation(x.numel())).to(x.device)
    with torch.no_grad():
        straight = module(x)
        shuffled = module(x.flatten()[order].reshape(x.shape))
    if not isinstance(straight, Tensor) or straight.shape != x.shape:
        return False
    return torch.allclose(straight.flatten()[order], shuffled.flatten(), rtol=1e-4, atol=1e-6)


def spread_samples(x: Tensor, n: int = N_SAMPLES) -> Tensor:
    """About `n` values of `x` at equal steps, sorted, in float64 on the CPU, `(n,)`."""
    values = x.detach().flatten()
    step = max(1, values.numel() // n)
    return values[::step][:n].double().cpu().sort().values


def fit_gate(module: nn.Module, form: ActivationForm, samples: Tensor) -> Gate:
    """The gate that differs least from an activation, in the mean square over its inputs.

    Args:
        module: the activation; it is not changed.
        form: the form of the gate.
        samples: `(n,)` values that enter the activation.

    Returns:
        A gate in float32 on the CPU. The fit starts from the plain gate and is deterministic.
    """
    x = samples.double().cpu()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    with torch.no_grad():
        target = module(x.to(device, dtype)).double().cpu().numpy()
    gate = Gate(form.method)
    scalars = [parameter.data for parameter in gate.double().parameters()]

    def residuals(values: Sequence[float]) -> np.ndarray:
        for scalar, value in zip(scalars, values, strict=True):
            scalar.fill_(float(value))
        with torch.no_grad():
            return np.asarray(gate(x).numpy() - target)

    found = least_squares(residuals, [scalar.item() for scalar in scalars])
    residuals(found.x)
    return gate.float()


def fitting_error(module: nn.Module, gate: Gate, samples: Tensor) -> float:
    """Relative error of a gate, `||f - g|| / ||f||`, over values that enter the activation."""
    parameter = next(module.parameters(), None)
    x = samples.float() if parameter is None else samples.to(parameter)
    with torch.no_grad():
        target, found = module(x).cpu(), gate(x.cpu())
    return ((found - target).norm() / target.norm().clamp(min=1e-12)).item()
