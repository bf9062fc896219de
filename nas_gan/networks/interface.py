"""The interface of a generator, its inputs and its images, as one value."""

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
    """What a generator takes as input and what images it makes.

    Attributes:
        latent_dim: Length of one row of noise, without the label.
        n_classes: Number of classes of a conditional generator, or 0 for an unconditional one.
            The one-hot label follows the noise in a row of latents.
        image_shape: Shape `(c, h, w)` of one image, in pixels.
        latents: Distribution of the noise: standard normal.
        image_range: Pixel values of black and of white.

    Raises:
        InvalidValueError: A size is not a whole number of at least 1, or there is only one class.
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
                "a generator takes latents of 1 or more and makes images (c, h, w); got "
                f"{self.latent_dim!r} and {self.image_shape!r}"
            )
        if type(self.n_classes) is not int or self.n_classes < 0 or self.n_classes == 1:
            raise InvalidValueError(
                f"a generator has 2 classes or more, or 0 for none; got {self.n_classes!r}"
            )

    @property
    def conditional(self) -> bool:
        """Whether the generator takes labels."""
        return self.n_classes > 0

    @property
    def input_width(self) -> int:
        """Length of one row of latents: that of the noise plus that of the one-hot label."""
        return self.latent_dim + self.n_classes

    def describe(self) -> str:
        """Inputs and outputs in one line."""
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
        image_shape = _shape_of_images(generator, latent_dim + n_classes)
    if not isinstance(image_shape, tuple | list | torch.Size):
        raise InvalidValueError(
            f"{type(generator).__name__}.image_shape must be (c, h, w); got {image_shape!r}"
        )
    return GeneratorInterface(latent_dim, n_classes, tuple(image_shape))


def latent_dim_of(generator: nn.Module) -> int:
    """Length of a generator's noise, without the label.

    Raises:
        InvalidValueError: The generator has no attribute `latent_dim`.
    """
    latent_dim = getattr(generator, "latent_dim", None)
    if not isinstance(latent_dim, int):
        raise InvalidValueError(
            f"{type(generator).__name__} has no latent_dim; set that attribute to the length of "
            "its noise, without the label, so that latents can be drawn"
        )
    return latent_dim


def n_classes_of(network: nn.Module) -> int:
    """Number of classes of a generator or discriminator; 0 if it has no such attribute."""
    n_classes = getattr(network, "n_classes", 0)
    if not isinstance(n_classes, int):
        raise InvalidValueError(
            f"{type(network).__name__}.n_classes must be a whole number; got {n_classes!r}"
        )
    return n_classes


def _shape_of_images(generator: nn.Module, width: int) -> tuple[int, ...]:
    """Shape of the images that the generator makes from latents of zeros."""
    like = next(generator.parameters(), torch.empty(0))
    with evaluating(generator):
        images = generator(torch.zeros(2, width, dtype=like.dtype, device=like.device))
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != 2:
        raise InvalidValueError(
            f"{type(generator).__name__} must map latents (n, {width}) to images (n, c, h, w); "
            f"got {tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__} "
            "for 2 of them"
        )
    return tuple(images.shape[1:])
