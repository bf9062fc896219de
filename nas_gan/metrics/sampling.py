"""The images and the features that a generator makes of latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.protocol import to_uint8
from nas_gan.networks.latents import StreamedLatents


def generate_uint8(
    generator: nn.Module,
    latents: Tensor | StreamedLatents,
    *,
    batch_size: int = 64,
    device: str = "cpu",
    quantize: Callable[[Tensor], Tensor] = to_uint8,
) -> Iterator[Tensor]:
    """Images of `latents` as uint8 batches `(b, 3, h, w)` on the CPU.

    The generator must be on `device` already. It runs in eval mode; between batches and afterwards
    every module is in the mode it was found in. Grey images are repeated to three channels.

    Raises:
        DivergedError: an image holds a NaN or an infinity.
    """
    if batch_size < 1:
        raise InvalidValueError(f"batch_size must be 1 or more; got {batch_size}")
    for start in range(0, len(latents), batch_size):
        batch = latents[start : start + batch_size]
        images = _run_in_eval_mode(generator, batch.to(device))
        if not torch.isfinite(images).all():
            raise DivergedError(
                f"the images of batch {start // batch_size} (latents {start} to "
                f"{start + len(batch) - 1}) hold a NaN or an infinity; are the weights sound?"
            )
        pixels = quantize(images).cpu()
        yield pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels


@torch.no_grad()
def _run_in_eval_mode(generator: nn.Module, latents: Tensor) -> Tensor:
    # Frozen batch normalisation in a training network is common: remember each module's own mode.
    training = [module for module in generator.modules() if module.training]
    generator.eval()
    try:
        images: Tensor = generator(latents)
        return images.float()
    finally:
        for module in training:
            module.training = True


def extract_features(
    generator: nn.Module,
    latents: Tensor,
    extractor: FeatureExtractor,
    batch_size: int = 64,
    *,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Features `(n, dim)` of the generator's images, row by row of `latents` `(n, latent_dim)`.

    `progress` is called with the number of images of each batch. The batch size changes nothing
    but rounding.
    """
    features = np.empty((len(latents), extractor.dim), np.float32)
    done = 0
    for images in generate_uint8(generator, latents, batch_size=batch_size, device=device):
        features[done : done + len(images)] = extractor(images)
        done += len(images)
        if progress is not None:
            progress(len(images))
    return features
