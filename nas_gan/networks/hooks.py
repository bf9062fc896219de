"""Observing the modules of a network while it runs.

torch's own hooks miss a module that is run as `module.forward(x)`, as wrappers of layers do. Here
the `forward` of the module object stands in for the block, so that every call is seen.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.checkpoint
from torch import Tensor, nn

from nas_gan.networks.structure import evaluating

# Called with the first input of a module.
OnInput = Callable[[Tensor], None]
# Called with all inputs and the output of a module; a tensor that it returns replaces the output.
OnOutput = Callable[[tuple[Any, ...], Any], Tensor | None]


@contextmanager
def hooked(
    *,
    entering: Iterable[tuple[nn.Module, OnInput]] = (),
    leaving: Iterable[tuple[nn.Module, OnOutput]] = (),
) -> Iterator[None]:
    """Within the block, calls of each module are passed to its function, before or after.

    Every call counts, also `module.forward(x)` and inputs given by keyword, which follow the
    positional ones in the order of the signature. Blocks may be nested. A copy of the network that
    is made within the block is not observed.
    """
    stand_ins: dict[nn.Module, _StandIn] = {}
    for module, on_input in entering:
        stand_ins.setdefault(module, _StandIn(module)).entering.append(on_input)
    for module, on_output in leaving:
        stand_ins.setdefault(module, _StandIn(module)).leaving.append(on_output)
    # Not by setattr: a network may have a __setattr__ of its own.
    before = {module: module.__dict__.get("forward") for module in stand_ins}
    try:
        for module, stand_in in stand_ins.items():
            module.__dict__["forward"] = stand_in
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


@contextmanager
def observing(
    network: nn.Module,
    *,
    entering: Iterable[tuple[nn.Module, OnInput]] = (),
    leaving: Iterable[tuple[nn.Module, OnOutput]] = (),
) -> Iterator[None]:
    """`hooked`, with the network in evaluation mode, without gradients or recomputation."""
    with hooked(entering=entering, leaving=leaving), keeping_activations(), evaluating(network):
        yield


@contextmanager
def keeping_activations() -> Iterator[None]:
    """Within the block, re-entrant activation checkpoints keep what they would recompute.

    `torch.autograd.grad` refuses them, and they warn if no input has a gradient.
    """
    recomputing = torch.utils.checkpoint.CheckpointFunction
    torch.utils.checkpoint.CheckpointFunction = _Kept  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        torch.utils.checkpoint.CheckpointFunction = recomputing  # type: ignore[misc]


def run_batches(network: nn.Module, latents: Tensor, batch_size: int) -> None:
    """Run the network on all latents, for the sake of its hooks."""
    for batch in latents.split(batch_size):
        network(batch)


class _StandIn:
    """What stands in for the `forward` of a module, and tells of each call."""

    def __init__(self, module: nn.Module) -> None:
        self.forward: Callable[..., Any] = module.forward
        self.entering: list[OnInput] = []
        self.leaving: list[OnOutput] = []

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        given = _in_order(self.forward, inputs, named)
        for on_input in self.entering:
            on_input(given[0])
        output = self.forward(*inputs, **named)
        for on_output in self.leaving:
            instead = on_output(given, output)
            if instead is not None:
                output = instead
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        # The forward of the copied module: that of the original would use the original's weights.
        return copy.deepcopy(self.forward, memo)


class _Kept:
    """Stands in for torch's autograd function of re-entrant checkpoints."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *inputs: Any) -> Any:
        return function(*inputs)


def _in_order(
    forward: Callable[..., Any], inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, ...]:
    """All inputs of a call in the order of the signature."""
    if not named:
        return inputs
    try:
        bound = inspect.signature(forward).bind(*inputs, **named)
    except (TypeError, ValueError):  # not a call that forward takes; it will say so itself
        return (*inputs, *named.values())
    return (*bound.args, *bound.kwargs.values())
