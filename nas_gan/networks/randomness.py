"""Random numbers that a network draws while it runs, the same in every pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nas_gan.seeds import folded

SEED = 0


@contextmanager
def fixed_random_numbers(network: nn.Module) -> Iterator[None]:
    """In the block torch draws the same random numbers every time, on the network's devices too.

    Afterwards the random numbers of the program go on as if nothing had been drawn.
    """
    gpus = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(gpus)):
        torch.manual_seed(folded(SEED))
        yield


def run_repeatably(network: nn.Module, *inputs: Any, **options: Any) -> Any:
    """What a network returns for inputs, with the same random numbers every time."""
    with fixed_random_numbers(network):
        return network(*inputs, **options)
