"""Exponential moving average of a network: its parameters and its buffers."""

from __future__ import annotations

import copy

import torch
from torch import nn

from nas_gan.errors import InvalidValueError


class ExponentialMovingAverage:
    """A copy of `model` that follows it: `average = decay * average + (1 - decay) * model`.

    Floating-point buffers are averaged too, so that batch normalisation scores images with
    statistics that match the averaged weights; integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise InvalidValueError(f"EMA decay must be in [0, 1); got {decay}")
        self.decay = decay
        self.average = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step towards `model`."""
        live = model.state_dict()
        for name, averaged in self.average.state_dict().items():
            if averaged.is_floating_point():
                averaged.lerp_(live[name], 1 - self.decay)
            else:
                averaged.copy_(live[name])
