"""Which choices of a layer are worth a full measurement: methods compete on the layer's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ard.errors import RankError
from ard.factorization.statistics import LayerStatistics
from ard.layers import LayerProfile
from ard.plan import Factorization, Method
from ard.surgery import factorize_layer
from nas_gan.structure import evaluating

# A choice must be smaller than the next more accurate one by this share to be worth a measurement.
MIN_SAVING = 0.1


def capture_inputs(
    generator: nn.Module, latents: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """What enters each named layer when the generator runs on `latents`, first argument only."""
    captured: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: captured.update({name: inputs[0].detach()})

    handles = [
        generator.get_submodule(name).register_forward_pre_hook(hook_for(name)) for name in names
    ]
    try:
        with evaluating(generator):
            generator(latents)
    finally:
        for handle in handles:
            handle.remove()
    return captured


def output_error(module: nn.Module, factors: nn.Module, inputs: Tensor) -> float:
    """Relative error of the factors' outputs, `||y - y'|| / ||y||` over `inputs`."""
    with torch.no_grad():
        dense = module(inputs)
        return ((factors(inputs) - dense).norm() / dense.norm().clamp(min=1e-12)).item()


def competing_choices(
    generator: nn.Module,
    layers: Sequence[LayerProfile],
    latents: Tensor,
    statistics: Mapping[str, LayerStatistics],
    *,
    methods: Sequence[Method],
    fractions: Sequence[float],
    multiple_of: int = 1,
    on_layer: Callable[[int], None] = lambda n: None,
) -> list[tuple[str, Factorization]]:
    """For every layer, the choices that no other of that layer beats in both size and error.

    An error of one layer's output says little about the image, but it does rank the ways to
    factorize the same layer, at a thousandth of the cost of scoring images. A method that breaks
    down at some rank (CP can) drops out of the competition there.
    """
    inputs = capture_inputs(generator, latents, [layer.name for layer in layers])
    chosen: list[tuple[str, Factorization]] = []
    for layer in layers:
        module = generator.get_submodule(layer.name)
        entries: list[tuple[int, float, Factorization]] = []
        for method in layer.methods():
            if method not in methods:
                continue
            for choice in layer.rank_grid(method, fractions, multiple_of):
                try:
                    factors = factorize_layer(module, choice, statistics.get(layer.name))
                except RankError:
                    continue
                error = output_error(module, factors, inputs[layer.name])
                entries.append((layer.params(choice), error, choice))
        # From the most accurate down: keep what is clearly smaller than everything more accurate.
        smallest = layer.params()
        for params, _, choice in sorted(entries, key=lambda entry: (entry[1], entry[0])):
            if params < (1 - MIN_SAVING) * smallest:
                smallest = params
                chosen.append((layer.name, choice))
        on_layer(1)
    return chosen
