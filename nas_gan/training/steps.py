"""What one update does: batch to losses to new weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LRScheduler

from nas_gan.errors import InvalidValueError
from nas_gan.losses import AdversarialLoss
from nas_gan.training.augmentation import UNCHANGED, Augmentation
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.distributed import ALONE, Exchange
from nas_gan.training.draws import Batch, Labelled, Sampler
from nas_gan.training.learner import Learner
from nas_gan.training.schedule import Schedule
from nas_gan.training.skipping import DynamicSkipping
from nas_gan.training.upper_bound import UpperBoundSchedule


@dataclass(frozen=True)
class Batches:
    """What the updates see, by the index of the update.

    Attributes:
        real: `(m, c, h, w)` images in [-1, 1], or a pair of those and one-hot labels
            `(m, n_classes)`.
        latents: `(n, latent_dim)` with `n >= m`; with labels their last n_classes columns are those
            of the fakes.
        g_latents: latents of the generator's update, if its batch is larger; None scores the fakes
            of the discriminator's update again.
        augment: changes all images that the discriminator sees.
    """

    real: Callable[[int], Batch]
    latents: Sampler
    g_latents: Sampler | None = None
    augment: Augmentation = UNCHANGED


@dataclass(frozen=True)
class Compute:
    """How the networks are run.

    Attributes:
        bf16: networks compute in bfloat16, losses in the type of the weights.
        compile_backend: what torch.compile turns the networks over to, such as `inductor`; None
            leaves them as they are.
    """

    bf16: bool = False
    compile_backend: str | None = None


@dataclass(frozen=True)
class Logged:
    """Scalars that are computed only if asked for.

    Attributes:
        gradients: the norms of both gradients.
        health: the scalars of `AdversarialLoss.health`.
    """

    gradients: bool = False
    health: bool = False


class AdversarialStep:
    """One discriminator update and, every `n_critic` updates, one generator update.

    Real and fake images pass the discriminator together (unless it has batch statistics, which
    would mix), and the generator's update scores the same fakes again: its weights have not
    changed in between. With labels the discriminator is called with images and labels.

    Batches and losses are of the type of the generator's weights, on its device.

    Args:
        g: the generator, and what moves it.
        d: the discriminator, and what moves it.
        loss: of both.
        average: follows the generator.
        upper_bound: of the squared distances in a bounded loss.
        batches: the images and the latents of each update.
        schedule: which network is updated when.
        compute: precision and compilation.
        logged: scalars besides the losses.
        exchange: how scores and gradients travel between the processes of a run.

    Raises:
        InvalidValueError: a gradient would be clipped to a norm that is not above 0.
    """

    def __init__(
        self,
        g: Learner,
        d: Learner,
        loss: AdversarialLoss,
        *,
        average: ExponentialMovingAverage,
        upper_bound: UpperBoundSchedule,
        batches: Batches,
        schedule: Schedule,
        compute: Compute = Compute(),
        logged: Logged = Logged(),
        exchange: Exchange = ALONE,
    ) -> None:
        for setting, learner in (("g_clip", g), ("d_clip", d)):
            if learner.clip is not None and not learner.clip > 0:
                raise InvalidValueError(f"must be above 0; got {learner.clip}", setting=setting)
        self.g, self.d, self.loss = g, d, loss
        self.average, self.upper_bound = average, upper_bound
        self.batches, self.schedule = batches, schedule
        self.bf16, self.logged, self.gather = compute.bf16, logged, exchange.gather
        weight = next(g.network.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        # The networks themselves stay as they are: states, averages and names know no wrapper.
        self._generate = exchange.synchronise(_compiled(g.network, compute.compile_backend))
        self._judge = _compiled(d.network, compute.compile_backend)
        self._judge_synchronised = exchange.synchronise(self._judge)
        self._together = not any(isinstance(m, _BatchNorm) for m in d.network.modules())

    @property
    def generator(self) -> nn.Module:
        """The network that makes images."""
        return self.g.network

    @property
    def discriminator(self) -> nn.Module:
        """The network that scores them."""
        return self.d.network

    def __call__(self, index: int) -> dict[str, float]:
        self.generator.train()
        self.discriminator.train()
        self.upper_bound.progressed(self.schedule.fraction(index))
        real, real_labels = self._real(index)
        g_latents, d_skipping = self.batches.g_latents, self.schedule.d_skipping
        update_generator = self.schedule.generator_is_due(index)
        again = update_generator and g_latents is None
        fake = self._fake(self.batches.latents(index), real_labels, with_graph=again)
        scalars: dict[str, float] = {}
        if self.schedule.discriminator_is_due(index):
            scalars |= self._update_discriminator(
                (real, real_labels), (fake[0].detach(), fake[1]), index
            )
        if d_skipping is not None:
            scalars["d_skipped"] = float(d_skipping.skipped)
        scalars["upper_bound"] = self.upper_bound.value
        if update_generator:
            if g_latents is not None:
                fake = self._fake(g_latents(index), real_labels, with_graph=True)
            scalars |= self._update_generator((real, real_labels), fake, index)
            self.average.update(self.generator)
        return scalars

    def _fake(self, latents: Tensor, real_labels: Tensor | None, *, with_graph: bool) -> Labelled:
        """Images of latents, with the labels at the end of the latents if there are any."""
        latents = self._to_device(latents)
        labels = None if real_labels is None else latents[:, -real_labels.shape[1] :]
        with self._autocast(), torch.set_grad_enabled(with_graph):
            return self._generate(latents), labels

    def _update_discriminator(self, real: Labelled, fake: Labelled, index: int) -> dict[str, float]:
        real, fake = self._shown(real, index), self._shown(fake, index)
        real_scores, fake_scores = (self.gather(s) for s in self._score_both(real, fake))
        loss = self.loss.discriminator(
            real_scores,
            fake_scores,
            upper=self.upper_bound.value,
            epoch=self.schedule.epoch(index),
        )
        loss = self._with_gradient_parts(loss, real, fake, real_scores, fake_scores)
        self.d.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        scalars = self.d.descend("d", log_gradient=self.logged.gradients)
        if self.loss.parts.clipping is not None:
            self.loss.parts.clipping.clip_(self.discriminator.parameters())
        if self.logged.health:
            scalars |= self.loss.health(real_scores.detach(), fake_scores.detach())
        return {"loss/d": loss.item(), **scalars}

    def _update_generator(self, real: Labelled, fake: Labelled, index: int) -> dict[str, float]:
        real, fake = self._shown(real, index), self._shown(fake, index)
        # The loss needs the real scores as values only.
        with torch.no_grad():
            real_scores = self.gather(self._score(self._judge, *real))
        with _frozen(self.discriminator):
            fake_scores = self.gather(self._score(self._judge, *fake))
            loss = self.loss.generator(real_scores, fake_scores)
            self.g.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        if (skipping := self.schedule.d_skipping) is not None:
            # To the last bit the same in every process: they must all leave out the same updates.
            skipping.observe(self.gather(loss.detach()[None]).mean().item())
        scalars = self.g.descend("g", log_gradient=self.logged.gradients)
        return {"loss/g": loss.item(), **scalars}

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
        batch = self.batches.real(index)
        if isinstance(batch, Tensor):
            return self._to_device(batch), None
        images, labels = batch
        if labels.ndim != 2:
            raise InvalidValueError(
                f"labels must be one-hot (m, n_classes); got shape {tuple(labels.shape)}"
            )
        return self._to_device(images), self._to_device(labels)

    def _shown(self, batch: Labelled, index: int) -> Labelled:
        """The batch as the discriminator sees it: augmented, with the noise of the step."""
        images, noise = self.batches.augment(batch[0]), self.loss.parts.noise
        return (images if noise is None else noise.add(images, index)), batch[1]

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
        """All that is needed to resume exactly, besides the index."""
        state = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.average.state_dict(),
            "average_updates": self.average.updates,
            "g_optimizer": self.g.optimizer.state_dict(),
            "d_optimizer": self.d.optimizer.state_dict(),
            "upper_bound": self.upper_bound.state_dict(),
            "loss": self.loss.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        state |= {name: part.state_dict() for name, part in self._optional_parts().items()}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.average.load_state_dict(state["average"])
        # States written before these were kept come from runs that had no use for them.
        self.average.updates = state.get("average_updates", 0)
        self.loss.load_state_dict(state.get("loss", {}))
        self.g.optimizer.load_state_dict(state["g_optimizer"])
        self.d.optimizer.load_state_dict(state["d_optimizer"])
        for name, part in self._optional_parts().items():
            part.load_state_dict(state[name])
        self.upper_bound.load_state_dict(state["upper_bound"])
        torch.set_rng_state(state["torch_rng"].cpu())
        if self.device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)

    def _optional_parts(self) -> dict[str, LRScheduler | DynamicSkipping]:
        """What changes from update to update in some runs only, by its name in a state."""
        parts = {
            "g_scheduler": self.g.scheduler,
            "d_scheduler": self.d.scheduler,
            "d_skipping": self.schedule.d_skipping,
        }
        return {name: part for name, part in parts.items() if part is not None}


def _compiled(network: nn.Module, backend: str | None) -> nn.Module:
    if backend is None:
        return network
    # Batches have one size; a graph for every size would be slower.
    compiled = torch.compile(network, backend=backend, dynamic=False)
    assert isinstance(compiled, nn.Module)  # torch types it as any callable
    return compiled


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Switches off the gradients of a network; parameters that had none before keep none."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
