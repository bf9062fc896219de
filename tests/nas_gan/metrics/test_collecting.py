from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nas_gan.data.images import ArrayImages
from nas_gan.metrics.collecting import Wanted, choose_rows, collect
from nas_gan.metrics.frechet import statistics_of
from nas_gan.metrics.sources import DatasetSource


class MeanColour:
    name, dim, comparable = "mean-colour", 3, False

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return images.float().mean(dim=(2, 3)).numpy()

    def logits(self, features):
        return features / 50


@pytest.fixture
def source() -> DatasetSource:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 4, 4), generator=rng).byte()
    return DatasetSource(ArrayImages("noise", pixels))


def test_one_pass_serves_every_metric(source: Any):
    network = MeanColour()
    every = network(source.images.images)
    network.seen = 0
    wanted = Wanted(statistics=True, class_score=True, features=10, images=7)
    collected: Any = collect(source, wanted, lambda: network, seed=1, batch_size=8)
    assert (network.seen, collected.n) == (50, 50)
    expected = statistics_of(every)
    np.testing.assert_allclose(collected.statistics.covariance, expected.covariance)
    np.testing.assert_array_equal(collected.features, every[choose_rows(50, 10, 1)])
    assert torch.equal(collected.images, source.images.images[choose_rows(50, 7, 1)])
    assert collected.class_score.classes == "mean-colour"


def test_pixels_alone_need_no_network(source: DatasetSource):
    def none() -> MeanColour:
        raise AssertionError("a network was made")

    collected = collect(source, Wanted(images=5), none)
    assert collected.images is not None
    assert collected.images.shape == (5, 3, 4, 4)
    assert collected.features is None


def test_a_subset_is_random_sorted_and_whole_where_it_fits():
    rows = choose_rows(1000, 100, 0)
    assert (np.diff(rows) > 0).all()
    assert rows.mean() == pytest.approx(500, abs=100)
    assert choose_rows(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
