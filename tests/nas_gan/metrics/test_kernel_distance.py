from __future__ import annotations

import numpy as np
import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.kernel_distance import kernel_distance

pytest.importorskip("torch_fidelity")


def test_two_images_a_side_worked_out_by_hand():
    # d = 1: k(x, y) = (xy + 1)³. Of {0, 1} and {1, 2}: 1 + 27 - 2 (1 + 1 + 8 + 27) / 4.
    x, y = np.array([[0.0], [1.0]], np.float32), np.array([[1.0], [2.0]], np.float32)
    result = kernel_distance(x, y, subsets=3)
    assert result.mean == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)
    assert (result.std, result.subset_size, result.n, result.n_reference) == (0, 2, 2, 2)


def test_samples_of_one_distribution_are_no_distance_apart():
    a, b = np.random.default_rng(0).standard_normal((2, 400, 8)).astype(np.float32)
    same, shifted = (kernel_distance(a, side, subsets=20, subset_size=100) for side in (b, b + 1))
    assert abs(same.mean) < same.std
    assert shifted.mean > 10 * shifted.std / 20**0.5


def test_the_subsets_are_those_of_the_seed():
    a, b = np.random.default_rng(0).standard_normal((2, 50, 4)).astype(np.float32)
    first, again, other = (
        kernel_distance(a, b, subsets=2, subset_size=10, seed=seed).mean for seed in (1, 1, 2)
    )
    assert first == again != other


def test_one_image_is_refused():
    with pytest.raises(InvalidValueError, match="at least 2 images on each side; got 1 and 3"):
        kernel_distance(np.zeros((1, 2)), np.zeros((3, 2)))
