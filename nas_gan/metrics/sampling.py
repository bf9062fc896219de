"""The images that a generator draws from latents, and their features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.onnx_generator import WORTHWHILE, onnx_images
from nas_gan.metrics.protocol import to_uint8
from nas_gan.networks.latents import StreamedLatents
from nas_gan.networks.structure import evaluating

logger = logging.getLogger(__name__)


def generate_uint8(
    generator: nn.Module,
    latents: Tensor | StreamedLatents,
    *,
    batch_size: int = 64,
    device: str = "cpu",
    quantize: Callable[[Tensor], Tensor] = to_uint8,
    draw: Callable[[Tensor], Tensor] | None = None,
    halves: bool = True,
) -> Iterator[Tensor]:
    """Images of `latents` as uint8 batches `(b, 3, h, w)` on the CPU.

    The generator must already be on `device`. It runs in evaluation mode; between batches and
    afterwards every module is back in its old mode. Grey images are repeated to three channels.
    `draw(latents)` makes the images instead of the generator, if given. If a batch does not fit
    into the memory of a GPU, batches are half as large from there on, if `halves`.

    Raises:
        DivergedError: an image holds a NaN or an infinity.
        torch.OutOfMemoryError: a single image does not fit, or a batch without `halves`.
    """
    if batch_size < 1:
        raise InvalidValueError(f"must be at least 1; got {batch_size}", setting="batch_size")
    start = 0
    while start < len(latents):
        batch = latents[start : start + batch_size]
        pixels = None
        try:
            with evaluating(generator):
                images = (draw or generator)(batch.to(device)).float()
            finite = bool(torch.isfinite(images).all())
            pixels = quantize(images).cpu()
        except torch.OutOfMemoryError:
            if len(batch) == 1 or not halves:
                raise
        if pixels is None:  # outside of the handler, which holds on to the memory
            batch_size = -(-len(batch) // 2)
            logger.warning("out of memory with %d images; %d from now on", len(batch), batch_size)
            continue
        if not finite:
            raise DivergedError(
                f"the images of latents {start} to {start + len(batch) - 1} hold a NaN or an "
                "infinity; are the weights sound?"
            )
        start += len(batch)
        yield pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels


def extract_features(
    generator: nn.Module,
    latents: Tensor,
    extractor: FeatureExtractor,
    batch_size: int = 64,
    *,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    halves: bool = True,
) -> npt.NDArray[np.float32]:
    """Features of the generator's images; row i belongs to row i of `latents`.

    On a CPU, many images come from ONNX Runtime, if its images are those of the generator.

    Args:
        generator: maps latents to images, in evaluation mode.
        latents: `(n, latent_dim)` rows, with the labels of a conditional generator.
        extractor: the network whose features are taken.
        batch_size: images per pass; it only changes rounding.
        device: where the generator runs.
        progress: called with the number of images in each batch.
        halves: whether batches that do not fit into the memory of a GPU are taken in halves.

    Returns:
        Features `(n, dim)`.

    Raises:
        torch.OutOfMemoryError: a single image does not fit, or a batch without `halves`.
    """
    features = np.empty((len(latents), extractor.dim), np.float32)
    done = 0
    draw = _fast_images(generator, latents, device)
    for images in generate_uint8(
        generator, latents, batch_size=batch_size, device=device, draw=draw, halves=halves
    ):
        features[done : done + len(images)] = extractor(images)
        done += len(images)
        if progress is not None:
            progress(len(images))
    return features


def _fast_images(
    generator: nn.Module, latents: Tensor, device: str
) -> Callable[[Tensor], Tensor] | None:
    """The images of the generator from ONNX Runtime, where that is faster and exact enough."""
    if len(latents) < WORTHWHILE or torch.device(device).type != "cpu":
        return None
    return onnx_images(generator, latents)
