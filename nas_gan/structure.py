"""Plain layers as data, and generators with some of their layers replaced.

A compressed generator is the dense one with some layers replaced by an `nn.Sequential` of ordinary
convolutions or linear maps. What they are fits into a dictionary of plain values, so that a file
can be rebuilt without knowing how the layers were found.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from nas_gan.errors import CheckpointError

_CONV = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)
_TYPES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "Conv2d": (nn.Conv2d, _CONV),
    "ConvTranspose2d": (nn.ConvTranspose2d, (*_CONV, "output_padding")),
    "Linear": (nn.Linear, ("in_features", "out_features", "bias")),
    "Identity": (nn.Identity, ()),
}


def layer_spec(module: nn.Module) -> dict[str, Any]:
    """`{"type": ..., constructor argument: value, ...}` of a plain layer, ready for JSON.

    Raises:
        CheckpointError: the layer is not exactly a Conv2d, ConvTranspose2d, Linear or Identity.
    """
    name = type(module).__name__
    if name not in _TYPES or type(module) is not _TYPES[name][0]:
        raise CheckpointError(f"cannot describe a {name} layer; only {', '.join(_TYPES)}")
    spec: dict[str, Any] = {"type": name}
    for key in _TYPES[name][1]:
        value = getattr(module, key) if key != "bias" else module.bias is not None
        spec[key] = list(value) if isinstance(value, tuple) else value
    return spec


def build_layer(spec: Mapping[str, Any]) -> nn.Module:
    """The layer that a spec describes, all weights zero until a state dict fills them.

    No random number is drawn.

    Raises:
        CheckpointError: the type is not one of ours, or its arguments do not make a layer.
    """
    kind = spec.get("type") if isinstance(spec, Mapping) else None
    if not isinstance(kind, str) or kind not in _TYPES:
        raise CheckpointError(
            f"a layer of the compressed structure is of type {kind!r}; expected {', '.join(_TYPES)}"
        )
    layer_type, keys = _TYPES[kind]
    arguments = {key: value for key, value in spec.items() if key != "type"}
    if unknown := sorted(set(arguments) - set(keys)):
        raise CheckpointError(f"{kind} of the compressed structure has unknown {unknown}")
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    for key in ("in_channels", "out_channels", "kernel_size", "in_features", "out_features"):
        sizes = arguments.get(key, 1)
        for size in sizes if isinstance(sizes, tuple) else (sizes,):
            if type(size) is not int or size < 1:
                raise CheckpointError(f"{kind} of the compressed structure has {key} {sizes!r}")
    try:
        layer = layer_type() if layer_type is nn.Identity else skip_init(layer_type, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{kind} of the compressed structure: {reason}") from error
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    return layer


def replace_modules(generator: nn.Module, modules: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of `generator` in which the layer of each dotted name is a copy of `modules[name]`.

    The generator and the modules are left alone; what was in training mode stays in it.

    Raises:
        CheckpointError: the generator has no layer of that name.
    """
    # A deep copy takes what its memo holds for an object instead of copying it, so the old weights
    # are never copied, and a layer that two parents hold is replaced in both.
    memo: dict[int, Any] = {}
    for name, module in modules.items():
        old = _submodule(generator, name)
        memo[id(old)] = copy.deepcopy(module).train(old.training)
    return copy.deepcopy(generator, memo)


def apply_structure(
    generator: nn.Module, structure: Mapping[str, Sequence[Mapping[str, Any]]]
) -> nn.Module:
    """A copy of `generator` with each named layer replaced by the plain layers of `structure`.

    Builds shapes only, on the device and in the type of the replaced layer: load the compressed
    state dict next.

    Raises:
        CheckpointError: a layer is not in the generator, or a spec is not a plain layer.
    """
    modules: dict[str, nn.Module] = {}
    for name, specs in structure.items():
        try:
            factors = nn.Sequential(*(build_layer(spec) for spec in specs))
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
        for parameter in _submodule(generator, name).parameters():
            factors.to(parameter)
            break
        modules[name] = factors
    return replace_modules(generator, modules)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule has its old mode back."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, training in modes.items():
            child.training = training


def _submodule(generator: nn.Module, name: str) -> nn.Module:
    try:
        return generator.get_submodule(name)
    except AttributeError as error:
        raise CheckpointError(f"the generator has no layer {name!r}: {error}") from error
