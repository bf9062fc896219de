"""What a generator takes and returns, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.structure import evaluating

Distribution = Literal["normal"]


@dataclass(frozen=True)
class GeneratorInterface:
    """What a generator takes and returns.

    Attributes:
        latent_dim: dimension of the noise, without labels.
        n_classes: classes of a conditional generator, whose one-hot label follows the noise in a
            row of latents; 0 for an unconditional one.
        image_shape: `(c, h, w)` of its images.
        latents: the distribution of the noise, standard normal.
        image_range: the values of black and white.

    Raises:
        InvalidValueError: a size is not a whole number of at least 1, or there is only one class.
    """

    latent_dim: int
    n_classes: int
    image_shape: tuple[int, int, int]
    latents: Distribution = "normal"
    image_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        sizes = (self.latent_dim, *self.image_shape)
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
    def input_width(self) -> int:
        """Columns of a row of latents: the noise, followed by the one-hot label if there is one."""
        return self.latent_dim + self.n_classes

    def describe(self) -> str:
        """Input and output in words, as in `generator maps ...`."""
        classes = f" and one of {self.n_classes} labels" if self.conditional else ""
        return f"{self.latent_dim} latents{classes} to images of {self.image_shape}"

    @property
    def resolution(self) -> int:
        """Width of the images in pixels."""
        return self.image_shape[2]


def interface_of(generator: nn.Module) -> GeneratorInterface:
    """The interface of a generator, read from its attributes.

    Args:
        generator: A module with the attribute `latent_dim`. A generator without `n_classes` is
            unconditional. If `image_shape` is missing, the generator runs once on two latents.

    Returns:
        Its latents, classes and images.

    Raises:
        InvalidValueError: `latent_dim` is missing, an attribute has a wrong type or value, or the
            generator does not make images `(n, c, h, w)`.
    """
    latent_dim, n_classes = latent_dim_of(generator), n_classes_of(generator)
    image_shape = getattr(generator, "image_shape", None)
    if image_shape is None:
        image_shape = _shape_of_images(generator, latent_dim, n_classes)
    if not isinstance(image_shape, tuple | list | torch.Size):
        raise InvalidValueError(
            f"{type(generator).__name__}.image_shape must be (c, h, w); got {image_shape!r}"
        )
    return GeneratorInterface(latent_dim, n_classes, tuple(image_shape))


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
    n_classes = getattr(network, "n_classes", 0)
    if not isinstance(n_classes, int):
        raise InvalidValueError(
            f"{type(network).__name__}.n_classes must be a whole number; got {n_classes!r}"
        )
    return n_classes


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
