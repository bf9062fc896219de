"""How large a network may be that plain values describe."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy

from nas_gan.errors import InvalidValueError

# A size in a description: channels, pixels, classes, units of a linear layer.
MAX_SIZE = 1 << 18
MAX_PARAMETERS = 1 << 30
MAX_MODULES = 10_000
# Layers in one list of a description, and lists in lists.
MAX_ITEMS = 1_000
_DEPTH = 8


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of a network before anything is built from them.

    Raises:
        InvalidValueError: a size is above `MAX_SIZE`, or a list is longer than `MAX_ITEMS`.
    """
    for name, value in options.items():
        _check(name, value, _DEPTH)


def _check(name: str, value: Any, depth: int) -> None:
    if type(value) is int and abs(value) > MAX_SIZE:
        raise InvalidValueError(f"{name} is {str(value)[:20]}; sizes are at most {MAX_SIZE:,}")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check(f"{name} {key}", item, depth - 1)
    elif isinstance(value, list | tuple):
        if len(value) > MAX_ITEMS or not depth:
            raise InvalidValueError(
                f"{name} has {len(value):,} items; at most {MAX_ITEMS:,} are built, in at most "
                f"{_DEPTH} lists in each other"
            )
        for item in value:
            _check(name, item, depth - 1)


@contextmanager
def limited(parameters: int = MAX_PARAMETERS, modules: int = MAX_MODULES) -> Iterator[None]:
    """Stop the building of a network inside the block as soon as it is too large.

    A parameter is counted when it is registered, before anything is written to its memory.

    Raises:
        InvalidValueError: it has more than so many parameters or modules.
    """
    here, n_parameters, n_modules = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal n_parameters
        if threading.get_ident() != here or parameter is None or is_lazy(parameter):
            return
        n_parameters += parameter.numel()
        if n_parameters > parameters:
            raise InvalidValueError(
                f"the network has more than {parameters:,} parameters, of which {name} of a "
                f"{type(module).__name__} has {parameter.numel():,}; none larger is built here"
            )

    def step(module: nn.Module, name: str, child: Any) -> None:
        nonlocal n_modules
        n_modules += threading.get_ident() == here
        if n_modules > modules:
            raise InvalidValueError(
                f"the network has more than {modules:,} modules; none larger is built here"
            )

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(step),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
