"""The similarity of a generator's images: multi-scale structural similarity of pairs.

Odena et al. (2017) use the mean over pairs of one class as a measure of diversity: 1 is a generator
that always draws the same image, and the goal is the value of real images of that class. The
similarity is that of Wang et al. (2003) with five scales and windows of 11 pixels, which need
images of more than 160 pixels; all images are resized to 256, as in the published measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.optional import import_for

SIZE = 256
PAIRS = 200
# Pairs compared at once: 8 pairs of 256 pixels take some 100 MB.
_BATCH = 8
# Separates the random stream of the pairs from others with the same seed.
_PAIR_STREAM = 4

Pairs = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Similarity:
    """Mean MS-SSIM of random pairs and its standard error; `within` is `all` or `class`."""

    within: str
    mean: float
    standard_error: float
    pairs: int
    n: int
    size: int = SIZE


def similarity(
    images: Tensor, labels: Tensor | None = None, *, pairs: int = PAIRS, seed: int = 0
) -> Similarity:
    """MS-SSIM of pairs of uint8 images `(n, 3, h, w)`, of equal labels `(n,)` if given."""
    chosen = draw_pairs(len(images), labels, pairs, seed)
    values = torch.cat(
        [_compare(images[chosen[i : i + _BATCH]]) for i in range(0, len(chosen), _BATCH)]
    )
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    within = "all" if labels is None else "class"
    return Similarity(within, float(values.mean()), error, len(values), len(images))


def draw_pairs(n: int, labels: Tensor | None, pairs: int, seed: int) -> Pairs:
    """Rows of `pairs` pairs of different images, `(pairs, 2)`; of one class if there are labels.

    First a class is drawn and then two of its images, so all classes have equal weight.

    Raises:
        InvalidValueError: there are no two images, or no class has two.
    """
    rng = np.random.default_rng([seed, _PAIR_STREAM])
    if labels is None:
        groups = [np.arange(n)]
    else:
        groups = [np.flatnonzero(labels.numpy() == label) for label in labels.unique().tolist()]
    groups = [group for group in groups if len(group) >= 2]
    if not groups or pairs < 1:
        raise InvalidValueError(
            f"MS-SSIM compares pairs{'' if labels is None else ' of one class'}; {n} images and "
            f"{pairs} pairs give none; use more samples"
        )
    drawn = [rng.choice(groups[rng.integers(len(groups))], 2, replace=False) for _ in range(pairs)]
    return np.stack(drawn)


def _compare(pairs: Tensor) -> Tensor:
    """MS-SSIM `(b,)` of uint8 pairs `(b, 2, 3, h, w)`."""
    left, right = (
        F.interpolate(side.float(), (SIZE, SIZE), mode="bilinear", antialias=True)
        for side in pairs.unbind(dim=1)
    )
    compare = import_for("msssim", "pytorch_msssim").ms_ssim
    values: Tensor = compare(left, right, data_range=255, size_average=False)
    return values
