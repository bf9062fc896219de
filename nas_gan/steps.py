"""What one update does: batch to losses to new weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas_gan.averaging import ExponentialMovingAverage
from nas_gan.losses import RepulsiveMMD
from nas_gan.upper_bound import UpperBoundSchedule

Sampler = Callable[[int], Tensor]


class StepLatents:
    """`(batch_size, latent_dim)` normal latents that depend on nothing but the seed and the index.

    A resumed run therefore draws what an uninterrupted one would have drawn.
    """

    def __init__(self, seed: int, batch_size: int, latent_dim: int) -> None:
        self.seed, self.shape = seed, (batch_size, latent_dim)

    def __call__(self, index: int) -> Tensor:
        # Not a torch.Generator: on the CPU it looks at the low 32 bits of its seed only.
        rng = np.random.default_rng([self.seed, index])
        return torch.from_numpy(rng.standard_normal(self.shape, np.float32))


class AdversarialStep:
    """One discriminator update and, every `n_critic` updates, one generator update.

    Real and fake images pass the discriminator together (it has no batch statistics), and the
    generator's update scores the same fakes again: its weights have not changed in between.
    `real(index)` is `(m, 3, h, w)` in [-1, 1], `latents(index)` is `(n, latent_dim)`, `n >= m`.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: RepulsiveMMD,
        *,
        g_optimizer: torch.optim.Optimizer,
        d_optimizer: torch.optim.Optimizer,
        average: ExponentialMovingAverage,
        upper_bound: UpperBoundSchedule,
        real: Sampler,
        latents: Sampler,
        updates_per_epoch: int,
        n_steps: int,
        n_critic: int = 1,
        device: torch.device | str = "cpu",
        bf16: bool = False,
    ) -> None:
        self.generator, self.discriminator, self.loss = generator, discriminator, loss
        self.g_optimizer, self.d_optimizer = g_optimizer, d_optimizer
        self.average, self.upper_bound = average, upper_bound
        self.real, self.latents = real, latents
        self.updates_per_epoch, self.n_steps, self.n_critic = updates_per_epoch, n_steps, n_critic
        self.device = torch.device(device)
        self.bf16 = bf16

    def __call__(self, index: int) -> dict[str, float]:
        self.generator.train()
        self.discriminator.train()
        self.upper_bound.progressed(index / self.n_steps)
        real = self._to_device(self.real(index))
        update_generator = (index + 1) % self.n_critic == 0
        with self._autocast(), torch.set_grad_enabled(update_generator):
            fake = self.generator(self._to_device(self.latents(index)))
        d_loss = self._update_discriminator(real, fake.detach(), index)
        scalars = {"loss/d": d_loss, "upper_bound": self.upper_bound.value}
        if update_generator:
            scalars["loss/g"] = self._update_generator(real, fake)
            self.average.update(self.generator)
        return scalars

    def _update_discriminator(self, real: Tensor, fake: Tensor, index: int) -> float:
        scores = self._score(torch.cat([real, fake]))  # (m + n, d)
        loss = self.loss.discriminator(
            scores[: len(real)],
            scores[len(real) :],
            upper=self.upper_bound.value,
            epoch=index // self.updates_per_epoch,
        )
        self.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.d_optimizer.step()
        return loss.item()

    def _update_generator(self, real: Tensor, fake: Tensor) -> float:
        # The loss needs the real scores as values only.
        with torch.no_grad():
            real_scores = self._score(real)
        self.discriminator.requires_grad_(False)
        loss = self.loss.generator(real_scores, self._score(fake))
        self.g_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)
        return loss.item()

    def _score(self, images: Tensor) -> Tensor:
        with self._autocast():
            scores = self.discriminator(images)
        return scores.float()  # kernels of distances lose too much in bfloat16

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _to_device(self, batch: Tensor) -> Tensor:
        layout = torch.channels_last if batch.ndim == 4 else torch.preserve_format
        return batch.to(self.device, memory_format=layout, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact continuation needs, besides the index."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.average.state_dict(),
            "g_optimizer": self.g_optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "upper_bound": self.upper_bound.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.average.load_state_dict(state["average"])
        self.g_optimizer.load_state_dict(state["g_optimizer"])
        self.d_optimizer.load_state_dict(state["d_optimizer"])
        self.upper_bound.load_state_dict(state["upper_bound"])
        torch.set_rng_state(state["torch_rng"].cpu())


class DistillationStep:
    """One update of a student towards its teacher's images on the same latents; needs no data.

    The student stays in evaluation mode: its batch statistics were measured for the images that
    it makes, and a running average would move them under the loss.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        latents: Sampler,
        device: torch.device | str = "cpu",
    ) -> None:
        self.student, self.teacher = student.eval(), teacher.eval()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.latents, self.device = latents, device

    def __call__(self, index: int) -> dict[str, float]:
        z = self.latents(index).to(self.device)
        with torch.no_grad():
            target = self.teacher(z)  # (n, 3, h, w)
        loss = (self.student(z) - target).abs().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return {"loss/distillation": loss.item()}
