from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ray", reason="Ray is not installed")

from nas_gan.workers.packing import LEAST, Packed, pack, unpack

pytestmark = pytest.mark.ray


class Opened:
    """Takes long to open, as a network of ONNX Runtime does."""

    kept_by_workers = True

    def __init__(self, size: int) -> None:
        self.size = size


def sent(packed: Packed) -> object:
    return unpack(packed.message, packed.parts, {})()


def test_functions_that_share_weights_refer_to_the_same_parts() -> None:
    weight, features = torch.rand(64, 64), np.random.default_rng(0).random((64, 64))
    one, other = pack(lambda: weight), pack(lambda: (features, weight))
    assert set(one.parts) < set(other.parts)
    assert len(other.message) < LEAST


def test_a_weight_that_has_changed_is_another_part() -> None:
    weight = torch.rand(64, 64)
    before = set(pack(lambda: weight).parts)
    weight.add_(1)
    assert before.isdisjoint(pack(lambda: weight).parts)


def test_tied_weights_and_views_are_one_memory_afterwards() -> None:
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    row = first.weight.detach()[3]
    arrived: Any = sent(pack(lambda: (first, second, row)))
    one, two, view = arrived
    assert one.weight is two.weight
    with torch.no_grad():
        one.weight[3] = 7
    assert view.tolist() == [7] * 64
    assert not (first.weight[3] == 7).any()


def test_equal_but_separate_weights_stay_separate() -> None:
    first, second = torch.zeros(64, 64), torch.zeros(64, 64)
    packed = pack(lambda: (first, second))
    arrived: Any = sent(packed)
    one, two = arrived
    one += 1
    assert len(packed.parts) == 1
    assert not two.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8])
def test_tensors_keep_type_strides_and_values(dtype: torch.dtype) -> None:
    tensor = (torch.rand(4, 8, 16, 16) * 100).to(dtype).to(memory_format=torch.channels_last)
    back = sent(pack(lambda: tensor))
    assert isinstance(back, torch.Tensor)
    assert back.stride() == tensor.stride()
    assert torch.equal(back, tensor)


def test_arrays_keep_their_order_and_can_be_written() -> None:
    array = np.asfortranarray(np.random.default_rng(0).random((64, 32)))
    back = sent(pack(lambda: array))
    assert isinstance(back, np.ndarray)
    assert back.flags.f_contiguous
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)


def test_what_takes_long_to_open_is_opened_once_for_all_functions() -> None:
    opened, kept = Opened(3), dict[str, object]()
    one, other = pack(lambda: opened), pack(lambda: (opened, 1))
    first = unpack(one.message, one.parts, kept)()
    second, _ = unpack(other.message, other.parts, kept)()
    assert first is second
    assert first.size == 3
