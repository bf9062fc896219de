"""Batch-norm correction of a factorized generator, without training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from nas_gan.networks.hooks import OnInput, observing, run_batches

# Mean and variance `(c,)` of the input of each batch normalisation, by name, in execution order.
BatchMoments = Mapping[str, tuple[Tensor, Tensor]]


def correct_batchnorm(
    factorized: nn.Module,
    dense: nn.Module,
    latents: Tensor,
    batch_size: int = 64,
    *,
    dense_moments: BatchMoments | None = None,
) -> nn.Module:
    """A copy of `factorized` whose batch statistics account for the change in its activations.

    Both networks run on the same latents. Running means are shifted by the difference between them,
    and running variances are scaled by the ratio. Statistics measured from scratch would also
    change a network that was not factorized at all: those of a trained network come from its
    training, often with other weights than the averaged ones, and the dense network that it is
    compared with keeps them.

    Args:
        factorized: the network to correct; it is not changed.
        dense: the network before factorizing.
        latents: `(n, latent_dim)`.
        batch_size: latents per batch.
        dense_moments: `batch_moments` of `dense` on the same latents. Pass them to correct many
            plans, so that the dense network runs only once.
    """
    corrected = copy.deepcopy(factorized).eval()
    before = dense_moments
    if before is None:
        before = batch_moments(dense, latents, batch_size)
    for name, (dense_mean, dense_variance) in before.items():
        # One at a time, in execution order: correcting a norm changes what enters the next.
        mean, variance = batch_moments(corrected, latents, batch_size, only=name)[name]
        norm = cast(nn.modules.batchnorm._BatchNorm, corrected.get_submodule(name))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += mean - dense_mean
        norm.running_var *= variance / dense_variance.clamp(min=norm.eps)
    return corrected


def batch_moments(
    generator: nn.Module, latents: Tensor, batch_size: int = 64, only: str | None = None
) -> BatchMoments:
    """The `BatchMoments` of a generator on all `latents`, or of the normalisation `only`."""
    sums: dict[str, Tensor] = {}

    def collect(name: str) -> OnInput:
        def on_input(x: Tensor) -> None:
            x = x.detach().double().transpose(0, 1).flatten(1)  # (c, n h w)
            n = torch.full_like(x[:, 0], x.shape[1])
            moments = torch.stack([n, x.sum(dim=1), x.square().sum(dim=1)])
            sums[name] = sums[name] + moments if name in sums else moments

        return on_input

    norms = [
        (module, collect(name))
        for name, module in generator.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.track_running_stats
        and only in (None, name)
    ]
    if norms:
        with observing(generator, entering=norms):
            run_batches(generator, latents, batch_size)
    moments = {}
    for name, (n, total, squares) in sums.items():
        mean = total / n
        moments[name] = (mean.float(), (squares / n - mean.square()).clamp(min=0).float())
    return moments
