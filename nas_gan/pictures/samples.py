"""The samples that a picture shows: their latents and their images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_gan.errors import DivergedError
from nas_gan.networks.conditional import with_labels
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.networks.latents import latent_bank, latents_of
from nas_gan.pictures.interpolation import closed_walk

BATCH = 64


def picture_latents(
    interface: GeneratorInterface, n: int, seed: int, *, n_pictures: int = 1
) -> Tensor:
    """Latents of pictures with `n` samples each, `(n_pictures, n, *row_shape)`.

    The first picture does not depend on how many there are. Labels, if any, are the same in all.
    """
    bank = latents_of(interface, n_pictures * n, seed)
    if interface.takes_images:  # of which there may be fewer
        return bank[None]
    pictures = bank.view(n_pictures, n, interface.input_width)
    if interface.conditional:
        pictures[:, :, interface.latent_dim :] = pictures[0, :, interface.latent_dim :].clone()
    return pictures


def class_latents(
    interface: GeneratorInterface, columns: int, seed: int, *, n_pictures: int = 1
) -> Tensor:
    """Latents of pictures with a row for each class of a conditional generator.

    All rows of a picture have the same noise.

    Returns:
        `(n_pictures, n_classes * columns, input_width)`, row by row.
    """
    n_classes, latent_dim = interface.n_classes, interface.latent_dim
    noise = latent_bank(n_pictures * columns, latent_dim, seed).view(n_pictures, columns, -1)
    labels = torch.arange(n_classes).repeat_interleave(columns)  # (n_classes * columns,)
    pictures = [with_labels(row.repeat(n_classes, 1), labels, n_classes) for row in noise]
    return torch.stack(pictures)


def walk_noise(interface: GeneratorInterface, stops: Tensor, frames: int) -> Tensor:
    """`closed_walk` through the noise of latents `(k, n, input_width)`; labels do not change.

    Returns:
        `(frames, n, input_width)`.
    """
    noise, labels = stops.tensor_split([interface.latent_dim], dim=2)
    return torch.cat([closed_walk(noise, frames), labels[:1].expand(frames, -1, -1)], dim=2)


def draw_images(generator: nn.Module, latents: Tensor, device: torch.device | str) -> Tensor:
    """Images `(n, c, h, w)` of latents `(n, input_width)`, on the CPU.

    The generator must be on `device`, in eval mode.

    Raises:
        DivergedError: a pixel is NaN or infinite.
    """
    with torch.inference_mode():
        images = torch.cat([generator(z.to(device)).cpu() for z in latents.split(BATCH)])
    if not images.isfinite().all():
        raise DivergedError("the generator returns NaN or infinite pixels; are its weights sound?")
    return images
