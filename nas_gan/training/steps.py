"""What one update does: batch to losses to new weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LRScheduler

from nas_gan.errors import InvalidValueError
from nas_gan.losses import AdversarialLoss
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.draws import Batch, Labelled, Sampler
from nas_gan.training.skipping import DynamicSkipping
from nas_gan.training.upper_bound import UpperBoundSchedule


class AdversarialStep:
    """One discriminator update and, every `n_critic` updates, one generator update.

    Real and fake images pass the discriminator together (unless it has batch statistics, which
    would mix), and the generator's update scores the same fakes again: its weights have not
    changed in between.

    `real(index)` is `(m, 3, h, w)` in [-1, 1], or a pair of that and one-hot labels
    `(m, n_classes)`. `latents(index)` is `(n, latent_dim)`, `n >= m`; with labels its last
    n_classes columns are those of the fakes, and the discriminator is called with images and
    labels.

    Everything else is optional and does nothing by default:

    Args:
        g_scheduler: learning rate of the generator, stepped after each of its updates.
        d_scheduler: the same of the discriminator.
        g_clip: largest norm of the generator's gradient; a longer one is scaled down to it.
        d_clip: the same of the discriminator.
        d_every: the discriminator is updated in every so many updates only.
        d_skipping: which of its updates are left out at random; how many were is among the scalars.
        g_latents: latents of the generator's update, where its batch is larger; without them that
            update sees the same fakes again.
        dtype: type of the networks' weights; batches and losses are of it too.
        bf16: networks compute in bfloat16, losses in `dtype`.
        compile_backend: what torch.compile turns the networks over to, such as `inductor`.
        log_gradients: the norms of both gradients are among the scalars.
        log_health: what the loss has to say about its scores is among the scalars.
        gather: scores of this process to those of all
            (`nas_gan.training.distributed.gather_scores`).
        synchronise: a network to one whose gradients are averaged over processes.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        *,
        g_optimizer: torch.optim.Optimizer,
        d_optimizer: torch.optim.Optimizer,
        average: ExponentialMovingAverage,
        upper_bound: UpperBoundSchedule,
        real: Callable[[int], Batch],
        latents: Sampler,
        updates_per_epoch: int,
        n_steps: int,
        n_critic: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        bf16: bool = False,
        g_scheduler: LRScheduler | None = None,
        d_scheduler: LRScheduler | None = None,
        g_clip: float | None = None,
        d_clip: float | None = None,
        d_every: int = 1,
        d_skipping: DynamicSkipping | None = None,
        g_latents: Sampler | None = None,
        compile_backend: str | None = None,
        log_gradients: bool = False,
        log_health: bool = False,
        gather: Callable[[Tensor], Tensor] = lambda scores: scores,
        synchronise: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        for name, limit in (("g_clip", g_clip), ("d_clip", d_clip)):
            if limit is not None and not limit > 0:
                raise InvalidValueError(f"{name} must be above 0; got {limit}")
        if d_every < 1 or n_critic < 1 or (d_every > 1 and n_critic > 1):
            raise InvalidValueError(
                "n_critic and d_every must be at least 1, and one of them 1; "
                f"got {n_critic} and {d_every}"
            )
        if d_skipping is not None and (d_every > 1 or n_critic > 1):
            # Both are answers to a discriminator that is ahead, or behind.
            raise InvalidValueError(
                f"d_skip_from goes with n_critic 1 and d_every 1; got {n_critic} and {d_every}"
            )
        self.generator, self.discriminator, self.loss = generator, discriminator, loss
        self.g_optimizer, self.d_optimizer = g_optimizer, d_optimizer
        self.g_scheduler, self.d_scheduler = g_scheduler, d_scheduler
        self.g_clip, self.d_clip = g_clip, d_clip
        self.average, self.upper_bound = average, upper_bound
        self.real, self.latents, self.g_latents = real, latents, g_latents
        self.d_skipping = d_skipping
        self.updates_per_epoch, self.n_steps = updates_per_epoch, n_steps
        self.n_critic, self.d_every = n_critic, d_every
        self.device, self.dtype = torch.device(device), dtype
        self.bf16 = bf16
        self.log_gradients, self.log_health = log_gradients, log_health
        self.gather = gather
        # The networks themselves stay as they are: states, averages and names know no wrapper.
        self._generate = synchronise(_compiled(generator, compile_backend))
        self._judge = _compiled(discriminator, compile_backend)
        self._judge_synchronised = synchronise(self._judge)
        self._together = not any(isinstance(m, _BatchNorm) for m in discriminator.modules())

    def __call__(self, index: int) -> dict[str, float]:
        self.generator.train()
        self.discriminator.train()
        self.upper_bound.progressed(index / self.n_steps)
        real, real_labels = self._real(index)
        update_generator = (index + 1) % self.n_critic == 0
        again = update_generator and self.g_latents is None
        fake = self._fake(self.latents(index), real_labels, with_graph=again)
        scalars: dict[str, float] = {}
        if self._discriminator_is_due(index):
            scalars |= self._update_discriminator(
                (real, real_labels), (fake[0].detach(), fake[1]), index
            )
        if self.d_skipping is not None:
            scalars["d_skipped"] = float(self.d_skipping.skipped)
        scalars["upper_bound"] = self.upper_bound.value
        if update_generator:
            if self.g_latents is not None:
                fake = self._fake(self.g_latents(index), real_labels, with_graph=True)
            scalars |= self._update_generator((real, real_labels), fake, index)
            self.average.update(self.generator)
        return scalars

    def _discriminator_is_due(self, index: int) -> bool:
        if self.d_skipping is not None and self.d_skipping.skips(index):
            return False
        return (index + 1) % self.d_every == 0

    def _fake(self, latents: Tensor, real_labels: Tensor | None, *, with_graph: bool) -> Labelled:
        """Images of latents, with the labels at their end where there are any."""
        latents = self._to_device(latents)
        labels = None if real_labels is None else latents[:, -real_labels.shape[1] :]
        with self._autocast(), torch.set_grad_enabled(with_graph):
            return self._generate(latents), labels

    def _update_discriminator(self, real: Labelled, fake: Labelled, index: int) -> dict[str, float]:
        real, fake = self._noisy(real, index), self._noisy(fake, index)
        real_scores, fake_scores = (self.gather(s) for s in self._score_both(real, fake))
        loss = self.loss.discriminator(
            real_scores,
            fake_scores,
            upper=self.upper_bound.value,
            epoch=index // self.updates_per_epoch,
        )
        loss = self._with_gradient_parts(loss, real, fake, real_scores, fake_scores)
        self.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        scalars = self._finish("d", self.discriminator, self.d_optimizer, self.d_scheduler)
        if self.loss.parts.clipping is not None:
            self.loss.parts.clipping.clip_(self.discriminator.parameters())
        if self.log_health:
            scalars |= self.loss.health(real_scores.detach(), fake_scores.detach())
        return {"loss/d": loss.item(), **scalars}

    def _update_generator(self, real: Labelled, fake: Labelled, index: int) -> dict[str, float]:
        real, fake = self._noisy(real, index), self._noisy(fake, index)
        # The loss needs the real scores as values only.
        with torch.no_grad():
            real_scores = self.gather(self._score(self._judge, *real))
        with _frozen(self.discriminator):
            fake_scores = self.gather(self._score(self._judge, *fake))
            loss = self.loss.generator(real_scores, fake_scores)
            self.g_optimizer.zero_grad(set_to_none=True)
            loss.backward()
        if self.d_skipping is not None:
            # To the last bit the same in every process: they must all leave out the same updates.
            self.d_skipping.observe(self.gather(loss.detach()[None]).mean().item())
        scalars = self._finish("g", self.generator, self.g_optimizer, self.g_scheduler)
        return {"loss/g": loss.item(), **scalars}

    def _finish(
        self,
        name: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | None,
    ) -> dict[str, float]:
        """Clip, step and schedule; the norm of the gradient before clipping, if it is asked for."""
        limit = self.g_clip if name == "g" else self.d_clip
        scalars: dict[str, float] = {}
        if limit is not None or self.log_gradients:
            norm = nn.utils.clip_grad_norm_(network.parameters(), limit or math.inf)
            if self.log_gradients:
                scalars[f"gradient/{name}"] = norm.item()
        optimizer.step()
        if scheduler is not None:
            scalars[f"lr/{name}"] = float(scheduler.get_last_lr()[0])
            scheduler.step()
        return scalars

    def _with_gradient_parts(
        self,
        loss: Tensor,
        real: Labelled,
        fake: Labelled,
        real_scores: Tensor,
        fake_scores: Tensor,
    ) -> Tensor:
        """The loss with its gradient scaling and penalty, which are means over all processes."""
        parts = self.loss.parts

        def score(images: Tensor) -> Tensor:
            # The bare network: compiled ones and reducers cannot be differentiated twice.
            return self._score(self.discriminator, images, real[1])

        if parts.scaling is not None:
            squared = parts.scaling.squared_jacobian(score, real[0], fake[0])
            loss = parts.scaling.scaled(loss, self.gather(squared[None]).mean())
        if parts.penalty is not None:
            penalty = parts.penalty(score, real[0], fake[0], real_scores, fake_scores)
            loss = loss + self.gather(penalty[None]).mean()
        return loss

    def _real(self, index: int) -> Labelled:
        batch = self.real(index)
        if isinstance(batch, Tensor):
            return self._to_device(batch), None
        images, labels = batch
        if labels.ndim != 2:
            raise InvalidValueError(
                f"labels must be one-hot (m, n_classes); got shape {tuple(labels.shape)}"
            )
        return self._to_device(images), self._to_device(labels)

    def _noisy(self, batch: Labelled, index: int) -> Labelled:
        noise = self.loss.parts.noise
        return batch if noise is None else (noise.add(batch[0], index), batch[1])

    def _score_both(self, real: Labelled, fake: Labelled) -> tuple[Tensor, Tensor]:
        judge = self._judge_synchronised
        if not self._together:
            return self._score(judge, *real), self._score(judge, *fake)
        images = torch.cat([real[0], fake[0]])
        labels = None
        if real[1] is not None and fake[1] is not None:
            labels = torch.cat([real[1], fake[1]])
        scores = self._score(judge, images, labels)  # (m + n, d)
        return scores[: len(real[0])], scores[len(real[0]) :]

    def _score(self, judge: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        with self._autocast():
            scores = judge(images) if labels is None else judge(images, labels)
        return scores.to(self.dtype)  # kernels of distances lose too much in bfloat16

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _to_device(self, batch: Tensor) -> Tensor:
        layout = torch.channels_last if batch.ndim == 4 else torch.preserve_format
        return batch.to(self.device, self.dtype, memory_format=layout, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact continuation needs, besides the index."""
        state = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.average.state_dict(),
            "average_updates": self.average.updates,
            "g_optimizer": self.g_optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "upper_bound": self.upper_bound.state_dict(),
            "loss": self.loss.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        if self.g_scheduler is not None:
            state["g_scheduler"] = self.g_scheduler.state_dict()
        if self.d_scheduler is not None:
            state["d_scheduler"] = self.d_scheduler.state_dict()
        if self.d_skipping is not None:
            state["d_skipping"] = self.d_skipping.state_dict()
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.average.load_state_dict(state["average"])
        # States written before these were kept come from runs that had no use for them.
        self.average.updates = state.get("average_updates", 0)
        self.loss.load_state_dict(state.get("loss", {}))
        self.g_optimizer.load_state_dict(state["g_optimizer"])
        self.d_optimizer.load_state_dict(state["d_optimizer"])
        if self.g_scheduler is not None:
            self.g_scheduler.load_state_dict(state["g_scheduler"])
        if self.d_scheduler is not None:
            self.d_scheduler.load_state_dict(state["d_scheduler"])
        if self.d_skipping is not None:
            self.d_skipping.load_state_dict(state["d_skipping"])
        self.upper_bound.load_state_dict(state["upper_bound"])
        torch.set_rng_state(state["torch_rng"].cpu())
        if self.device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)


def _compiled(network: nn.Module, backend: str | None) -> nn.Module:
    if backend is None:
        return network
    # Batches have one size; a graph for every size would be slower.
    compiled = torch.compile(network, backend=backend, dynamic=False)
    assert isinstance(compiled, nn.Module)  # torch types it as any callable
    return compiled


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the parameters of a network; those that had none before keep none."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
