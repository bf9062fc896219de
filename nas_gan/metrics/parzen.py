"""Parzen log-likelihood: images scored by a mixture of Gaussians around other images.

    log p(x) = log mean_c exp(-|x - c|² / 2 h²) - (d / 2) log(2 π h²)

Goodfellow et al. (2014) centre the Gaussians on generated images and score real ones (is every real
image near a generated one?). Others centre them on real images and score generated ones (is every
generated image near a real one?). The numbers differ, so the direction is part of the result.
Pixels are in [0, 1]; another scale adds a constant per pixel. Theis et al. (2016) show how little
the number says about the quality of a model: it is here for comparison with published tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError

# Twenty bandwidths, as in the published grid, in the range that fits images in [0, 1].
BANDWIDTHS = tuple(float(h) for h in np.geomspace(0.02, 1.0, 20).round(4))
FOLDS = 5
# Rows scored to choose a bandwidth, and rows scored at once.
_SCORED, _CHUNK = 1000, 256
# Separates the random stream of the folds from others with the same seed.
_FOLD_STREAM = 3


@dataclass(frozen=True)
class ParzenScore:
    """Mean log-likelihood in nats per image of `dim` pixels in [0, 1], and its standard error.

    `direction` says which images are the centres; `bandwidth` was chosen among them by `folds`-fold
    cross validation. With `at_edge` it is at the edge of the grid, and the score is less reliable.
    """

    direction: str
    mean: float
    standard_error: float
    bandwidth: float
    at_edge: bool
    folds: int
    n_centres: int
    n_scored: int
    dim: int


def parzen_both_ways(
    generated: Tensor, real: Tensor, *, seed: int = 0, bandwidths: tuple[float, ...] = BANDWIDTHS
) -> tuple[ParzenScore, ParzenScore]:
    """Scores of uint8 images `(n, 3, h, w)` and `(m, 3, h, w)`, in both directions.

    Grey images, whose three channels are equal on both sides, count as one channel.
    """
    if generated.shape[1:] != real.shape[1:]:
        raise InvalidValueError(
            f"generated images are {tuple(generated.shape[1:])}, the reference's "
            f"{tuple(real.shape[1:])}; a Parzen score needs equal sizes"
        )
    if all(bool((images == images[:, :1]).all()) for images in (generated, real)):
        generated, real = generated[:, :1], real[:, :1]
    g, r = (images.flatten(1).double() / 255 for images in (generated, real))
    return (
        parzen_score("real under generated", g, r, bandwidths, seed=seed),
        parzen_score("generated under real", r, g, bandwidths, seed=seed),
    )


def parzen_score(
    direction: str,
    centres: Tensor,
    points: Tensor,
    bandwidths: tuple[float, ...] = BANDWIDTHS,
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> ParzenScore:
    """Score of points `(m, d)` under Gaussians on centres `(n, d)`, with the best bandwidth."""
    bandwidth = choose_bandwidth(centres, bandwidths, folds=folds, seed=seed)
    [values] = log_likelihoods(points, centres, (bandwidth,))
    return ParzenScore(
        direction,
        float(values.mean()),
        float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan,
        bandwidth,
        bandwidth in (min(bandwidths), max(bandwidths)),
        folds,
        len(centres),
        len(points),
        centres.shape[1],
    )


def choose_bandwidth(
    centres: Tensor,
    bandwidths: tuple[float, ...] = BANDWIDTHS,
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> float:
    """The bandwidth under which left-out centres `(n, d)` are most likely, by cross validation.

    At most 1,000 centres are scored, spread evenly over the folds, each under all centres of the
    other folds.
    """
    if len(centres) < folds:
        raise InvalidValueError(
            f"{folds}-fold cross validation needs at least {folds} images; got {len(centres)}"
        )
    order = np.random.default_rng([seed, _FOLD_STREAM]).permutation(len(centres))
    total = torch.zeros(len(bandwidths), dtype=torch.float64)
    for part in np.array_split(order, folds):
        others = np.ones(len(centres), bool)
        others[part] = False
        left_out = centres[torch.from_numpy(part[: -(-_SCORED // folds)])]
        values = log_likelihoods(left_out, centres[torch.from_numpy(others)], bandwidths)
        total += values.sum(dim=1)
    return bandwidths[int(total.argmax())]


def log_likelihoods(points: Tensor, centres: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
    """Log-likelihoods `(bandwidths, m)` of points `(m, d)` under Gaussians on centres `(n, d)`.

    In float64, because half a squared distance over h² is large and its differences matter.
    """
    points, centres = points.double(), centres.double()
    n, d = centres.shape
    result = torch.empty(len(bandwidths), len(points), dtype=torch.float64)
    squares = centres.square().sum(dim=1)  # (n,)
    for start in range(0, len(points), _CHUNK):
        x = points[start : start + _CHUNK]
        distance = x.square().sum(dim=1, keepdim=True) - 2 * x @ centres.T + squares  # (b, n)
        distance.clamp_(min=0)
        for row, h in enumerate(bandwidths):
            bumps = torch.logsumexp(distance / (-2 * h * h), dim=1) - math.log(n)
            result[row, start : start + len(x)] = bumps - d / 2 * math.log(2 * math.pi * h * h)
    return result
