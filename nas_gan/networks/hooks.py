"""Hooks that observe a network while it runs, and are removed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nas_gan.networks.structure import evaluating

# Called with the first input of a module.
OnInput = Callable[[Tensor], None]
# Called with all inputs of a module and its output; a tensor that it returns replaces the output.
OnOutput = Callable[[tuple[Any, ...], Any], Tensor | None]


@contextmanager
def hooked(
    *,
    entering: Iterable[tuple[nn.Module, OnInput]] = (),
    leaving: Iterable[tuple[nn.Module, OnOutput]] = (),
) -> Iterator[None]:
    """Within the block, call the function of each module before or after the module runs."""
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
    """Run the network on all latents, for its hooks."""
    for batch in latents.split(batch_size):
        network(batch)


def _before(module: nn.Module, tell: OnInput) -> Any:
    return module.register_forward_pre_hook(lambda module, inputs: tell(inputs[0]))


def _after(module: nn.Module, tell: OnOutput) -> Any:
    return module.register_forward_hook(lambda module, inputs, output: tell(inputs, output))
