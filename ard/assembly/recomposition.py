"""The dense network that computes what a compressed one does, to be factorized again.

The factors of a layer are trained. Multiplied out they are one kernel of the shape of the dense
layer, which a harsher plan can factorize further, so that its recovery goes on where the milder
plan's ended.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from ard.assembly.surgery import kernels_of, weight_of
from ard.factorization.method import Factor
from ard.factorization.methods import METHODS
from ard.plan import ActivationForm, RankPlan
from nas_gan.networks.layer_types import Layer, Transposed
from nas_gan.networks.structure import replace_modules


def recompose(dense: nn.Module, network: nn.Module, plan: RankPlan, onto: RankPlan) -> nn.Module:
    """A generator of the dense shape that computes what a compressed one computes.

    Args:
        dense: the dense generator; it is not changed.
        network: a generator with the layers and activations of `plan` replaced, trained or not; it
            is not changed.
        plan: its plan.
        onto: the plan that will be built on the result. Where both plans have a gate, the result
            has the trained gate in place of the activation, for the next gate to be fitted to.
            Where only `plan` has one, the activation of the dense generator comes back, which is
            the one thing that the result does not compute alike.

    Returns:
        A generator whose weights are copies.
    """
    state = dict(network.state_dict())
    for name, choice in plan.items():
        if not isinstance(choice, ActivationForm):
            # Layers that share a weight share their factors too; one of them sets it for all.
            layer = cast(Layer, dense.get_submodule(name))
            factors = cast(nn.Sequential, network.get_submodule(name))
            state[f"{name}.weight"] = recomposed_weight(layer, choice.method, factors)
            if layer.bias is not None:
                state[f"{name}.bias"] = cast(Layer, factors[-1]).bias
    result = copy.deepcopy(dense)
    own = result.state_dict()
    result.load_state_dict({**own, **{name: state[name] for name in own.keys() & state.keys()}})
    gates = {
        name: cast(nn.Sequential, network.get_submodule(name))[0]
        for name, choice in plan.items()
        if isinstance(choice, ActivationForm) and name in onto
    }
    return replace_modules(result, gates) if gates else result


def recomposed_weight(layer: Layer, method: str, factors: Iterable[nn.Module]) -> Tensor:
    """The weight of `layer` that does what its factors do, in the type of its own."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    described = METHODS[method].of_layer(transposed=isinstance(layer, Transposed))
    of_factors = [
        _kernels_of_factor(cast(Layer, factor), known, groups)
        for factor, known in zip(factors, described, strict=True)
    ]
    kernels = [reduce(_product, of_group) for of_group in zip(*of_factors, strict=True)]
    return weight_of(layer, kernels).to(layer.weight.dtype)


def _kernels_of_factor(factor: Layer, known: Factor, groups: int) -> list[Tensor]:
    """The kernels `(out, in, k_h, k_w)` of a factor, one per group of the layer, in float64."""
    if not known.depthwise:
        return [kernel.double() for kernel in kernels_of(factor)]
    filters = torch.cat([kernel.double() for kernel in kernels_of(factor)])  # (channels, 1, ...)
    # A filter for each channel is a kernel with nothing beside its diagonal.
    return [
        part[:, :1] * torch.eye(len(part)).to(part)[:, :, None, None]
        for part in filters.chunk(groups)
    ]


def _product(first: Tensor, then: Tensor) -> Tensor:
    """The kernel of two factors in a row; along each axis, at most one of them moves."""
    return torch.einsum("orhw,rihw->oihw", then, first)
