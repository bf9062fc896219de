"""Networks with an interface of their own, called like any other generator.

An adapted network stays the module that it was, with the names of its own layers and weights: two
hooks turn rows of latents into what its `forward` takes, and what it returns into images in
[-1, 1]. `native` is the way back, for an export in the network's own terms.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.conditional import labels_of
from nas_gan.networks.interface import HELD, Calling, GeneratorInterface, interface_of
from nas_gan.networks.randomness import fixed_random_numbers


def adapt_(network: nn.Module, interface: GeneratorInterface) -> nn.Module:
    """Let a network be called with rows, in place; returns the network.

    Args:
        network: the network, which is called as `interface.calling` says.
        interface: what it takes and returns.
    """
    setattr(network, HELD, interface)
    if interface.calling is not None:
        adapter = _Adapter(interface, interface.calling)
        network.register_forward_pre_hook(adapter.before, with_kwargs=True)
        network.register_forward_hook(adapter.after, always_call=True)
    return network


def native_inputs(interface: GeneratorInterface, rows: Tensor) -> tuple[Tensor, ...]:
    """What a network's own `forward` takes for rows `(n, *row_shape)`: noise or input, and label.

    A network that is called with rows, which has no `Calling`, gets its noise and, if it is
    conditional, labels `(n,)`.
    """
    if interface.calling is None:
        if not interface.conditional:
            return (rows,)
        return rows[:, : interface.latent_dim], labels_of(rows, interface.n_classes)
    return _native_inputs(interface, interface.calling, rows)


def _native_inputs(
    interface: GeneratorInterface, calling: Calling, rows: Tensor
) -> tuple[Tensor, ...]:
    if interface.takes_images:
        if calling.input_range is None:
            return (rows,)
        low, high = calling.input_range
        return (rows.float() * ((high - low) / 255) + low,)
    if calling.label_form == "joined":
        return (rows,)
    noise = rows[:, : interface.latent_dim].reshape(-1, *calling.input_shape)
    if calling.label_form == "none":
        return (noise,)
    if calling.label_form == "index":
        return noise, labels_of(rows, interface.n_classes)
    return noise, rows[:, interface.latent_dim :]


def call_arguments(
    interface: GeneratorInterface, rows: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments of a network's own `forward` for rows."""
    native = native_inputs(interface, rows)
    calling = interface.calling
    if calling is None:
        return (rows,), {}
    given = ([native[0]], *native[1:]) if calling.listed else native
    return given, dict(calling.options)


def pick_output(output: Any, which: int | str | None) -> Tensor:
    """The images among what a network returned.

    Raises:
        InvalidValueError: there is nothing at that index or key, or it is not a tensor.
    """
    found = output
    if which is not None:
        try:
            known = isinstance(output, Mapping | list | tuple)
            found = output[which] if known else getattr(output, str(which))
        except (LookupError, TypeError, AttributeError) as error:
            raise InvalidValueError(
                f"{which!r} is not there: the network returns {describe_output(output)}",
                setting="output",
            ) from error
    if not isinstance(found, Tensor):
        raise InvalidValueError(
            f"must name a tensor of images: the network returns {describe_output(output)}",
            setting="output",
        )
    return found


def describe_output(output: Any) -> str:
    """The type and the shapes of what a network returned, for a message."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        items = list(output.items())
    elif isinstance(output, list | tuple):
        items = list(enumerate(output))
    else:
        return f"a {type(output).__name__}"
    shown = [
        f"{key}: {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for key, value in items
    ]
    return f"a {type(output).__name__} of {len(shown)} ({', '.join(shown[:8])})"


def laid_out(images: Tensor, interface: GeneratorInterface, calling: Calling) -> Tensor:
    """A network's images as `(n, c, h, w)`, in its own range of values."""
    if calling.output_form == "nhwc":
        return images.permute(0, 3, 1, 2)
    if calling.output_form == "nhw":
        return images.unsqueeze(1)
    if calling.output_form == "flat":
        return images.reshape(-1, *interface.image_shape)
    return images


@dataclass(eq=False)
class _Adapter:
    """The two hooks of an adapted network."""

    interface: GeneratorInterface
    calling: Calling
    _fixed: list[ExitStack] = field(default_factory=list)

    def before(
        self, network: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        wanted = self.interface.row_shape
        rows = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Tensor) else None
        # Inputs that are given may be of another size than those that the interface was found with.
        fits = rows is not None and (self.interface.takes_images or rows.shape[1:] == wanted)
        if rows is None or not fits:
            raise InvalidValueError(
                f"{type(network).__name__} is adapted: call it with one tensor of rows "
                f"(n, {', '.join(map(str, wanted))})"
            )
        if self.calling.random:
            self._fixed.append(ExitStack())
            self._fixed[-1].enter_context(fixed_random_numbers(network))
        arguments, more = call_arguments(self.interface, rows)
        return arguments, {**options, **more}

    def after(self, network: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        if self._fixed:
            self._fixed.pop().close()
        if output is None:  # the network raised an error
            return None
        images = laid_out(pick_output(output, self.calling.output), self.interface, self.calling)
        low, high = self.calling.output_range
        return images if (low, high) == (-1, 1) else (images - low) * (2 / (high - low)) - 1


class Native(nn.Module):
    """A network in its own terms: its own inputs, and its images `(n, c, h, w)` in its own range.

    It can be traced and exported.
    """

    def __init__(self, network: nn.Module, interface: GeneratorInterface, calling: Calling) -> None:
        super().__init__()
        self.network, self.interface, self.calling = network, interface, calling

    def forward(self, first: Tensor, label: Tensor | None = None) -> Tensor:
        given = [first] if self.calling.listed else first
        inputs = (given,) if label is None else (given, label)
        output = self.network(*inputs, **dict(self.calling.options))
        images = pick_output(output, self.calling.output)
        return laid_out(images, self.interface, self.calling)


def native(generator: nn.Module) -> Native | None:
    """A copy of an adapted network in its own terms; None if it is called with rows."""
    interface = interface_of(generator)
    if interface.calling is None:
        return None
    network = copy.deepcopy(generator)
    for hooks in (network._forward_pre_hooks, network._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), _Adapter):
                del hooks[key]
    network._forward_hooks_always_called.clear()
    return Native(network, interface, interface.calling)
