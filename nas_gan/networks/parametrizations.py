"""Weights that are computed from other parameters, folded into plain ones.

Spectral norm, weight norm and their like compute the weight of a layer whenever it runs. In
evaluation it is always the same weight. Folding stores it, and the layer is one of torch's again,
with the same images. Four forms are known:

- parametrizations of `torch.nn.utils.parametrize`, of whatever kind;
- the older hooks of torch: `spectral_norm`, `weight_norm` and pruning masks;
- hooks of other people that have a `name` and a `compute_weight(module)`, such as the equalized
  learning rate;
- a module around a layer that computes `weight` from `weight_bar`, `weight_u` and `weight_v`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from nas_gan.networks.layer_types import Layer
from nas_gan.networks.structure import evaluating, exchange_

# torch hides the modules of these hooks behind functions of the same name.
_SpectralNorm: Any = sys.modules["torch.nn.utils.spectral_norm"].SpectralNorm
_WRAPPED = ("_bar", "_u", "_v")
# What hooks add to the name of a parameter for those from which they compute it.
_PARTS = ("_orig", "_mask", "_g", *_WRAPPED)


def fold_parametrizations_(
    network: nn.Module, names: Collection[str] | None = None
) -> tuple[str, ...]:
    """Replace every computed parameter of a network by its value in evaluation, in place.

    No power iteration runs, and the images of the network in evaluation mode stay exactly the same.
    Only the wrapper of the fourth form, which iterates in evaluation too, gets the weight of its
    next call. Optimisers of the old parameters have to be made anew.

    Args:
        network: the network; modes and `requires_grad` stay as they are.
        names: the modules to fold, as an earlier call returned them; all of them if None.

    Returns:
        The names of the modules that were folded, in the order of `named_modules`.
    """
    folded = []
    for name, module in list(network.named_modules()):
        if names is not None and name not in names:
            continue
        with evaluating(module):
            layer = None if module is network else _unwrapped(module)
            found = layer is not None or _fold_registered_(module) | _fold_hooks_(module)
        if layer is not None:
            exchange_(network, module, layer)
        if found:
            folded.append(name)
    return tuple(folded)


def computes_weight(module: nn.Module) -> bool:
    """Whether the weight of a layer is not a parameter, but computed by something else."""
    return not isinstance(module._parameters.get("weight"), nn.Parameter)


def _fold_registered_(module: nn.Module) -> bool:
    """Fold the parametrizations of `torch.nn.utils.parametrize`."""
    if not parametrize.is_parametrized(module):
        return False
    lists: Any = module.parametrizations
    values = {
        name: (getattr(module, name), [*lists[name].parameters(recurse=False)]) for name in lists
    }
    # torch's remove_parametrizations deletes the property of the class, which copies share.
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, (value, originals) in sorted(values.items()):  # the bias before the weight
        _set_(module, name, value, originals)
    return True


def _fold_hooks_(module: nn.Module) -> bool:
    """Fold the hooks that compute a parameter before every call."""
    hooks = [*module._forward_pre_hooks.items()]
    found = False
    for key, hook in hooks:
        if isinstance(hook, prune.BasePruningMethod):
            name = str(hook._tensor_name)
            value = hook.apply_mask(module)
        elif isinstance(getattr(hook, "name", None), str) and callable(
            getattr(hook, "compute_weight", None)
        ):
            computing: Any = hook
            name = computing.name
            if isinstance(hook, _SpectralNorm):
                value = computing.compute_weight(module, do_power_iteration=False)
            else:
                value = computing.compute_weight(module)
        else:
            continue
        if not isinstance(value, Tensor):
            continue
        known = {name + ending for ending in _PARTS}
        parts = [part for part in (*module._parameters, *module._buffers) if part in known]
        originals = [module._parameters[part] for part in parts if part in module._parameters]
        for part in parts:
            delattr(module, part)
        del module._forward_pre_hooks[key]
        for others in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
            for other, told in [*others.items()]:
                if _is_of(told, hook):
                    del others[other]
        _set_(module, name, value, originals)
        found = True
    return found


def _is_of(hook: object, computing: object) -> bool:
    """Whether a hook of the state dict belongs to the hook that computes the weight."""
    told: Any = getattr(hook, "hook", hook)
    return getattr(told, "fn", None) is computing


def _unwrapped(wrapper: nn.Module) -> Layer | None:
    """The layer inside a wrapper of the fourth form, with its weight folded; None for others."""
    layer = wrapper._modules.get("module")
    if not isinstance(layer, Layer) or not computes_weight(layer):
        return None
    bar, u, v = (layer._parameters.get("weight" + ending) for ending in _WRAPPED)
    if bar is None or u is None or v is None:
        return None
    update: Any = getattr(wrapper, "_update_u_v", None)
    if callable(update):
        update()
        value = layer.weight
    else:
        value = bar / (u @ (bar.flatten(1) @ v))
    for ending in _WRAPPED:
        delattr(layer, "weight" + ending)
    _set_(layer, "weight", value, [bar])
    return layer


def _set_(
    module: nn.Module, name: str, value: Tensor, originals: list[nn.Parameter | None]
) -> None:
    """Give a module a plain parameter, first in its order as in torch's layers.

    It is a buffer if it was computed from buffers alone.
    """
    module.__dict__.pop(name, None)
    module._buffers.pop(name, None)
    value = value.detach().clone(memory_format=torch.contiguous_format)
    if not originals:
        module.register_buffer(name, value)
        return
    trained = any(part is not None and part.requires_grad for part in originals)
    rest = {n: p for n, p in module._parameters.items() if n != name}
    module._parameters.clear()
    module.register_parameter(name, nn.Parameter(value, requires_grad=trained))
    module._parameters.update(rest)
    setattr(module, name, module._parameters[name])  # recurrent layers keep a list of their own
