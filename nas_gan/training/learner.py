"""A network with all that moves its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Learner:
    """One of the two networks of an adversarial training.

    Attributes:
        network: the network itself.
        optimizer: moves the network's parameters.
        scheduler: its learning rate, stepped after each update; None is a constant rate.
        clip: largest norm of the gradient; a longer one is scaled down to it. None never clips.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None = None
    clip: float | None = None

    def descend(self, name: str, *, log_gradient: bool) -> dict[str, float]:
        """Clip the gradients of `backward`, move the weights, and step the schedule.

        Args:
            name: the network's in its scalars, `g` or `d`.
            log_gradient: whether the norm of the gradient before clipping is a scalar too.

        Returns:
            `gradient/NAME` if asked for, and `lr/NAME`, the rate of this update, if it follows a
            schedule.
        """
        scalars: dict[str, float] = {}
        if self.clip is not None or log_gradient:
            limit = math.inf if self.clip is None else self.clip
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
            if log_gradient:
                scalars[f"gradient/{name}"] = norm.item()
        self.optimizer.step()
        if self.scheduler is not None:
            scalars[f"lr/{name}"] = float(self.scheduler.get_last_lr()[0])
            self.scheduler.step()
        return scalars
