"""Which choices of a layer are worth a full measurement: methods compete on the layer's output."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ard.assembly.statistics import LayerStatistics
from ard.assembly.surgery import factorize_layer
from ard.costs.cost import LayerCost, params_cost
from ard.errors import RankError
from ard.factorization.methods import METHODS
from ard.factorization.whitening import covariance_root
from ard.grid import RankGrid
from ard.layers import LayerProfile
from ard.plan import Factorization
from nas_gan.networks.hooks import OnInput, observing

# A choice must be cheaper than the next more accurate one by this share to be worth a measurement.
MIN_SAVING = 0.1


def capture_inputs(
    generator: nn.Module, latents: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    """What enters each named layer when the generator runs on `latents`, first argument only."""
    captured: dict[str, Tensor] = {}

    def capture(name: str) -> OnInput:
        return lambda x: captured.update({name: x.detach()})

    layers = [(generator.get_submodule(name), capture(name)) for name in names]
    with observing(generator, entering=layers):
        generator(latents)
    return captured


def output_error(
    module: nn.Module, factors: nn.Module, inputs: Tensor, root: Tensor | None = None
) -> float:
    """Relative error of the factors' outputs, `||(y - y') root|| / ||y root||` over `inputs`.

    `root (c_out, c_out)` weights the channels: the second dimension of maps, the last of vectors.
    """
    with torch.no_grad():
        dense, found = module(inputs), factors(inputs)
    if root is not None:
        axis = -1 if isinstance(module, nn.Linear) else 1
        dense, found = (y.movedim(axis, -1) @ root.to(y) for y in (dense, found))
    return ((found - dense).norm() / dense.norm().clamp(min=1e-12)).item()


def competitors(layer: LayerProfile, methods: Sequence[str]) -> tuple[str, ...]:
    """Those of `methods` that compete on a layer.

    A method for which the kernel is expensive takes part only if there is no other.
    """
    fitting = tuple(name for name in layer.methods() if name in methods)
    size = math.prod(layer.shape)
    cheap = tuple(
        name for name in fitting if (most := METHODS[name].max_weights) is None or size <= most
    )
    return cheap or fitting


def competing_choices(
    generator: nn.Module,
    layers: Sequence[LayerProfile],
    latents: Tensor,
    statistics: Mapping[str, LayerStatistics],
    *,
    grid: RankGrid,
    cost: LayerCost = params_cost,
    on_layer: Callable[[int], None] = lambda n: None,
) -> list[tuple[str, Factorization]]:
    """For every layer, the choices that no other of that layer beats in both cost and error.

    The error is that of the layer's output, each direction weighted by what it is worth to the
    image where the statistics say so. It ranks the ways to factorize the same layer, at a
    thousandth of the cost of scoring images. A method that breaks down at some rank (CP can) drops
    out of the competition there.
    """
    inputs = capture_inputs(generator, latents, [layer.name for layer in layers])
    chosen: list[tuple[str, Factorization]] = []
    for layer in layers:
        module, known = generator.get_submodule(layer.name), statistics.get(layer.name)
        worth = None if known is None else known.output
        root = None if worth is None or not worth.any() else covariance_root(worth)
        entries: list[tuple[float, float, Factorization]] = []
        for method in competitors(layer, grid.methods):
            for choice in layer.rank_grid(method, grid.fractions, grid.multiple_of):
                try:
                    factors = factorize_layer(module, choice, known)
                except RankError:
                    continue
                error = output_error(module, factors, inputs[layer.name], root)
                entries.append((cost(layer, choice), error, choice))
        # From the most accurate down: keep what is clearly smaller than everything more accurate.
        smallest = cost(layer, None)
        for price, _, choice in sorted(entries, key=lambda entry: (entry[1], entry[0])):
            if price < (1 - MIN_SAVING) * smallest:
                smallest = price
                chosen.append((layer.name, choice))
        on_layer(1)
    return chosen
