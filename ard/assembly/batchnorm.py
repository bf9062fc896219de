"""Batch-norm correction of a factorized generator, without training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from nas_gan.networks.halving import halving_batches
from nas_gan.networks.hooks import OnInput, observing, run_batches

# Mean and variance `(c,)` of the input of each batch normalisation, by name, in execution order.
BatchMoments = Mapping[str, tuple[Tensor, Tensor]]
Skipping = Callable[[nn.Module], AbstractContextManager[None]]


def whole(network: nn.Module) -> AbstractContextManager[None]:
    """The `Skipping` of a network that runs as a whole."""
    return nullcontext()


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
    if dense_moments is None:
        dense_moments = batch_moments(dense, latents, batch_size)
    return corrected_with_images(factorized, dense_moments, latents, batch_size)[0]


def corrected_with_images(
    factorized: nn.Module,
    dense_moments: BatchMoments,
    latents: Tensor,
    batch_size: int,
    skipping: Skipping = whole,
) -> tuple[nn.Module, Tensor | None]:
    """What `correct_batchnorm` returns, and the images that it makes of the latents.

    They are None where the correction took more than one pass over the latents, or none. Within
    `skipping(network)`, the network need not run what it has in common with the dense one; that is
    used if all latents are one batch.
    """
    corrected = copy.deepcopy(factorized).eval()
    if not dense_moments:
        return corrected, None
    if len(latents) <= batch_size:
        try:
            with skipping(corrected):
                images = _in_one_pass(corrected, dense_moments, latents)
            if images is not None:
                return corrected, images
        except torch.OutOfMemoryError:
            if batch_size < 2:
                raise
            corrected, batch_size = copy.deepcopy(factorized).eval(), -(-len(latents) // 2)
    _one_by_one(corrected, dense_moments, latents, batch_size)
    return corrected, None


def _one_by_one(
    corrected: nn.Module, before: BatchMoments, latents: Tensor, batch_size: int
) -> None:
    """Correct one normalisation after another, with a pass over the latents for each."""
    for name, dense_moments in before.items():
        # One at a time, in execution order: correcting a norm changes what enters the next.
        moments = batch_moments(corrected, latents, batch_size, only=name)[name]
        _correct(corrected, name, dense_moments, moments)


def _in_one_pass(corrected: nn.Module, before: BatchMoments, latents: Tensor) -> Tensor | None:
    """Correct each normalisation when its input arrives, which then is that of all latents.

    What is skipped, since it is as in the dense network, needs no correction.

    Returns:
        The images of the corrected network; None if one normalisation runs twice, which makes one
        pass too few. Nothing has changed then.
    """
    state = {name: tensor.clone() for name, tensor in corrected.state_dict().items()}
    calls = dict.fromkeys(before, 0)

    def arrives(name: str) -> OnInput:
        def on_input(x: Tensor) -> None:
            calls[name] += 1
            if calls[name] == 1:
                _correct(corrected, name, before[name], _mean_and_variance(_sums(x)))

        return on_input

    with observing(
        corrected, entering=[(corrected.get_submodule(name), arrives(name)) for name in before]
    ):
        images: Tensor = corrected(latents)
    if max(calls.values()) <= 1:
        return images
    corrected.load_state_dict(state)
    return None


def _correct(
    corrected: nn.Module,
    name: str,
    dense_moments: tuple[Tensor, Tensor],
    moments: tuple[Tensor, Tensor],
) -> None:
    """Shift and scale the statistics of one normalisation by what entered it and should have."""
    (mean, variance), (dense_mean, dense_variance) = moments, dense_moments
    norm = cast(nn.modules.batchnorm._BatchNorm, corrected.get_submodule(name))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean += mean - dense_mean
    # Both are clamped: a channel that is constant in both networks keeps its statistics.
    norm.running_var *= variance.clamp(min=norm.eps) / dense_variance.clamp(min=norm.eps)


def batch_moments(
    generator: nn.Module, latents: Tensor, batch_size: int = 64, only: str | None = None
) -> BatchMoments:
    """The `BatchMoments` of a generator on all `latents`, or of the normalisation `only`.

    If a GPU has no memory for a batch of `batch_size`, batches are half as large.
    """

    def measure(rows: int) -> dict[str, Tensor]:
        return _batch_sums(generator, latents, rows, only)

    sums = halving_batches(measure, batch_size)
    return {name: _mean_and_variance(moments) for name, moments in sums.items()}


def _batch_sums(
    generator: nn.Module, latents: Tensor, batch_size: int, only: str | None
) -> dict[str, Tensor]:
    """The result of `_sums` over all latents, of each normalisation."""
    sums: dict[str, Tensor] = {}

    def collect(name: str) -> OnInput:
        def on_input(x: Tensor) -> None:
            moments = _sums(x)
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
    return sums


def _sums(x: Tensor) -> Tensor:
    """Number, sum and sum of squares of each channel of `(n, c, ...)`, as `(3, c)` in float64."""
    x = x.detach().double().transpose(0, 1).flatten(1)  # (c, n h w)
    n = torch.full_like(x[:, 0], x.shape[1])
    return torch.stack([n, x.sum(dim=1), x.square().sum(dim=1)])


def _mean_and_variance(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance `(c,)` from the result of `_sums`."""
    n, total, squares = sums
    mean = total / n
    return mean.float(), (squares / n - mean.square()).clamp(min=0).float()
