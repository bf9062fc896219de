"""The latent bank, and the images and features a generator makes of it.

Generators are compared on the same latents: what their images share then cancels, and a small
change of quality shows with far fewer images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nas_gan.checkpoint import Checkpoint
from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.protocol import to_uint8
from nas_gan.networks.conditional import with_labels
from nas_gan.networks.models import build_model

# Rows drawn from one random stream. Changing it changes every bank.
BLOCK = 1024
# Tells the stream of a block's labels from that of its noise. Not 0, which would be no difference.
_LABEL_STREAM = 1


def latent_bank(n: int, latent_dim: int, seed: int, n_classes: int = 0) -> Tensor:
    """`n` standard normal latents `(n, latent_dim)`, the same for everyone who names the seed.

    With classes `(n, latent_dim + n_classes)`: the last columns are the one-hot label, drawn
    uniformly from a stream of its own, so that the noise is that of the bank without.

    Each block of 1024 rows has a stream of its own, so the first k rows of a bank are the bank of
    k, on any machine and device, and no other use of random numbers moves them.
    """
    if n < 1 or latent_dim < 1 or seed < 0 or n_classes < 0:
        raise InvalidValueError(
            f"a latent bank needs n >= 1, latent_dim >= 1, seed >= 0 and n_classes >= 0; "
            f"got n {n}, latent_dim {latent_dim}, seed {seed}, n_classes {n_classes}"
        )
    return StreamedLatents(n, latent_dim, seed, n_classes)[:n]


class StreamedLatents:
    """The rows of `latent_bank`, drawn when a slice of them is asked for: no memory for n rows."""

    def __init__(self, n: int, latent_dim: int, seed: int, n_classes: int = 0) -> None:
        self.n, self.latent_dim, self.seed, self.n_classes = n, latent_dim, seed, n_classes
        self._last: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows: slice) -> Tensor:
        """Rows `(b, latent_dim + n_classes)` of a slice without a step."""
        start, stop, _ = rows.indices(self.n)
        first = start // BLOCK
        blocks = [self._block(block) for block in range(first, max(-(-stop // BLOCK), first + 1))]
        return torch.cat(blocks)[start - first * BLOCK : stop - first * BLOCK].clone()

    def _block(self, block: int) -> Tensor:
        if self._last is None or self._last[0] != block:
            rng = np.random.default_rng([self.seed, block])
            drawn = torch.from_numpy(rng.standard_normal((BLOCK, self.latent_dim), np.float32))
            if self.n_classes:
                rng = np.random.default_rng([self.seed, block, _LABEL_STREAM])
                labels = torch.from_numpy(rng.integers(self.n_classes, size=BLOCK))
                drawn = with_labels(drawn, labels, self.n_classes)
            self._last = block, drawn
        return self._last[1]


def latents_of(source: nn.Module | Checkpoint, n: int, seed: int) -> Tensor:
    """The bank of `n` rows that fits a generator, or the generator of a checkpoint.

    Raises:
        InvalidValueError: it does not say how wide its latents are.
    """
    latents = streamed_latents_of(source, n, seed)
    return latent_bank(n, latents.latent_dim, seed, latents.n_classes)


def streamed_latents_of(source: nn.Module | Checkpoint, n: int, seed: int) -> StreamedLatents:
    """The same rows as `latents_of`, drawn when they are used.

    Raises:
        InvalidValueError: it does not say how wide its latents are.
    """
    if isinstance(source, Checkpoint):
        with torch.device("meta"):  # sizes only, no memory
            source = build_model(source.architecture)
    latent_dim = getattr(source, "latent_dim", None)
    if not isinstance(latent_dim, int):
        raise InvalidValueError(
            f"a {type(source).__name__} has no latent_dim; set that attribute to the length of "
            "its latents without labels"
        )
    return StreamedLatents(n, latent_dim, seed, getattr(source, "n_classes", 0))


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
