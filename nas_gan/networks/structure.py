"""Plain layers as data, and generators with some of their layers replaced.

A compressed generator is the dense one with some layers replaced by an `nn.Sequential` of ordinary
convolutions or linear maps, and some activations by a gate. A dictionary of plain values describes
them, so that a checkpoint can be rebuilt without knowing how the layers were found.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from nas_gan.errors import CheckpointError, InvalidValueError
from nas_gan.networks.gates import Gate
from nas_gan.networks.layer_types import LAYER_TYPES
from nas_gan.networks.limits import MAX_MODULES, MAX_PARAMETERS, limited

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
_TRANSPOSED = (*_CONV, "output_padding")
_LINEAR = ("in_features", "out_features", "bias")
# What every module keeps in attributes, such as its parameters.
_OF_TORCH = frozenset(nn.Module().__dict__)
# Constructor arguments of each class that a structure can hold, by the name of the class.
_TYPES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    **{
        known.module.__name__: (
            known.module,
            _TRANSPOSED if known.transposed else _CONV if known.n_axes else _LINEAR,
        )
        for known in LAYER_TYPES.values()
    },
    "Identity": (nn.Identity, ()),
    "Gate": (Gate, ("form",)),
}


def layer_spec(module: nn.Module) -> dict[str, Any]:
    """The description `{"type": ..., constructor argument: value, ...}` of a plain layer, for JSON.

    Raises:
        CheckpointError: The layer is not exactly a plain convolution, Linear, Identity or Gate.
    """
    name = type(module).__name__
    if name not in _TYPES or type(module) is not _TYPES[name][0]:
        raise CheckpointError(
            f"cannot describe a {name} layer; a structure holds only {', '.join(_TYPES)}"
        )
    spec: dict[str, Any] = {"type": name}
    for key in _TYPES[name][1]:
        value = module.bias is not None if key == "bias" else getattr(module, key)
        spec[key] = list(value) if isinstance(value, tuple) else value
    return spec


def build_layer(spec: Mapping[str, Any], most: int = MAX_PARAMETERS) -> nn.Module:
    """The layer that a spec describes, with zero weights until a state dict is loaded.

    It uses no random numbers.

    Args:
        spec: what `layer_spec` returned.
        most: how many parameters it may have.

    Raises:
        CheckpointError: the type is unknown, its arguments are wrong, or it is too large.
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
        with limited(most):
            # skip_init begins on no device, which takes no memory whatever the sizes are.
            layer = (
                nn.Identity() if layer_type is nn.Identity else skip_init(layer_type, **arguments)
            )
    except InvalidValueError as error:
        raise CheckpointError(f"{kind} of the compressed structure: {error}") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{kind} of the compressed structure: {reason}") from error
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    return layer


def replace_modules(generator: nn.Module, modules: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of `generator` in which the layer of each dotted name is a copy of `modules[name]`.

    If two replaced layers shared their weight, the parameters of their replacements with equal
    shapes are shared as well, with the values of the first; biases are only shared if they were.
    The generator and the modules are not changed, and neither is any module's mode.

    Raises:
        CheckpointError: The generator has no layer of this name.
    """
    copies = {
        name: copy.deepcopy(module).train(_submodule(generator, name).training)
        for name, module in modules.items()
    }
    first_with: dict[int, str] = {}  # weight -> the first name that has it
    for name, new in copies.items():
        old = _submodule(generator, name)
        weight = getattr(old, "weight", None)
        if not isinstance(weight, nn.Parameter):
            continue
        first = first_with.setdefault(id(weight), name)
        if first != name:
            first_bias = getattr(_submodule(generator, first), "bias", None)
            same_bias = first_bias is getattr(old, "bias", None)
            _share_parameters_(copies[first], new, with_bias=same_bias)
    # A deep copy uses what its memo holds for an object instead of copying it, so the old weights
    # are never copied, and a layer with two parents is replaced in both.
    memo: dict[int, Any] = {id(_submodule(generator, name)): new for name, new in copies.items()}
    return copy.deepcopy(generator, memo)


def exchange_(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` in the place of the module `old`, wherever the network holds it, in place.

    A list, tuple or dictionary that is an attribute of a module counts too. The root is not
    replaced. A module inside `new` keeps what it holds, so that `new` may contain `old`.
    """
    inside = set(new.modules())
    for parent in [module for module in network.modules() if module not in inside]:
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
        for name, value in parent.__dict__.items():
            if name in _OF_TORCH:
                continue
            if isinstance(value, list | tuple) and any(item is old for item in value):
                items = [new if item is old else item for item in value]
                if isinstance(value, list):
                    value[:] = items
                elif type(value) is tuple:
                    parent.__dict__[name] = tuple(items)
            elif isinstance(value, dict) and any(item is old for item in value.values()):
                value.update({key: new for key, item in value.items() if item is old})


def _share_parameters_(source: nn.Module, target: nn.Module, with_bias: bool) -> None:
    """Give the target the source's parameters of the same name and shape."""
    for ours, theirs in zip(source.modules(), target.modules(), strict=False):
        for name, parameter in ours.named_parameters(recurse=False):
            other = getattr(theirs, name, None)
            shareable = isinstance(other, Tensor) and other.shape == parameter.shape
            if shareable and (name != "bias" or with_bias):
                setattr(theirs, name, parameter)


def weight_sharers(generator: nn.Module, name: str) -> tuple[str, ...]:
    """The layers with the weight of layer `name`, of its type and number of groups.

    They are in the order of `named_modules` and include the layer itself. A module with several
    names is listed once, under its first.
    """
    module = _submodule(generator, name)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter):
        return (name,)
    groups = getattr(module, "groups", 1)
    return tuple(
        other
        for other, candidate in generator.named_modules()
        if type(candidate) is type(module)
        and getattr(candidate, "weight", None) is weight
        and getattr(candidate, "groups", 1) == groups
    )


def apply_structure(
    generator: nn.Module,
    structure: Mapping[str, Sequence[Mapping[str, Any]]],
    most: int = MAX_PARAMETERS,
) -> nn.Module:
    """A copy of `generator` with each named layer replaced by the plain layers of `structure`.

    Only shapes are built, on the device and with the type of the replaced layer: load the
    compressed state dict next.

    Args:
        generator: The dense network; it is not changed.
        structure: The plain layers by the name of the layer that they replace.
        most: How many parameters the new layers may have in all.

    Raises:
        CheckpointError: A layer is not in the generator, a description is not of a plain layer, or
            there are more layers or parameters than may be built.
    """
    modules: dict[str, nn.Module] = {}
    n_layers = 0
    for name, specs in structure.items():
        if not name or not isinstance(specs, list | tuple):
            raise CheckpointError(f"{name!r}: a compressed layer is a list of plain layers")
        _submodule(generator, name)
        n_layers += len(specs)
        if n_layers > MAX_MODULES:
            raise CheckpointError(f"the compressed structure has over {MAX_MODULES:,} layers")
        try:
            layers = []
            for spec in specs:
                layers.append(build_layer(spec, most))
                most -= sum(p.numel() for p in layers[-1].parameters())
            factors = nn.Sequential(*layers)
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
        for parameter in _submodule(generator, name).parameters():
            factors.to(parameter)
            break
        modules[name] = factors
    return replace_modules(generator, modules)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule is back in its old mode."""
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
    except (AttributeError, TypeError) as error:
        raise CheckpointError(f"the generator has no layer {name!r}: {error}") from error
