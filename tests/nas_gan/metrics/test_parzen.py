from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import multivariate_normal

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.parzen import (
    choose_bandwidth,
    log_likelihoods,
    parzen_both_ways,
    parzen_score,
)


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_bumps_are_a_mixture_of_normals():
    points, centres = normal(6, 3, 0), normal(4, 3, 1)
    densities = [
        [multivariate_normal.pdf(x, c, 0.3**2) for c in centres.numpy()] for x in points.numpy()
    ]
    expected = torch.tensor(densities).mean(dim=1).log()
    torch.testing.assert_close(log_likelihoods(points, centres, (0.3,))[0], expected)


def test_far_points_do_not_underflow():
    [[value]] = log_likelihoods(torch.full((1, 1), 1000.0), torch.zeros(1, 1), (0.01,)).tolist()
    assert value == pytest.approx(-(1e5**2) / 2 - math.log(0.01 * math.sqrt(2 * math.pi)))


def test_the_bandwidth_is_the_likeliest_by_cross_validation():
    # Of 500 points of N(0, 1) in one dimension Silverman's rule is 1.06 n^-0.2 = 0.31.
    bandwidths = (0.001, 0.01, 0.3, 3.0, 30.0)
    assert choose_bandwidth(normal(500, 1, 0), bandwidths) == 0.3


def test_a_bandwidth_at_the_edge_of_the_grid_is_marked():
    score = parzen_score("d", normal(50, 1, 0), normal(20, 1, 1), (0.001, 0.01))
    assert (score.bandwidth, score.at_edge, score.n_centres, score.n_scored) == (0.01, True, 50, 20)


def test_the_two_directions_blame_different_faults():
    # Real images are black or white, the generator draws black alone.
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 20, (40, 1, 4, 4), generator=rng, dtype=torch.uint8)
    white = (torch.arange(40) % 2 * 200).byte().view(-1, 1, 1, 1)
    real, generated = ((noise + shift).expand(-1, 3, -1, -1) for shift in (white, 0 * white))
    of_real, of_generated = parzen_both_ways(generated, real)
    assert of_real.direction == "real under generated"
    assert of_real.mean < of_generated.mean - 100
    assert of_real.dim == 16  # grey: one channel


def test_images_of_other_sizes_are_refused():
    with pytest.raises(InvalidValueError, match="equal sizes"):
        parzen_both_ways(torch.zeros(9, 3, 4, 4).byte(), torch.zeros(9, 3, 8, 8).byte())
    with pytest.raises(InvalidValueError, match="at least 5 images; got 4"):
        choose_bandwidth(torch.zeros(4, 1))
