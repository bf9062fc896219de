"""What a generator takes and returns, as one value.

In this package a generator is called with one tensor of rows, and returns images in [-1, 1]. A row
is noise, followed by the one-hot label if the generator is conditional; or, for a network that
takes images, an input image. A network with an interface of its own is adapted to this one
(`nas_gan.networks.adapting`), as its `Calling` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.structure import evaluating

# The noise of a row: standard normal, uniform in [-1, 1], or normal without what exceeds 2.
Distribution = Literal["normal", "uniform", "truncated"]
# Disjoint parts of the inputs of a network that takes images: those that a search may look at,
# those that judge its outcome, and those behind a reference of the dense network's own images.
Part = Literal["search", "held_out", "reference"]
LabelForm = Literal["none", "index", "onehot", "joined"]
# How a network lays out its images: channels first or last, grey without channels, or one row.
OutputForm = Literal["nchw", "nhwc", "nhw", "flat"]
# Black and white of the images of every adapted generator.
IMAGE_RANGE = (-1.0, 1.0)
# The attribute in which an adapted network holds its interface.
HELD = "gan_interface"


class InputRows(Protocol):
    """Inputs that cannot be drawn at random, such as the images of a folder.

    Attributes:
        name: where they come from.
        digest: identifies their content.
        shape: the shape of one input.
    """

    name: str
    digest: str
    shape: tuple[int, ...]

    def count(self, part: Part) -> int:
        """Inputs in a part."""
        ...

    @property
    def as_they_are(self) -> bool:
        """Whether they are passed as they are; images are bytes, which have a range to map to."""
        ...

    def take(self, n: int, seed: int, part: Part) -> Tensor:
        """At most `n` inputs of a part in an order that depends on the seed, none of them twice."""
        ...

    def draw(self, n: int, rng: np.random.Generator) -> Tensor:
        """`n` random inputs of the search's part, for one step of a training."""
        ...


@dataclass(frozen=True)
class Calling:
    """How a network with an interface of its own is called.

    Attributes:
        input_names: the parameters of its `forward`: noise or image, and the label if it takes one.
        input_shape: the shape of its noise, such as `(100, 1, 1)`, with the label if that is joined
            to it, or of its input image.
        label_form: whether it takes labels as whole numbers `(n,)`, as one-hot rows, or as one-hot
            columns behind the noise.
        listed: whether the noise is passed inside a list, as in some StyleGAN2 code.
        output: the index or the key of the images if it returns several things.
        output_form: how it lays out its images.
        input_range: the values of black and white of its input images; None if inputs are passed
            as they are.
        output_range: the values of black and white of its images.
        random: whether it draws random numbers of its own, which are then fixed for each batch.
        options: further arguments of its `forward`, by keyword, as plain values.
    """

    input_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    label_form: LabelForm = "none"
    listed: bool = False
    output: int | str | None = None
    output_form: OutputForm = "nchw"
    input_range: tuple[float, float] | None = None
    output_range: tuple[float, float] = IMAGE_RANGE
    random: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    def is_ours(self, row_shape: tuple[int, ...]) -> bool:
        """Whether it is the way in which this package calls generators with such rows."""
        form: LabelForm = "joined" if self.label_form == "joined" else "none"
        return self == Calling(self.input_names, row_shape, form) and len(self.input_names) == 1


@dataclass(frozen=True)
class GeneratorInterface:
    """What a generator takes and returns.

    Attributes:
        latent_dim: dimension of the noise, without labels; 0 for a network that takes inputs.
        n_classes: classes of a conditional generator, whose one-hot label follows the noise in a
            row of latents; 0 for an unconditional one.
        image_shape: `(c, h, w)` of its images, which are in `IMAGE_RANGE`.
        latents: the distribution of the noise.
        calling: how the network itself is called; None if it is called with rows.
        input_shape: the shape of one input of a network that takes inputs instead of noise.
        inputs: where these come from; None if they have not been given.

    Raises:
        InvalidValueError: a size is not a whole number of at least 1, or there is only one class.
    """

    latent_dim: int
    n_classes: int
    image_shape: tuple[int, int, int]
    latents: Distribution = "normal"
    calling: Calling | None = None
    input_shape: tuple[int, ...] | None = None
    inputs: InputRows | None = None

    def __post_init__(self) -> None:
        takes = (self.latent_dim,) if self.input_shape is None else self.input_shape
        sizes = (*takes, *self.image_shape)
        if len(self.image_shape) != 3 or not all(type(n) is int and n > 0 for n in sizes):
            raise InvalidValueError(
                "a generator needs a latent_dim of at least 1 and an image_shape (c, h, w); got "
                f"{self.latent_dim!r} and {self.image_shape!r}"
            )
        if type(self.n_classes) is not int or self.n_classes < 0 or self.n_classes == 1:
            raise InvalidValueError(
                f"a generator has at least 2 classes, or 0 for none; got {self.n_classes!r}"
            )

    @property
    def conditional(self) -> bool:
        """Whether the generator takes labels."""
        return self.n_classes > 0

    @property
    def takes_images(self) -> bool:
        """Whether its rows are inputs that must be given, instead of noise."""
        return self.input_shape is not None

    @property
    def input_width(self) -> int:
        """Columns of a row of latents: the noise, followed by the one-hot label if there is one."""
        return self.latent_dim + self.n_classes

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row: of noise and label, or of an input."""
        return (self.input_width,) if self.input_shape is None else self.input_shape

    def describe(self) -> str:
        """Input and output in words, as in `generator maps ...`."""
        if self.input_shape is not None:
            return f"inputs of {self.input_shape} to images of {self.image_shape}"
        classes = f" and one of {self.n_classes} labels" if self.conditional else ""
        return f"{self.latent_dim} latents{classes} to images of {self.image_shape}"

    @property
    def resolution(self) -> int:
        """Width of the images in pixels."""
        return self.image_shape[2]

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Height and width of the images in pixels; one number for a square."""
        _, height, width = self.image_shape
        return width if height == width else (height, width)

    def same_rows(self, other: GeneratorInterface) -> bool:
        """Whether both take the same rows and make images of one shape."""
        ours, theirs = (replace(one, calling=None, inputs=None) for one in (self, other))
        return ours == theirs

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint, without the inputs; `interface_from_dict` reads them."""
        plain = asdict(replace(self, inputs=None))
        del plain["inputs"]
        return plain


def interface_from_dict(data: Mapping[str, Any]) -> GeneratorInterface:
    """Read what `GeneratorInterface.to_dict` wrote, after a round trip through JSON.

    Raises:
        InvalidValueError: a value is missing, unknown or of another type.
    """
    try:
        calling = data["calling"]
        interface = GeneratorInterface(
            data["latent_dim"],
            data["n_classes"],
            cast("tuple[int, int, int]", tuple(data["image_shape"])),
            _one_of(data["latents"], Distribution),
            None if calling is None else _calling_from_dict(calling),
            None if data["input_shape"] is None else tuple(data["input_shape"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidValueError(
            f"the checkpoint's description of its interface is damaged ({error!r})"
        ) from error
    return interface


def _calling_from_dict(data: Mapping[str, Any]) -> Calling:
    given, output = data["input_range"], data["output"]
    names, shape = tuple(data["input_names"]), tuple(data["input_shape"])
    if not all(isinstance(name, str) for name in names) or not 1 <= len(names) <= 2:
        raise ValueError(f"input_names {names!r}")
    if not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"input_shape {shape!r}")
    if not (output is None or type(output) in (int, str)):
        raise ValueError(f"output {output!r}")
    return Calling(
        names,
        shape,
        _one_of(data["label_form"], LabelForm),
        bool(data["listed"]),
        output,
        _one_of(data["output_form"], OutputForm),
        None if given is None else _range(given),
        _range(data["output_range"]),
        bool(data["random"]),
        tuple((str(name), value) for name, value in data["options"]),
    )


def _range(values: Any) -> tuple[float, float]:
    low, high = (float(value) for value in values)
    if not low < high:
        raise ValueError(f"a range from {low} to {high}")
    return low, high


def _one_of(value: Any, names: Any) -> Any:
    if value not in get_args(names):
        raise ValueError(f"{value!r} is none of {', '.join(get_args(names))}")
    return value


def interface_of(generator: nn.Module) -> GeneratorInterface:
    """The interface of a generator: the one that it was adapted to, or what its attributes say.

    Args:
        generator: An adapted network, or a module with the attribute `latent_dim`. A module without
            `n_classes` is unconditional. If `image_shape` is missing, it runs once on two latents.

    Returns:
        Its latents, classes and images.

    Raises:
        InvalidValueError: `latent_dim` is missing, an attribute has a wrong type or value, or the
            generator does not make images `(n, c, h, w)`.
    """
    held = getattr(generator, HELD, None)
    if isinstance(held, GeneratorInterface):
        return held
    latent_dim, n_classes = latent_dim_of(generator), n_classes_of(generator)
    image_shape = getattr(generator, "image_shape", None)
    if image_shape is None:
        image_shape = _shape_of_images(generator, latent_dim, n_classes)
    if not isinstance(image_shape, tuple | list | torch.Size):
        raise InvalidValueError(
            f"{type(generator).__name__}.image_shape must be (c, h, w); got {image_shape!r}"
        )
    return GeneratorInterface(latent_dim, n_classes, cast("Any", tuple(image_shape)))


def latent_dim_of(generator: nn.Module) -> int:
    """Dimension of a generator's noise, without labels.

    Raises:
        InvalidValueError: the generator has no `latent_dim`.
    """
    latent_dim = getattr(generator, "latent_dim", None)
    if not isinstance(latent_dim, int):
        raise InvalidValueError(
            f"{type(generator).__name__} has no latent_dim; set that attribute to the dimension "
            "of its noise, without labels, so that latents can be drawn"
        )
    return latent_dim


def n_classes_of(network: nn.Module) -> int:
    """Classes of a conditional generator or discriminator, 0 if it is unconditional."""
    held = getattr(network, HELD, None)
    if isinstance(held, GeneratorInterface):
        return held.n_classes
    n_classes = getattr(network, "n_classes", 0)
    if not isinstance(n_classes, int):
        raise InvalidValueError(
            f"{type(network).__name__}.n_classes must be a whole number; got {n_classes!r}"
        )
    return n_classes


def says_its_interface(network: nn.Module) -> bool:
    """Whether a network has the attributes that `interface_of` needs to run it."""
    held = isinstance(getattr(network, HELD, None), GeneratorInterface)
    return held or type(getattr(network, "latent_dim", None)) is int


def _shape_of_images(generator: nn.Module, latent_dim: int, n_classes: int) -> tuple[int, ...]:
    """The shape of the images that the generator makes of zeros."""
    width = latent_dim + n_classes
    like = next(generator.parameters(), torch.empty(0))
    try:
        with evaluating(generator):
            images = generator(torch.zeros(2, width, dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidValueError(
            f"{type(generator).__name__} does not take latents (2, {width}), although its "
            f"latent_dim is {latent_dim} and its n_classes is {n_classes}: {reason}"
        ) from error
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != 2:
        raise InvalidValueError(
            f"{type(generator).__name__} must map latents (n, {width}) to images (n, c, h, w); "
            f"got {tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__} "
            "for 2 of them"
        )
    return tuple(images.shape[1:])
