"""Finding out how a network is called, by calling it.

A checkpoint holds weights and says nothing of the network's inputs. They are found from the
signature of its `forward`, from its attributes and from its first layer; each guess is tried on two
rows, and the first that gives images is taken. What cannot be told is asked for.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.adapting import (
    call_arguments,
    describe_output,
    laid_out,
    native_inputs,
    pick_output,
)
from nas_gan.networks.interface import (
    IMAGE_RANGE,
    Calling,
    Distribution,
    GeneratorInterface,
    InputRows,
    LabelForm,
    OutputForm,
    n_classes_of,
    says_its_interface,
)
from nas_gan.networks.latents import latents_of
from nas_gan.networks.layer_types import Conv, Transposed
from nas_gan.networks.randomness import fixed_random_numbers
from nas_gan.networks.structure import evaluating

# Attributes under which networks keep the dimension of their noise and the number of classes.
LATENT_NAMES = (
    "latent_dim", "z_dim", "nz", "dim_z", "latent_size", "noise_dim", "z_size", "zdim", "n_z",
    "dim_latent", "noise_size", "input_dim", "nlatent", "style_dim",
)  # fmt: skip
CLASS_NAMES = (
    "n_classes", "num_classes", "n_class", "num_class", "nclass", "nclasses", "class_num",
    "number_of_classes", "c_dim", "label_dim",
)  # fmt: skip
# Arguments of a `forward` that draws noise of its own, and the values that make it draw none.
QUIET = {"randomize_noise": False, "noise_mode": "const", "force_fp32": True}
# Stands for the shape of images that nobody has seen yet.
UNKNOWN_IMAGES = (1, 1, 1)
# Smaller maps are not images, and images have one colour or three.
MIN_SIDE = 4
CHANNELS = (1, 3)
# Rows on which the range of the images is looked at.
N_LOOKED_AT = 16
# By how much images may leave their range, relative to its width: many networks end in no tanh.
MARGIN = 0.05


@dataclass(frozen=True)
class InterfaceHints:
    """What the user says of a network's interface; None is to be found.

    Attributes:
        latent_shape: the shape of its noise, such as `(100, 1, 1)`.
        latents: the distribution of its noise.
        n_classes: the number of its classes; 0 for a network that takes no labels.
        label_form: how it takes labels.
        inputs: its inputs, if it takes images.
        input_range: the values of black and white of its input images.
        output: the index or the key of the images if it returns several things.
        output_range: the values of black and white of its images.
        options: further arguments of its `forward`, by keyword.
    """

    n_classes: int | None
    latent_shape: tuple[int, ...] | None = None
    latents: Distribution = "normal"
    label_form: Literal["index", "onehot"] | None = None
    inputs: InputRows | None = None
    input_range: tuple[float, float] | None = None
    output: int | str | None = None
    output_range: tuple[float, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


NOTHING = InterfaceHints(n_classes=None)


def find_interface(network: nn.Module, hints: InterfaceHints = NOTHING) -> GeneratorInterface:
    """The interface of a network that does not say it; the network is not changed.

    Args:
        network: the network, with its weights, in any mode.
        hints: what the user says of it.

    Returns:
        Its interface. Its `calling` is None if the network has a `latent_dim`, as ours do, and is
        called with rows as it is.

    Raises:
        InvalidValueError: no way of calling it gives images, or something about them cannot be
            told; the message says what was tried and which setting decides.
    """
    parameters = _parameters_of(network, hints.options)
    with evaluating(network):
        found = _first_that_works(network, parameters, hints)
        interface = _interface(found, hints)
        random = _is_random(network, interface)
        images = _images_of(network, interface)
    low_high = hints.output_range or _range_of(images, network)
    calling = replace(found.calling, output_range=low_high, random=random)
    # A network that says its interface is one of ours; others keep the names of their inputs.
    ours = says_its_interface(network) and calling.is_ours(interface.row_shape)
    return replace(interface, calling=None if ours else calling)


@dataclass(frozen=True)
class _Found:
    """A way to call the network that gives images."""

    calling: Calling
    image_shape: tuple[int, int, int]
    n_classes: int


@dataclass(frozen=True)
class _Parameters:
    """The parameters of a `forward`: those that it needs, and those that it may take."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]

    def options(self, given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """Those given, and those that make it draw no noise of its own."""
        quiet = {name: value for name, value in QUIET.items() if name in self.optional}
        return tuple({**quiet, **given}.items())


def _parameters_of(network: nn.Module, given: Mapping[str, Any]) -> _Parameters:
    needed: list[str] = []
    optional: list[str] = []
    for parameter in inspect.signature(network.forward).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in given:
            continue
        missing = parameter.default is parameter.empty
        (needed if missing else optional).append(parameter.name)
    if not needed:  # forward(*inputs) and forward(z=None)
        needed, optional = (optional[:1], optional[1:]) if optional else (["input"], [])
    if len(needed) > 2:
        raise InvalidValueError(
            f"{type(network).__name__}.forward needs {len(needed)} inputs ({', '.join(needed)}); "
            "noise or an image, and a label, are what can be given. Give the others as "
            "forward_args, or build a module that fills them in",
            setting="model",
        )
    return _Parameters(tuple(needed), tuple(optional))


def _first_that_works(network: nn.Module, parameters: _Parameters, hints: InterfaceHints) -> _Found:
    failures: dict[str, list[str]] = {}  # what was answered, to what
    for calling, n_classes in _ways(network, parameters, hints):
        tried = _interface(_Found(calling, UNKNOWN_IMAGES, n_classes), hints)
        rows = _rows(tried, 2, network)
        shown = _shown(native_inputs(tried, rows))
        try:
            output = _call(network, tried, rows)
        except Exception as error:  # a network of somebody else may raise anything
            if not calling.listed:  # a list is the last resort, and its failure tells nothing new
                failures.setdefault(_first_line(error), []).append(shown)
            continue
        try:
            which = hints.output if hints.output is not None else _which(output)
            form, shape = _form_of(pick_output(output, which), len(rows))
        except _NotImages as error:
            failures.setdefault(str(error), []).append(shown)
            continue
        return _Found(replace(calling, output=which, output_form=form), shape, n_classes)
    name = type(network).__name__
    if not failures and _takes_images(network):
        raise InvalidValueError(
            f"are missing: the first layer of {name} takes images; give a folder of images or an "
            ".npy file, or the shape of its noise",
            setting="inputs",
        )
    if not failures:
        raise InvalidValueError(
            f"cannot be told: {name} has no layer that says it; give the shape of its noise, such "
            "as 100,1,1",
            setting="latent_shape",
        )
    answers = [f"{' or '.join(rows)}: {answer}" for answer, rows in failures.items()]
    more = f" (and {len(answers) - 2} more)" if len(answers) > 2 else ""
    verdict = "do not fit" if hints.inputs is not None else "cannot be told"
    if hints.latent_shape is not None:
        verdict = "does not fit"
    raise InvalidValueError(
        f"{verdict}: {name} gave no images for {'; '.join(answers[:2])}{more}. Give the "
        "shape of its noise, or its input images",
        setting="inputs" if hints.inputs is not None else "latent_shape",
    )


def _takes_images(network: nn.Module) -> bool:
    layers = (m for m in network.modules() if isinstance(m, nn.Linear | Conv | Transposed))
    first = next(layers, None)
    return isinstance(first, Conv) and first.in_channels in CHANNELS


def _ways(
    network: nn.Module, parameters: _Parameters, hints: InterfaceHints
) -> Iterator[tuple[Calling, int]]:
    """Ways to call the network, the likeliest first, each with the number of classes."""
    needed, options = parameters.needed, parameters.options(hints.options)
    if len(needed) == 2 and hints.n_classes == 0:
        raise InvalidValueError(
            f"is 0, but {type(network).__name__}.forward needs {needed[1]} as well",
            setting="classes",
        )
    if hints.inputs is not None:
        as_bytes = hints.input_range or IMAGE_RANGE
        given = None if hints.inputs.as_they_are else as_bytes
        yield Calling(needed[:1], hints.inputs.shape, input_range=given, options=options), 0
        return
    used, forms, n_classes = needed, cast("tuple[LabelForm, ...]", ("none",)), 0
    if len(needed) == 2:
        n_classes, forms = _classes_of(network, hints, needed[1]), ("index", "onehot")
    elif hints.n_classes or (says_its_interface(network) and n_classes_of(network)):
        n_classes, forms = hints.n_classes or n_classes_of(network), ("index", "onehot")
        used = (*needed, *parameters.optional)[:2]
        if len(used) == 1:
            forms = ("joined",)
    if n_classes and hints.label_form:
        forms = (hints.label_form,)
    shapes = [hints.latent_shape] if hints.latent_shape else list(_latent_shapes(network))
    if forms == ("joined",):
        # The sizes that are known may be those of the noise, or of the noise and the label.
        of_noise = dict.fromkeys(
            size for shape in shapes for size in (shape[0], shape[0] - n_classes)
        )
        shapes = [(size + n_classes,) for size in of_noise if size > 0]
    for listed in (False, True):
        for shape in shapes:
            for form in forms:
                yield Calling(used, shape, form, listed, options=options), n_classes


def _classes_of(network: nn.Module, hints: InterfaceHints, name: str) -> int:
    if hints.n_classes:
        return hints.n_classes
    for attribute in CLASS_NAMES:
        found = _int_attribute(network, attribute)
        if found is not None and found > 1:
            return found
    sizes = {
        module.num_embeddings for module in network.modules() if isinstance(module, nn.Embedding)
    }
    if len(sizes) == 1:
        return sizes.pop()
    embedded = ", ".join(map(str, sorted(sizes)))
    why = f"its embeddings have {embedded}" if sizes else "none of its layers is an embedding"
    raise InvalidValueError(
        f"cannot be told: {type(network).__name__}.forward takes {name}, and {why}; give the "
        "number of classes",
        setting="classes",
    )


def _latent_shapes(network: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes that the noise may have, by the network's attributes and its first layers.

    Vectors come first: a network that reshapes them takes maps of one pixel as well.
    """
    sizes = [_int_attribute(network, name) for name in LATENT_NAMES]
    maps = list(sizes)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | Conv | Transposed)]
    for layer in layers[:1]:
        if isinstance(layer, Conv | Transposed) and layer.in_channels not in CHANNELS:
            sizes.append(layer.in_channels)
            maps.append(layer.in_channels)
    sizes += [layer.in_features for layer in layers if isinstance(layer, nn.Linear)][:1]
    yield from dict.fromkeys((size,) for size in sizes if size)
    yield from dict.fromkeys((size, 1, 1) for size in maps if size)


def _int_attribute(network: nn.Module, name: str) -> int | None:
    found = getattr(network, name, None)
    return found if type(found) is int and found > 0 else None


def _rows(interface: GeneratorInterface, n: int, network: nn.Module) -> Tensor:
    """Rows of latents on the network's device."""
    like = next(network.parameters(), torch.empty(0))
    return latents_of(interface, n, seed=0).to(like.device)


def _call(network: nn.Module, interface: GeneratorInterface, rows: Tensor) -> Any:
    """What the network itself returns for rows."""
    inputs, options = call_arguments(interface, rows)
    return network(*inputs, **options)


class _NotImages(Exception):
    """What the network returned is not images."""


def _which(output: Any) -> int | str | None:
    """The index or the key of the only images among the outputs; None if there is one output."""
    if isinstance(output, Tensor):
        return None
    items: list[tuple[int | str, Any]]
    if isinstance(output, Mapping):
        items = list(output.items())
    elif isinstance(output, list | tuple):
        items = list(enumerate(output))
    elif is_dataclass(output):
        items = [(f.name, getattr(output, f.name)) for f in fields(output)]
    else:
        raise _NotImages(f"it returns {describe_output(output)}")
    images = [
        key
        for key, value in items
        if isinstance(value, Tensor)
        and value.ndim == 4
        and (value.shape[1] in CHANNELS or value.shape[3] in CHANNELS)
        and min(sorted(value.shape[1:])[1:]) >= MIN_SIDE
    ]
    if len(images) == 1:
        return images[0]
    if not images:
        raise _NotImages(f"it returns {describe_output(output)}, none of which is images")
    raise InvalidValueError(
        f"must say which images are meant: the network returns {describe_output(output)}",
        setting="output",
    )


def _form_of(images: Tensor, n: int) -> tuple[OutputForm, tuple[int, int, int]]:
    """The layout of images and their shape `(c, h, w)`."""
    shape = tuple(images.shape)
    described = f"it returns a tensor of shape {shape}"
    if not images.is_floating_point():
        raise _NotImages(f"it returns {images.dtype}")
    if not shape or shape[0] != n:
        raise _NotImages(f"{described} for {n} rows")
    if len(shape) == 2:
        for channels in CHANNELS:
            side = math.isqrt(shape[1] // channels)
            if side >= MIN_SIDE and channels * side * side == shape[1]:
                return "flat", (channels, side, side)
        raise _NotImages(described)
    if len(shape) == 3:
        form, found = "nhw", (1, *shape[1:])
    elif len(shape) == 4 and shape[1] in CHANNELS:
        form, found = "nchw", shape[1:]
    elif len(shape) == 4 and shape[3] in CHANNELS:
        form, found = "nhwc", (shape[3], *shape[1:3])
    else:
        raise _NotImages(f"{described}; images (n, c, h, w) have 1 or 3 channels")
    if min(found[1:]) < MIN_SIDE:
        raise _NotImages(f"{described}, which is too small to be images")
    return cast("OutputForm", form), cast("tuple[int, int, int]", found)


def _interface(found: _Found, hints: InterfaceHints) -> GeneratorInterface:
    takes_images = hints.inputs is not None
    behind = found.n_classes if found.calling.label_form == "joined" else 0
    return GeneratorInterface(
        0 if takes_images else math.prod(found.calling.input_shape) - behind,
        found.n_classes,
        found.image_shape,
        hints.latents,
        found.calling,
        found.calling.input_shape if takes_images else None,
        hints.inputs,
    )


def _drawn(network: nn.Module, interface: GeneratorInterface, rows: Tensor) -> Tensor:
    """Images `(n, c, h, w)` in the network's own range of values."""
    calling = cast("Calling", interface.calling)
    output = _call(network, interface, rows)
    return laid_out(pick_output(output, calling.output), interface, calling).float()


def _images_of(network: nn.Module, interface: GeneratorInterface) -> Tensor:
    """Some of the network's images, on the CPU."""
    batches = _rows(interface, N_LOOKED_AT, network).split(2)
    with fixed_random_numbers(network):
        return torch.cat([_drawn(network, interface, rows).cpu() for rows in batches])


def _is_random(network: nn.Module, interface: GeneratorInterface) -> bool:
    """Whether two passes over the same rows differ by more than rounding."""
    rows = _rows(interface, 2, network)
    first, second = (_drawn(network, interface, rows) for _ in range(2))
    scale = float(first.abs().max()) or 1.0
    return not bool((first - second).abs().max() <= 1e-5 * scale)


def _range_of(images: Tensor, network: nn.Module) -> tuple[float, float]:
    """The range of the images' values, by the values and by the last activation."""
    if not images.isfinite().all():
        raise InvalidValueError(
            "cannot be told: the images of the network hold a NaN or an infinity; are the weights "
            "sound, and is the network the one that they were trained in?",
            setting="output_range",
        )
    # Outliers of a few pixels decide nothing: networks without a tanh overshoot.
    low, high = (float(torch.quantile(_some(images), q)) for q in (0.001, 0.999))
    last = [m for m in network.modules() if isinstance(m, nn.Tanh | nn.Sigmoid)]
    ends_in = type(last[-1]) if last else None
    fits = {
        bounds: low >= bounds[0] - slack and high <= bounds[1] + slack
        for bounds in ((0.0, 1.0), IMAGE_RANGE, (0.0, 255.0))
        for slack in [MARGIN * (bounds[1] - bounds[0])]
    }
    if low < -MARGIN:
        if low >= -2 and high <= 2:
            return IMAGE_RANGE
    elif high <= 1 + MARGIN:
        tanh = ends_in is nn.Tanh and fits[IMAGE_RANGE]
        return IMAGE_RANGE if tanh else (0.0, 1.0)
    elif high <= 1.5:
        return (0.0, 1.0)
    if high > 16 and fits[0.0, 255.0]:
        return (0.0, 255.0)
    raise InvalidValueError(
        f"cannot be told: the pixels of {len(images)} images lie between {low:.3g} and "
        f"{high:.3g}; give the values of black and white, such as -1,1 or 0,255",
        setting="output_range",
    )


def _some(images: Tensor, most: int = 1_000_000) -> Tensor:
    """At most so many pixels, evenly spaced; `torch.quantile` refuses large tensors."""
    flat = images.flatten()
    return flat[:: max(1, len(flat) // most)]


def _shown(rows: Sequence[Tensor]) -> str:
    return " and ".join(str(tuple(row.shape)) for row in rows)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
