"""One update of a student towards its teacher's images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas_gan.training.draws import Sampler


def image_distance(images: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of two batches of images, a scalar."""
    return (images - target).abs().mean()


class DistillationStep:
    """One update of a student towards its teacher's images on the same latents; needs no data.

    `distance(images, target)`, a scalar, is what the update lowers. `target(index, latents)` is the
    teacher's images of an update; by default the teacher makes them.

    The student stays in evaluation mode: its batch statistics were measured on its images, and
    running averages would move them during the updates.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        latents: Sampler,
        distance: Callable[[Tensor, Tensor], Tensor] = image_distance,
        device: torch.device | str = "cpu",
        target: Callable[[int, Tensor], Tensor] | None = None,
    ) -> None:
        self.student, self.teacher = student.eval(), teacher.eval()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.latents, self.distance, self.device = latents, distance, device
        self.target = target or (lambda index, z: self.teacher(z))

    def __call__(self, index: int) -> dict[str, float]:
        z = self.latents(index).to(self.device)
        with torch.no_grad():
            target = self.target(index, z)  # (n, 3, h, w)
        loss = self.distance(self.student(z), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return {"loss/distillation": loss.item()}
