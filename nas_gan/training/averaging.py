"""Exponential moving average of a network: its parameters and its buffers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from nas_gan.errors import InvalidValueError


class ExponentialMovingAverage:
    """A copy of `model` that follows it: `average = decay * average + (1 - decay) * model`.

    Floating-point buffers are averaged too, so that batch normalisation scores images with
    statistics that match the averaged weights; integer buffers are copied.

    With `warm_up` the decay after n updates is at most `(1 + n) / (10 + n)`, so that the average
    soon forgets the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, *, warm_up: bool = False) -> None:
        if not 0 <= decay < 1:
            raise InvalidValueError(f"must be in [0, 1); got {decay}", setting="ema_decay")
        self.decay, self.warm_up = decay, warm_up
        self.updates = 0
        self.average = copy.deepcopy(model).eval().requires_grad_(False)

    @property
    def present_decay(self) -> float:
        """The decay of the next update."""
        if not self.warm_up:
            return self.decay
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step towards `model`."""
        live = model.state_dict()
        weight = 1 - self.present_decay
        for name, averaged in self.average.state_dict().items():
            if averaged.is_floating_point():
                averaged.lerp_(live[name], weight)
            else:
                averaged.copy_(live[name])
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The averaged network and the number of updates."""
        return {"average": self.average.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.average.load_state_dict(state["average"])
        self.updates = state["updates"]
