"""The latent bank: latents that only depend on a seed.

Generators are compared on the same latents: the noise that their images share cancels, so that a
small change of quality shows with far fewer images.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.networks.conditional import with_labels
from nas_gan.networks.interface import Distribution, GeneratorInterface, Part

# Rows drawn from one random stream. Another value would change every bank.
BLOCK = 1024
# Separates the random stream of a block's labels from that of its noise. 0 would not.
_LABEL_STREAM = 1
# A truncated normal distribution ends here, on both sides (BigGAN, ICLR 2019).
TRUNCATION = 2.0


def latent_bank(n: int, latent_dim: int, seed: int) -> Tensor:
    """Standard normal noise that depends on its seed alone.

    Every block of 1024 rows has a random stream of its own. The first k rows of a larger bank are
    therefore the bank of k rows, on every machine and device, and no other use of random numbers
    changes them.

    Args:
        n: Number of rows.
        latent_dim: Length of a row.
        seed: Seed of the bank.

    Returns:
        A float32 tensor `(n, latent_dim)` on the CPU.

    Raises:
        InvalidValueError: A size is below 1, or the seed is below 0.
    """
    _check_bank(n, latent_dim, seed)
    blocks = [_noise(block, latent_dim, seed, "normal") for block in range(-(-n // BLOCK))]
    return torch.cat(blocks)[:n].clone()


def latents_of(interface: GeneratorInterface, n: int, seed: int, part: Part = "search") -> Tensor:
    """The latent bank of a generator: noise and, if the generator is conditional, labels.

    The noise is that of `latent_bank`, in the distribution of the interface. The labels are drawn
    uniformly from a random stream of their own. For a network that takes images, the bank is a
    choice of its inputs, and smaller than `n` if there are fewer.

    Args:
        interface: What the generator takes.
        n: Number of latents.
        seed: Seed of the bank.
        part: The part of the inputs to choose from. Noise has no parts, only other seeds.

    Returns:
        A float32 tensor `(n, latent_dim + n_classes)` on the CPU, whose last columns are the
        one-hot labels; or inputs `(n, *input_shape)`.

    Raises:
        InvalidValueError: `n` is below 1, the seed is below 0, or the inputs were not given.
    """
    bank = StreamedLatents(interface, n, seed, part)
    return bank[: len(bank)]


class StreamedLatents:
    """The rows of `latents_of`, drawn on demand a slice at a time, in constant memory."""

    def __init__(
        self, interface: GeneratorInterface, n: int, seed: int, part: Part = "search"
    ) -> None:
        self.interface, self.n, self.seed = interface, n, seed
        self._last: tuple[int, Tensor] | None = None
        self._inputs: Tensor | None = None
        if interface.takes_images:
            if interface.inputs is None:
                raise InvalidValueError(
                    f"are missing: the network takes inputs of {interface.input_shape}, not noise; "
                    "give a folder of images or an .npy file",
                    setting="inputs",
                )
            self._inputs = interface.inputs.take(n, seed, part)
            self.n = len(self._inputs)
        else:
            _check_bank(n, interface.latent_dim, seed)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows: slice) -> Tensor:
        """The rows `(b, *row_shape)` of a slice, which must not have a step."""
        if self._inputs is not None:
            return self._inputs[rows]
        start, stop, _ = rows.indices(self.n)
        first = start // BLOCK
        blocks = [self._block(block) for block in range(first, max(-(-stop // BLOCK), first + 1))]
        return torch.cat(blocks)[start - first * BLOCK : stop - first * BLOCK].clone()

    def _block(self, block: int) -> Tensor:
        if self._last is None or self._last[0] != block:
            known = self.interface
            drawn = _noise(block, known.latent_dim, self.seed, known.latents)
            if self.interface.conditional:
                rng = np.random.default_rng([self.seed, block, _LABEL_STREAM])
                labels = torch.from_numpy(rng.integers(self.interface.n_classes, size=BLOCK))
                drawn = with_labels(drawn, labels, self.interface.n_classes)
            self._last = block, drawn
        return self._last[1]


def _noise(block: int, latent_dim: int, seed: int, distribution: Distribution) -> Tensor:
    return draw_noise(np.random.default_rng([seed, block]), (BLOCK, latent_dim), distribution)


def draw_noise(
    rng: np.random.Generator, shape: tuple[int, int], distribution: Distribution
) -> Tensor:
    """Float32 noise of a shape: standard normal, uniform in [-1, 1], or normal cut off at 2."""
    if distribution == "normal":
        return torch.from_numpy(rng.standard_normal(shape, np.float32))
    if distribution == "uniform":
        return torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32))
    tail = ndtr(-TRUNCATION)
    drawn = ndtri(rng.uniform(tail, 1 - tail, shape))
    return torch.from_numpy(drawn.astype(np.float32).clip(-TRUNCATION, TRUNCATION))


def _check_bank(n: int, latent_dim: int, seed: int) -> None:
    if n < 1 or latent_dim < 1 or seed < 0:
        raise InvalidValueError(
            "a latent bank needs n >= 1, latent_dim >= 1 and seed >= 0; "
            f"got n {n}, latent_dim {latent_dim}, seed {seed}"
        )
