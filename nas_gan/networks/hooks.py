"""Looking into a network while it runs: hooks that are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nas_gan.networks.structure import evaluating

# Told of what enters a module, its first input.
OnInput = Callable[[Tensor], None]
# Told of all inputs and of what leaves; a tensor that it returns leaves instead.
OnOutput = Callable[[tuple[Any, ...], Any], Tensor | None]


@contextmanager
def hooked(
    *,
    entering: Iterable[tuple[nn.Module, OnInput]] = (),
    leaving: Iterable[tuple[nn.Module, OnOutput]] = (),
) -> Iterator[None]:
    """Within the block each call of a module is told to its function, before or after it ran."""
    handles = [_before(module, tell) for module, tell in entering]
    handles += [_after(module, tell) for module, tell in leaving]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observing(
    network: nn.Module,
    *,
    entering: Iterable[tuple[nn.Module, OnInput]] = (),
    leaving: Iterable[tuple[nn.Module, OnOutput]] = (),
) -> Iterator[None]:
    """`hooked`, with the network in evaluation mode and without gradients."""
    with hooked(entering=entering, leaving=leaving), evaluating(network):
        yield


def run_batches(network: nn.Module, latents: Tensor, batch_size: int) -> None:
    """Run the network on all latents, for what hooks see of it."""
    for batch in latents.split(batch_size):
        network(batch)


def _before(module: nn.Module, tell: OnInput) -> Any:
    return module.register_forward_pre_hook(lambda module, inputs: tell(inputs[0]))


def _after(module: nn.Module, tell: OnOutput) -> Any:
    return module.register_forward_hook(lambda module, inputs, output: tell(inputs, output))
