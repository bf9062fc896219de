from __future__ import annotations

import copy
from functools import partial
from typing import cast

import torch
from torch import nn

from ard.recovery.memory import RememberedImages, RememberedScores, remembered_batches
from nas_gan.networks import memory


def test_images_are_made_once_while_there_is_memory():
    images, made = RememberedImages(max_bytes=2 * 16), list[str]()

    def make(key: str) -> torch.Tensor:
        made.append(key)
        return torch.full((4,), float(len(made)))  # 16 bytes

    for _ in range(2):
        for key in ("a", "b", "c"):
            images(key, partial(make, key))
    assert made == ["a", "b", "c", "c"]
    assert images("a", lambda: make("a")).tolist() == [1.0] * 4


def test_images_take_no_more_than_a_share_of_the_memory_that_is_there(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 8 * 16)
    images = RememberedImages()
    images("a", lambda: torch.zeros(4))  # 16 bytes
    images("b", lambda: torch.zeros(4))
    assert list(images.known) == ["a"]


def test_batches_are_drawn_once_and_those_with_labels_each_time():
    drawn: list[int] = []

    def plain(index):
        drawn.append(index)
        return torch.full((2,), float(index))

    batches = remembered_batches(plain, RememberedImages())
    found = [cast(torch.Tensor, batches(i)).tolist() for i in (0, 1, 0)]
    assert found == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    assert drawn == [0, 1]
    labelled = remembered_batches(lambda i: (plain(i), torch.ones(2)), RememberedImages())
    assert labelled(5)[0].tolist() == labelled(5)[0].tolist() == [5.0, 5.0]
    assert drawn == [0, 1, 5, 5]


def test_the_same_weights_are_scored_once():
    calls: list[nn.Module] = []

    def score(network: nn.Module) -> float:
        calls.append(network)
        return float(len(calls))

    scored, net = RememberedScores(score), nn.Linear(2, 2)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.weight[0, 0] += 1e-3
    assert [scored(n) for n in (net, copy.deepcopy(net), other, net)] == [1.0, 1.0, 2.0, 1.0]
