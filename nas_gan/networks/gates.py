"""Gates: cheap stand-ins for activations that a runtime makes of many operators.

PMish, Mish and GELU take a runtime four to six operators, and a small network spends as much time
on them as on its convolutions. A gate has the same shape and takes two or three: its slope and its
scale fold into the convolutions around it when a network is exported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_gan.errors import unknown_name


@dataclass(frozen=True)
class Form:
    """A form of the gate.

    Attributes:
        opening: what opens the gate, elementwise.
        shifted: whether its threshold is free.
        folded: what is left of it once its scalars are folded into the layers around it, to time.
    """

    opening: Callable[[Tensor], Tensor]
    shifted: bool
    folded: nn.Module


class ShiftedSwish(nn.Module):
    """`x * sigmoid(x + 1/2)`, elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, of any shape."""
        return x * torch.sigmoid(x + 0.5)


def _hard(x: Tensor) -> Tensor:
    return x.clamp(0, 1)


# From the most accurate stand-in for a smooth activation to the fastest.
FORMS: dict[str, Form] = {
    "gate": Form(torch.sigmoid, shifted=True, folded=ShiftedSwish()),
    "hard_gate": Form(_hard, shifted=True, folded=nn.Hardswish()),
    "swish_gate": Form(torch.sigmoid, shifted=False, folded=nn.SiLU()),
}


class Gate(nn.Module):
    """`scale * x * opening(slope * x + shift)`, elementwise, with a learned scalar for each.

    The opening is the logistic function for `gate` and `swish_gate`, whose shift is 0, and the
    identity clipped to [0, 1] for `hard_gate`.

    Args:
        form: one of `FORMS`.
        device: the device of the scalars.

    Raises:
        InvalidValueError: there is no such form.
    """

    shift: nn.Parameter | None

    def __init__(self, form: str, device: torch.device | str | None = None) -> None:
        super().__init__()
        if form not in FORMS:
            raise unknown_name("form of a gate", form, FORMS)
        self.form = form
        self.slope = nn.Parameter(torch.ones((), device=device))
        self.scale = nn.Parameter(torch.ones((), device=device))
        self.shift = None
        if FORMS[form].shifted:
            self.shift = nn.Parameter(torch.zeros((), device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, of any shape."""
        entering = self.slope * x
        if self.shift is not None:
            entering = entering + self.shift
        # The scale comes last, where it folds into the convolutions that read the gate.
        return x * FORMS[self.form].opening(entering) * self.scale

    def extra_repr(self) -> str:
        return repr(self.form)
