from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from tiny import lively_generator

from nas_gan.metrics.collecting import Collected, Wanted, collect
from nas_gan.metrics.features import make_extractor
from nas_gan.metrics.looking import BATCHES, Look
from nas_gan.metrics.sources import GeneratedSource
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import StreamedLatents
from nas_gan.workers.executors import Item, Result
from nas_gan.workers.packing import pack, unpack

N, BATCH = 2 * BATCHES * 4 + 3, 4  # two whole parts, and one that ends within a batch


class LastFirst:
    """Finishes its items in the reverse order."""

    n_workers = n_trainers = 2

    def __init__(self) -> None:
        self.n_items = 0

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        self.n_items += len(items)
        yield from [(item, function(item)) for item in items][::-1]


@pytest.fixture(scope="module")
def source() -> GeneratedSource:
    generator = lively_generator()
    return GeneratedSource("g", generator, StreamedLatents(interface_of(generator), N, 3))


def test_what_workers_collect_does_not_depend_on_who_is_finished_first(
    source: GeneratedSource,
) -> None:
    extractor = make_extractor("efficientnet-lite0", threads=1)
    wanted = Wanted(statistics=True, class_score=True, features=7, images=5)

    def collected(executor: LastFirst | None) -> Collected:
        return collect(source, wanted, lambda: extractor, batch_size=BATCH, executor=executor)

    executor = LastFirst()
    here, there = collected(None), collected(executor)
    assert executor.n_items == 3
    assert here.n == there.n == N
    assert here.statistics is not None
    assert there.statistics is not None
    np.testing.assert_array_equal(here.statistics.mean, there.statistics.mean)
    np.testing.assert_array_equal(here.statistics.covariance, there.statistics.covariance)
    assert here.class_score == there.class_score
    np.testing.assert_array_equal(here.features, there.features)
    assert here.images is not None
    assert there.images is not None
    assert torch.equal(here.images, there.images)


@pytest.mark.ray
def test_what_is_sent_to_a_worker_draws_the_same_images_and_features(
    source: GeneratedSource,
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    look = Look(source, make_extractor("efficientnet-lite0", threads=1), BATCH)
    packed = pack(look)
    there = unpack(packed.message, packed.parts, {}, "cpu")
    for (batch, features), (other, found) in zip(
        look(range(4, 12)), there(range(4, 12)), strict=True
    ):
        assert batch.rows.tolist() == other.rows.tolist()
        assert torch.equal(batch.images, other.images)
        np.testing.assert_array_equal(features, found)
