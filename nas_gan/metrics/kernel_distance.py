"""The kernel distance of Bińkowski et al. (2018): KID if the features are Inception's.

The unbiased estimate of the squared maximum mean discrepancy with the kernel `(x·y / d + 1)³`.
Unlike an FID it does not depend on the number of images, and it can be slightly negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.optional import import_for
from nas_gan.seeds import RANDOM_STATE_BITS, folded

# As in the paper.
SUBSETS, SUBSET_SIZE = 100, 1000


@dataclass(frozen=True)
class KernelDistance:
    """Mean and deviation over `subsets` subsets of `subset_size` images from each side.

    `n` and `n_reference` are the numbers of images that they were drawn from.
    """

    mean: float
    std: float
    subsets: int
    subset_size: int
    n: int
    n_reference: int


def kernel_distance(
    features: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> KernelDistance:
    """The kernel distance of features `(n, d)` to those of a reference `(m, d)`.

    If a side has fewer than twice `subset_size` images, subsets have half as many images as that
    side: subsets of all images would be equal and have no deviation.
    """
    if min(len(features), len(reference)) < 2:
        raise InvalidValueError(
            f"a kernel distance needs at least 2 images on each side; got {len(features)} and "
            f"{len(reference)}"
        )
    size = max(min(subset_size, len(features) // 2, len(reference) // 2), 2)
    module = import_for("kid", "torch_fidelity.metric_kid")
    values = module.kid_features_to_metric(
        torch.from_numpy(features).double(),
        torch.from_numpy(reference).double(),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=folded(seed, RANDOM_STATE_BITS),
        verbose=False,
    )
    return KernelDistance(
        values[module.KEY_METRIC_KID_MEAN],
        values[module.KEY_METRIC_KID_STD],
        subsets,
        size,
        len(features),
        len(reference),
    )
