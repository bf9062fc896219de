"""Which scores are called doubtful, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nas_gan.metrics.class_score import ClassScore
from nas_gan.metrics.doubts import doubts
from nas_gan.metrics.kernel_distance import kernel_distance
from nas_gan.metrics.scoring import Scores


@pytest.mark.parametrize(
    ("n", "n_reference", "said"),
    [
        (64, 64, []),
        (63, 64, ["63 images in 64 features"]),
        (64, 10, ["10 reference images in 64 features"]),
        (2, 3, ["2 images in", "3 reference images in"]),
        (64, None, []),
    ],
)
def test_a_distance_needs_an_image_per_feature(n: int, n_reference: int | None, said: list[str]):
    found = doubts(Scores(fid=3.0), n, n_reference, 64)
    assert len(found) == len(said)
    assert all(part in doubt for part, doubt in zip(said, found, strict=True))


def test_so_does_the_interval_of_a_difference():
    assert doubts(Scores(fid=3.0), 64, 64, 64, paired=True) == ()
    assert "interval of Δ needs 64 images" in doubts(Scores(fid=3.0), 40, 64, 64, paired=True)[-1]


@pytest.mark.parametrize(
    ("n", "splits", "said"),
    [
        (5, 1, "cannot exceed 5, and has no deviation"),
        (200, 10, "parts of 20 images, fewer than the 30 classes"),
        (300, 10, None),
    ],
)
def test_a_class_score_cannot_exceed_the_images_of_a_part(n: int, splits: int, said: str | None):
    for name in ("inception_score", "class_score"):
        fields: dict[str, Any] = {name: ClassScore(1.5, 0.0, splits, n, "net", 30)}
        found = doubts(Scores(**fields), n, None, None)
        assert bool(found) == (said is not None)
        assert said is None or said in found[0]


@pytest.mark.parametrize(("n", "m", "size"), [(100, 3000, 50), (3000, 101, 50), (7, 7, 3)])
def test_a_kernel_distance_says_that_its_subsets_are_smaller(n: int, m: int, size: int):
    rng = np.random.default_rng(0)
    kid = kernel_distance(rng.normal(size=(n, 4)), rng.normal(size=(m, 4)), subsets=3)
    [found] = doubts(Scores(kid=kid), n, m, 4)
    assert f"subsets of {size} images instead of 1000, since one side has only {min(n, m)}" in found


def test_enough_images_are_not_remarked_on():
    rng = np.random.default_rng(0)
    kid = kernel_distance(rng.normal(size=(2000, 4)), rng.normal(size=(2000, 4)), subsets=2)
    assert doubts(Scores(fid=1.0, kid=kid), 2000, 2000, 64, paired=True) == ()
