"""One iteration of the search: architecture parameters and weights take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas_gan.architecture_search.amending import amended_gradient, check_coefficient
from nas_gan.architecture_search.derivation import derive_discriminator, derive_generator
from nas_gan.architecture_search.draws import Draws, Sampling
from nas_gan.architecture_search.supernet import (
    Mixing,
    SuperDiscriminator,
    SuperGenerator,
    Supernet,
)
from nas_gan.errors import InvalidValueError
from nas_gan.losses import UPPER_BOUND, AdversarialLoss, Parts, make_loss
from nas_gan.networks.genotype import DiscriminatorGenotype, Genotype
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.distributed import ALONE, Exchange
from nas_gan.training.draws import Sampler
from nas_gan.training.schedule import Schedule

MIN_BATCH = 4  # halves of two: the kernel means of an MMD loss need pairs
ArchitectureLoss = Literal["hinge", "mmd"]
# The published search scores architectures by the hinge loss, whatever trains the weights.
ARCHITECTURE_LOSSES: dict[ArchitectureLoss, str] = {"hinge": "hinge", "mmd": "icassp_2024"}


def make_architecture_loss(name: ArchitectureLoss) -> AdversarialLoss:
    """The loss that architecture parameters lower: hinge, or the bounded repulsive pair."""
    return make_loss(ARCHITECTURE_LOSSES[name])


@dataclass(frozen=True)
class Supernets:
    """The two networks of a search, and the average of the generator."""

    generator: SuperGenerator
    discriminator: SuperDiscriminator
    average: ExponentialMovingAverage

    def genotypes(self) -> tuple[Genotype, DiscriminatorGenotype]:
        """The genotypes that the architecture parameters stand for at present."""
        g_normal, up = (alpha.detach().cpu() for alpha in self.generator.alphas)
        d_normal, down = (alpha.detach().cpu() for alpha in self.discriminator.alphas)
        generator = derive_generator(g_normal, up, self.generator.table)
        return generator, derive_discriminator(d_normal, down)


@dataclass(frozen=True)
class Optimizers:
    """Optimisers of the weights and of the architecture parameters of both networks."""

    g_weights: torch.optim.Optimizer
    d_weights: torch.optim.Optimizer
    g_alphas: torch.optim.Optimizer
    d_alphas: torch.optim.Optimizer


@dataclass(frozen=True)
class SearchLosses:
    """What a search lowers.

    Attributes:
        weights: the loss that the weights lower.
        architecture: the loss that the architecture parameters lower.
        amending: coefficient of the second-order term in the architecture's gradient; 0 leaves it
            out.
        upper_bound: cap on the squared distances of real scores in bounded losses.

    Raises:
        InvalidValueError: the amending coefficient is negative, or a loss has parts, such as a
            gradient penalty, that need more than scores.
    """

    weights: AdversarialLoss
    architecture: AdversarialLoss
    amending: float = 0.0
    upper_bound: float = UPPER_BOUND

    def __post_init__(self) -> None:
        check_search_loss(self.weights)
        check_search_loss(self.architecture)
        check_coefficient(self.amending)


class ArchitectureStep:
    """One update of the discriminator and, every `n_critic` updates, one of the generator.

    An update moves the architecture parameters and then the weights, on different images and
    latents: the batch `real(index)`, `(m, 3, h, w)` in [-1, 1], is split in halves, of which the
    first is for the weights. The generator is updated with `m` latents. Every pass draws a mixing
    of its own; real and fake images share one.

    Args:
        networks: both supernets, and the average that follows the generator.
        optimizers: what moves their weights and their architecture parameters.
        losses: what they lower.
        sampling: how latents and operations are drawn.
        real: the images of an update, by its index.
        schedule: which network is updated when.
        bf16: networks compute in bfloat16, losses in float32.
        exchange: how batches, scores and gradients travel between the processes of a search.

    Raises:
        InvalidValueError: the schedule leaves out updates of the discriminator.
    """

    def __init__(
        self,
        networks: Supernets,
        *,
        optimizers: Optimizers,
        losses: SearchLosses,
        sampling: Sampling,
        real: Sampler,
        schedule: Schedule,
        bf16: bool = False,
        exchange: Exchange = ALONE,
    ) -> None:
        if schedule.d_every > 1 or schedule.d_skipping is not None:
            raise InvalidValueError("a search updates its discriminator in every step")
        self.generator, self.discriminator = networks.generator, networks.discriminator
        self.average, self.optimizers = networks.average, optimizers
        self.losses, self.sampling, self.real = losses, sampling, real
        self.schedule, self.bf16, self.exchange = schedule, bf16, exchange
        self.device = self.generator.alphas_normal.device

    def __call__(self, index: int) -> dict[str, float]:
        self.generator.train()
        self.discriminator.train()
        halves = self._halves(self.real(index))
        draws = self.sampling.draws(index, self.schedule.fraction(index), self.generator.latent_dim)
        epoch = self.schedule.epoch(index)
        optimizers = self.optimizers

        def d_loss(loss: AdversarialLoss, real: Tensor) -> Tensor:
            return self._discriminator_loss(loss, real, draws, epoch)

        def g_loss(loss: AdversarialLoss, real: Tensor) -> Tensor:
            return self._generator_loss(loss, real, draws)

        scalars = {"temperature": draws.temperature}
        scalars["loss/d_arch"], scalars["loss/d"] = self._update(
            self.discriminator, d_loss, halves, optimizers.d_alphas, optimizers.d_weights
        )
        scalars |= _entropies("d", self.discriminator)
        if self.schedule.generator_is_due(index):
            scalars["loss/g_arch"], scalars["loss/g"] = self._update(
                self.generator, g_loss, halves, optimizers.g_alphas, optimizers.g_weights
            )
            scalars |= _entropies("g", self.generator)
            self.average.update(self.generator)
        return scalars

    def _update(
        self,
        network: Supernet,
        loss_of: Callable[[AdversarialLoss, Tensor], Tensor],
        halves: tuple[Tensor, Tensor],
        alphas_optimizer: torch.optim.Optimizer,
        weights_optimizer: torch.optim.Optimizer,
    ) -> tuple[float, float]:
        """Move the architecture parameters of a network, then its weights; both losses."""
        weight_real, architecture_real = halves
        alphas, weights = network.alphas, network.weights
        search_loss = loss_of(self.losses.architecture, architecture_real)
        gradients: Iterable[Tensor | None]
        if self.losses.amending:
            train_loss = loss_of(self.losses.weights, weight_real)
            gradients = amended_gradient(
                search_loss,
                train_loss,
                alphas,
                weights,
                self.losses.amending,
                mean=self.exchange.mean,
            )
        else:
            gradients = self.exchange.mean(torch.autograd.grad(search_loss, alphas))
        _move_(alphas_optimizer, alphas, gradients)
        loss = loss_of(self.losses.weights, weight_real)
        _move_(weights_optimizer, weights, self._weight_gradients(loss, weights))
        return search_loss.item(), loss.item()

    def _weight_gradients(
        self, loss: Tensor, weights: Sequence[nn.Parameter]
    ) -> Iterator[Tensor | None]:
        """Gradients of weights; an operation that no weight of the mixing reaches has none."""
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        # All processes have the same mixing, and so leave out the same operations.
        means = iter(
            self.exchange.mean([gradient for gradient in gradients if gradient is not None])
        )
        return (None if gradient is None else next(means) for gradient in gradients)

    def _discriminator_loss(
        self, loss: AdversarialLoss, real: Tensor, draws: Draws, epoch: int
    ) -> Tensor:
        latents, mixing = draws.latents(len(real)), draws.mixing(self.generator)
        with torch.no_grad():
            fake = self._generate(latents, mixing)
        real = self._own(real)
        scores = self._score(torch.cat([real, fake]), draws.mixing(self.discriminator))
        real_scores, fake_scores = (self.exchange.gather(part) for part in scores.split(len(real)))
        return loss.discriminator(
            real_scores, fake_scores, upper=self.losses.upper_bound, epoch=epoch
        )

    def _generator_loss(self, loss: AdversarialLoss, real: Tensor, draws: Draws) -> Tensor:
        # The real scores are needed as values only.
        with torch.no_grad():
            judge = draws.mixing(self.discriminator)
            real_scores = self.exchange.gather(self._score(self._own(real), judge))
        fake = self._generate(draws.latents(2 * len(real)), draws.mixing(self.generator))
        return loss.generator(real_scores, self.exchange.gather(self._score(fake, judge)))

    def _generate(self, latents: Tensor, mixing: Mixing) -> Tensor:
        """Images of this process's share of latents."""
        with self._autocast():
            images: Tensor = self.generator(self._own(latents), mixing)
        return images

    def _score(self, images: Tensor, mixing: Mixing) -> Tensor:
        with self._autocast():
            scores: Tensor = self.discriminator(images, mixing)
        return scores.float()  # kernels of distances lose too much in bfloat16

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _own(self, batch: Tensor) -> Tensor:
        """This process's share of a batch, on its device."""
        layout = torch.channels_last if batch.ndim == 4 else torch.preserve_format
        return self.exchange.share(batch).to(self.device, memory_format=layout, non_blocking=True)

    def _halves(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        check_batch_size(len(batch))
        first, second = batch.chunk(2)
        return first, second

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to resume exactly, besides the index."""
        optimizers = {f.name: getattr(self.optimizers, f.name) for f in fields(self.optimizers)}
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
            "losses": [self.losses.weights.state_dict(), self.losses.architecture.state_dict()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.load_state_dict(state["average"])
        for name, optimizer_state in state["optimizers"].items():
            getattr(self.optimizers, name).load_state_dict(optimizer_state)
        for loss, loss_state in zip(
            (self.losses.weights, self.losses.architecture), state["losses"], strict=True
        ):
            loss.load_state_dict(loss_state)


def check_batch_size(batch_size: int) -> None:
    """Raise InvalidValueError unless a batch can be split in two halves."""
    if batch_size < MIN_BATCH or batch_size % 2:
        raise InvalidValueError(
            f"a search splits every batch in two halves: batch_size must be even and at least "
            f"{MIN_BATCH}; got {batch_size}"
        )


def check_search_loss(loss: AdversarialLoss) -> AdversarialLoss:
    """The loss, if it is one of scores alone.

    Raises:
        InvalidValueError: it has parts, such as a gradient penalty, that a search cannot carry out.
    """
    parts = [f.name for f in fields(Parts) if getattr(loss.parts, f.name) is not None]
    if parts:
        raise InvalidValueError(
            f"a search takes losses of scores alone; this one also has {', '.join(parts)}: "
            "use one without, such as hinge or latest"
        )
    return loss


def _move_(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    gradients: Iterable[Tensor | None],
) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _entropies(prefix: str, network: Supernet) -> dict[str, float]:
    """How undecided the edges are: mean entropies in nats, log(7) for seven equal weights."""
    mixing = network.mean_mixing()
    return {
        f"entropy/{prefix}_{name}": torch.special.entr(weights).sum(dim=-1).mean().item()
        for name, weights in zip(mixing._fields, mixing, strict=True)
    }
