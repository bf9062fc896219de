"""Ranking candidates: methods and forms compete on the error of an output before any scoring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ard.activations import ActivationProfile, fit_gate, fitting_error
from ard.assembly.statistics import LayerStatistics, captured_inputs
from ard.assembly.surgery import factorize_layer
from ard.costs.cost import LayerCost, params_cost
from ard.errors import RankError
from ard.factorization.methods import METHODS
from ard.factorization.whitening import covariance_root
from ard.grid import RankGrid
from ard.layers import LayerProfile
from ard.plan import ActivationForm, Factorization

# To be worth measuring, a choice must cost less than every more accurate one by this fraction.
MIN_SAVING = 0.1


def output_error(
    module: nn.Module, factors: nn.Module, inputs: Tensor, root: Tensor | None = None
) -> float:
    """Relative error of the factors' outputs, `||(y - y') root|| / ||y root||` over `inputs`.

    `root (c_out, c_out)` weights the channels, which are the second axis of feature maps and the
    last axis of vectors.
    """
    axis = -1 if isinstance(module, nn.Linear) else 1
    return _difference(*(_weighted(layer, inputs, root, axis) for layer in (module, factors)))


def _weighted(layer: nn.Module, inputs: Tensor, root: Tensor | None, axis: int) -> Tensor:
    """The outputs of a layer, whose channels are the given axis, times `root`."""
    with torch.no_grad():
        y: Tensor = layer(inputs)
        return y if root is None else y.movedim(axis, -1) @ root.to(y)


def _difference(dense: Tensor, found: Tensor) -> float:
    return ((found - dense).norm() / dense.norm().clamp(min=1e-12)).item()


def competitors(layer: LayerProfile, methods: Sequence[str]) -> tuple[str, ...]:
    """The `methods` that compete on a layer.

    A method that is too expensive for a kernel of this size competes only if no other method fits.
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
    """The Pareto-optimal choices of every layer, in cost and in error of the layer's output.

    If the statistics include the outputs, each direction of the output is weighted by how much it
    matters to the image. The error ranks the ways to factorize one layer, at a thousandth of the
    cost of scoring images. A method that breaks down at some rank, as CP can, loses that choice
    only.

    Args:
        generator: the dense generator.
        layers: the layers to rank candidates for.
        latents: `(n, latent_dim)` latents; the layers' inputs are captured on them.
        statistics: statistics by layer name, for the factorizations and the weights of the error.
        grid: the rank candidates.
        cost: the cost of a layer under a choice.
        on_layer: called with the number of layers that were finished since the last call.

    Returns:
        Pairs of layer name and factorization, per layer from the most accurate to the cheapest.
    """
    captured = captured_inputs(generator, latents, [layer.name for layer in layers])
    chosen: list[tuple[str, Factorization]] = []
    for layer, (_, inputs) in zip(layers, captured, strict=True):
        module, known = generator.get_submodule(layer.name), statistics.get(layer.name)
        worth = None if known is None else known.output
        root = None if worth is None or not worth.any() else covariance_root(worth)
        axis = -1 if isinstance(module, nn.Linear) else 1
        dense = _weighted(module, inputs, root, axis)
        entries: list[tuple[float, float, Factorization]] = []
        for method in competitors(layer, grid.methods):
            for choice in layer.rank_grid(method, grid.fractions, grid.multiple_of):
                try:
                    factors = factorize_layer(module, choice, known)
                except RankError:
                    continue
                error = _difference(dense, _weighted(factors, inputs, root, axis))
                entries.append((cost(layer, choice), error, choice))
        chosen += [(layer.name, choice) for choice in _worthwhile(cost(layer, None), entries)]
        on_layer(1)
    return chosen


def competing_forms(
    generator: nn.Module,
    activations: Sequence[ActivationProfile],
    entering: Mapping[str, Tensor],
    cost: LayerCost,
) -> list[tuple[str, ActivationForm]]:
    """The Pareto-optimal gates of every activation, in cost and in error of its output.

    Args:
        generator: the dense generator.
        activations: the activations that gates may replace.
        entering: values `(n,)` that enter each of them.
        cost: the cost of an activation under a choice. One that does not count time knows no
            cheaper gate.

    Returns:
        Pairs of name and form, per activation from the most accurate to the cheapest.
    """
    chosen: list[tuple[str, ActivationForm]] = []
    for activation in activations:
        module, samples = generator.get_submodule(activation.name), entering[activation.name]
        entries = []
        for form in activation.choices():
            error = fitting_error(module, fit_gate(module, form, samples), samples)
            entries.append((cost(activation, form), error, form))
        worth = _worthwhile(cost(activation, None), entries)
        chosen += [(activation.name, form) for form in worth]
    return chosen


def most_worthwhile(dense: float, costs: Sequence[float]) -> int:
    """How many choices of these costs can be worth measuring at most, whatever their errors are.

    >>> most_worthwhile(100, [50, 49, 48, 20, 95])
    2
    """
    # With the largest first, errors that rise as costs fall keep the most.
    prices = sorted(costs, reverse=True)
    entries = [(price, float(i), None) for i, price in enumerate(prices)]
    return len(list(_worthwhile(dense, entries)))


def _worthwhile(dense: float, entries: Sequence[tuple[float, float, Any]]) -> Iterator[Any]:
    """From the most accurate choice on, those clearly cheaper than everything before them.

    `entries` are `(cost, error, choice)`; `dense` is the cost without a choice.
    """
    smallest = dense
    for price, _, choice in sorted(entries, key=lambda entry: (entry[1], entry[0])):
        if price < (1 - MIN_SAVING) * smallest:
            smallest = price
            yield choice
