"""Standing statistics: batch statistics measured on the images that a generator draws.

Running statistics follow the weights of a training with a delay, and their average follows the
averaged weights with another one. Brock, Donahue and Simonyan (2019, "BigGAN", appendix B) measure
them anew for sampling, and call them standing statistics.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_gan.networks.hooks import run_batches

BATCH = 64
Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def measure_standing_statistics_(network: nn.Module, latents: Tensor) -> None:
    """Replace the running statistics of every batch norm by the mean over these latents, in place.

    The network is left in evaluation mode.

    Args:
        network: maps latents to images.
        latents: `(n, ...)` on its device; every batch of 64 counts alike.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # every batch counts alike
        norm.train()
    run_batches(network, latents, BATCH)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def with_standing_statistics(network: Network, latents: Tensor) -> Network:
    """A copy with the batch statistics of these latents; see `measure_standing_statistics_`."""
    copied = copy.deepcopy(network)
    measure_standing_statistics_(copied, latents)
    return copied
