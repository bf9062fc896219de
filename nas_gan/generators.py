"""Generators from files, ready to be called with rows of latents, whoever wrote them.

`GeneratorOptions` are the options of every command that takes a checkpoint, and `open_generator`
is the one way from a checkpoint and these options to a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn

from nas_gan.builders import import_builder, parse_arguments
from nas_gan.checkpoint import EXTERNAL_KIND, Checkpoint, build_generator, load_checkpoint
from nas_gan.data.inputs import StoredInputs, open_inputs
from nas_gan.errors import InvalidValueError, named
from nas_gan.networks.adapting import adapt_, call_arguments
from nas_gan.networks.finding import InterfaceHints, find_interface
from nas_gan.networks.interface import (
    Distribution,
    GeneratorInterface,
    interface_from_dict,
    interface_of,
)
from nas_gan.networks.latents import latents_of
from nas_gan.networks.layer_types import Conv
from nas_gan.networks.normal_form import normalize_
from nas_gan.panels import GENERATOR


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """How a generator of your own is built and called; what is not given is found."""

    model: Annotated[str | None, GENERATOR] = None
    """What builds the network of a state dict: package.module:build or path/to/file.py:Class."""
    model_args: Annotated[str | None, GENERATOR] = None
    """Arguments of that builder as JSON, such as '{"ngf": 64}'; @FILE reads them from a file."""
    state_key: Annotated[str | None, GENERATOR] = None
    """Key of the generator's weights in the checkpoint, such as netG or state_dict.generator."""
    latent_shape: Annotated[str | None, GENERATOR] = None
    """Shape of the noise of one image, such as 128 or 100,1,1."""
    latent: Annotated[Distribution | None, GENERATOR] = None
    """Distribution of the noise: normal, uniform (in [-1, 1]) or truncated (normal, at most 2);
    normal if nothing says otherwise."""
    classes: Annotated[int | None, GENERATOR] = None
    """Number of classes of a conditional generator."""
    label_input: Annotated[Literal["index", "onehot"] | None, GENERATOR] = None
    """How the network takes labels: as whole numbers or as one-hot rows."""
    inputs: Annotated[Path | None, GENERATOR] = None
    """Inputs of a network that takes images: a folder of them, or an .npy file."""
    input_size: Annotated[str | None, GENERATOR] = None
    """Height and width to which these images are scaled and cropped, such as 256x256, if they are
    of several sizes."""
    input_range: Annotated[str | None, GENERATOR] = None
    """Values of black and white that the network expects: -1,1 by default, or 0,1 or 0,255."""
    output: Annotated[str | None, GENERATOR] = None
    """Index or key of the images if the network returns several things, such as 0 or sample."""
    output_range: Annotated[str | None, GENERATOR] = None
    """Values of black and white in the network's images, such as -1,1 or 0,255."""
    forward_args: Annotated[str | None, GENERATOR] = None
    """Further arguments of the network's forward as JSON, such as '{"truncation": 0.7}'."""

    def given(self) -> dict[str, Any]:
        """The options of this class that were given, by name."""
        values = {name: getattr(self, name) for name in GeneratorOptions.__dataclass_fields__}
        return {name: value for name, value in values.items() if value is not None}


# What a checkpoint that describes its own network leaves open.
_ALWAYS = ("model", "model_args", "state_key")


@dataclass(frozen=True)
class OpenedGenerator:
    """A generator and where it comes from.

    Attributes:
        checkpoint: the checkpoint; that of a foreign network says how it is called.
        generator: the network in evaluation mode on its device, called with rows.
        interface: what it takes and returns.
        changes: what was done to the network so that it consists of plain layers, in lines.
    """

    checkpoint: Checkpoint
    generator: nn.Module
    interface: GeneratorInterface
    changes: tuple[str, ...] = ()

    def remarks(self) -> Iterator[str]:
        """What was found, in lines for a person; none for a generator of this toolkit."""
        weights = self.checkpoint.provenance.get("weights")
        if isinstance(weights, str):
            yield f"weights: {weights}"
        if self.interface.calling is not None:
            yield f"interface: {describe_interface(self.interface)}"
            yield from _doubts(self.interface)
        yield from self.changes


def open_generator(
    path: Path,
    options: GeneratorOptions,
    *,
    device: str = "cpu",
    known: GeneratorInterface | None = None,
) -> OpenedGenerator:
    """Load a checkpoint, build its network and find its interface.

    Args:
        path: the checkpoint, or the name of a shipped one.
        options: how a network that the file does not describe is built and called.
        device: where the generator runs.
        known: its interface, if another generator of the same network has been opened.

    Raises:
        NasGanError: the file cannot be read, its network cannot be built, or its interface cannot
            be told; the message says which option decides.
    """
    checkpoint = load_checkpoint(path, state_key=options.state_key)
    return generator_of(checkpoint, path, options, device=device, known=known)


def generator_of(
    checkpoint: Checkpoint,
    path: Path,
    options: GeneratorOptions,
    *,
    device: str = "cpu",
    known: GeneratorInterface | None = None,
) -> OpenedGenerator:
    """What `open_generator` does with the checkpoint that it has loaded from `path`."""
    generator = build_generator(checkpoint, _builder(options)).to(device).requires_grad_(False)
    saved = checkpoint.architecture.get("interface")
    if checkpoint.architecture.get("kind") != EXTERNAL_KIND and options.model is None:
        _refuse_options(options, path)
        return OpenedGenerator(checkpoint, generator, interface_of(generator))
    if known is None and saved is not None:
        known = interface_from_dict(saved)
    interface = _interface(generator, options, known)
    form, changes = _normalized(generator, interface, checkpoint)
    described = {
        "kind": EXTERNAL_KIND,
        **{name: value for name, value in options.given().items() if name in _ALWAYS[:2]},
        "interface": interface.to_dict(),
        "normal_form": form,
    }
    checkpoint = replace(checkpoint, architecture={**checkpoint.architecture, **described})
    return OpenedGenerator(checkpoint, adapt_(generator, interface), interface, changes)


def _normalized(
    network: nn.Module, interface: GeneratorInterface, checkpoint: Checkpoint
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Bring the network into normal form, in place, unless its checkpoint was made in it.

    Returns:
        The form as plain values, and what was changed, in lines.
    """
    saved = checkpoint.architecture.get("normal_form")
    if saved is not None or (interface.takes_images and interface.inputs is None):
        return saved or {}, ()
    like = next(network.parameters(), torch.empty(0))
    inputs, more = call_arguments(interface, latents_of(interface, 2, seed=0).to(like.device))
    form, left = normalize_(network, inputs, more)
    lines = []
    if form.folded:
        lines.append(f"folded: the computed weights of {named(form.folded, 4)}")
    if form.rewritten:
        lines.append(f"rewritten as plain layers: {named(form.rewritten, 4)}")
    return form.to_dict(), (*lines, *left)


def _builder(options: GeneratorOptions) -> Callable[[], nn.Module] | None:
    if options.model is None:
        if options.model_args is not None:
            raise InvalidValueError(
                "are arguments of a builder; say which, as package.module:build",
                setting="model_args",
            )
        return None
    arguments = {} if options.model_args is None else parse_arguments(options.model_args)
    return import_builder(options.model, arguments)


def _refuse_options(options: GeneratorOptions, path: Path) -> None:
    if needless := [name for name in options.given() if name not in _ALWAYS]:
        raise InvalidValueError(
            f"is for networks of your own; {path} describes its network, and how it is called",
            setting=needless[0],
        )


def _interface(
    network: nn.Module, options: GeneratorOptions, known: GeneratorInterface | None
) -> GeneratorInterface:
    """The interface that is known, unless the options say otherwise; else the one that is found."""
    hints = hints_of(options, network)
    told = {name for name in options.given() if name not in (*_ALWAYS, "inputs", "input_size")}
    if known is not None and not told:
        if not known.takes_images or hints.inputs is None:
            return known
        if known.input_shape == hints.inputs.shape:
            return replace(known, inputs=hints.inputs)
        hints = _remembered(hints, known)
    return find_interface(network, hints)


def _remembered(hints: InterfaceHints, known: GeneratorInterface) -> InterfaceHints:
    """The hints for inputs of another size than those with which the interface was found."""
    calling = known.calling
    if calling is None:
        return hints
    return replace(
        hints,
        input_range=calling.input_range,
        output=calling.output,
        output_range=calling.output_range,
        options=dict(calling.options),
    )


def hints_of(options: GeneratorOptions, network: nn.Module) -> InterfaceHints:
    """What the options say of the interface of a network.

    Raises:
        InvalidValueError: an option cannot be read, or two contradict each other.
    """
    inputs: StoredInputs | None = None
    if options.inputs is not None:
        for name in ("latent_shape", "latent", "classes", "label_input"):
            if getattr(options, name) is not None:
                raise InvalidValueError(
                    "is for networks that take noise, and inputs are for networks that take "
                    "images; leave one of them out",
                    setting=name,
                )
        size = None if options.input_size is None else _size(options.input_size)
        inputs = open_inputs(options.inputs, channels=_input_channels(network), size=size)
    output = options.output
    return InterfaceHints(
        options.classes,
        None if options.latent_shape is None else _shape(options.latent_shape),
        options.latent or "normal",
        options.label_input,
        inputs,
        None if options.input_range is None else _range(options.input_range, "input_range"),
        int(output) if output is not None and output.lstrip("-").isdecimal() else output,
        None if options.output_range is None else _range(options.output_range, "output_range"),
        {} if options.forward_args is None else parse_arguments(options.forward_args),
    )


def _input_channels(network: nn.Module) -> int:
    first = next((module for module in network.modules() if isinstance(module, Conv)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def _shape(text: str) -> tuple[int, ...]:
    sizes = _numbers(text)
    if sizes is None or not 1 <= len(sizes) <= 4 or min(sizes) < 1:
        raise InvalidValueError(
            f"must be sizes such as 128 or 100,1,1; got {text!r}", setting="latent_shape"
        )
    return sizes


def _size(text: str) -> tuple[int, int]:
    sizes = _numbers(text)
    if sizes is not None and len(sizes) == 1:
        sizes = sizes * 2
    if sizes is None or len(sizes) != 2 or not 1 <= min(sizes) <= max(sizes) <= 16384:
        raise InvalidValueError(
            f"must be height and width, such as 256x256; got {text!r}", setting="input_size"
        )
    return sizes[0], sizes[1]


def _numbers(text: str) -> tuple[int, ...] | None:
    parts = text.strip().strip("()[]").replace("x", ",").replace("×", ",").split(",")
    parts = [part.strip() for part in parts if part.strip()]
    if not parts or not all(
        part.isascii() and part.isdecimal() and len(part) < 7 for part in parts
    ):
        return None
    return tuple(int(part) for part in parts)


def _range(text: str, setting: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.strip().strip("()[]").split(","))
        if not -1e6 <= low < high <= 1e6:
            raise ValueError
    except ValueError as error:
        raise InvalidValueError(
            f"must be the values of black and white, such as -1,1 or 0,255; got {text!r}",
            setting=setting,
        ) from error
    return low, high


def describe_interface(interface: GeneratorInterface) -> str:
    """What a generator takes and returns, on one line for a person."""
    calling, (channels, height, width) = interface.calling, interface.image_shape
    low, high = (-1.0, 1.0) if calling is None else calling.output_range
    images = f"images {channels}x{height}x{width} in [{low:g}, {high:g}]"
    if interface.takes_images:
        shape = "x".join(map(str, interface.input_shape or ()))
        given = None if calling is None else calling.input_range
        scaled = "" if given is None else f" in [{given[0]:g}, {given[1]:g}]"
        taken = f"inputs {shape}{scaled}"
    else:
        sizes = (interface.latent_dim,) if calling is None else calling.input_shape
        taken = f"{interface.latents} noise {'x'.join(map(str, sizes))}"
        if interface.conditional:
            forms = {"index": "whole numbers", "onehot": "one-hot", "joined": "one-hot behind it"}
            form = "one-hot behind it" if calling is None else forms[calling.label_form]
            taken += f", labels of {interface.n_classes} classes ({form})"
    which = "" if calling is None or calling.output is None else f" (output {calling.output!r})"
    return f"{taken} to {images}{which}"


def _doubts(interface: GeneratorInterface) -> Iterator[str]:
    calling = interface.calling
    if calling is None:
        return
    if calling.options:
        shown = ", ".join(f"{name}={value}" for name, value in calling.options)
        yield f"interface: forward is called with {shown}"
    if calling.random:
        yield (
            "hint: the network draws random numbers in evaluation mode; they are the same in every "
            "batch here, but an exported graph draws its own"
        )
    if interface.inputs is not None:
        parts = {part: interface.inputs.count(part) for part in ("search", "held_out")}
        yield (
            f"inputs: {interface.inputs.name}; {parts['search']} for the search, "
            f"{parts['held_out']} held out to judge it"
        )
