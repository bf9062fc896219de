from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ray", reason="Ray is not installed")

from nas_gan.devices import Device
from nas_gan.workers.packing import LEAST, Packed, pack, unpack

pytestmark = pytest.mark.ray


class Opened:
    """Takes long to open, as a network of ONNX Runtime does."""

    kept_by_workers = True

    def __init__(self, size: int, device: str = "cpu") -> None:
        self.size, self.device = size, torch.device(device)


def sent(packed: Packed) -> object:
    return unpack(packed.message, packed.parts, {}, "cpu")()


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
    first = unpack(one.message, one.parts, kept, "cpu")()
    second, _ = unpack(other.message, other.parts, kept, "cpu")()
    assert first is second
    assert first.size == 3


@pytest.mark.parametrize("own", ["cpu", "cuda"])
def test_what_says_where_something_runs_says_the_device_of_the_worker(own: str) -> None:
    opened, place, inside = Opened(3, "cuda:1"), Device("cuda:1"), {"on": [torch.device("cuda:1")]}
    packed = pack(lambda: (place, inside, opened))
    name, held, kept = unpack(packed.message, packed.parts, {}, own)()
    assert (name, type(name)) == (own, Device)  # so that it can be sent on
    assert held == {"on": [torch.device(own)]}
    assert kept.device == torch.device(own)


@pytest.mark.parametrize("own", ["cpu", "cuda"])
def test_what_is_on_the_cpu_stays_there_and_words_stay_words(own: str) -> None:
    place, word, on, weight = Device("cpu"), "cuda", torch.device("cpu"), torch.rand(64, 64)
    packed = pack(lambda: (place, word, on, weight))
    *told, arrived = unpack(packed.message, packed.parts, {}, own)()
    assert told == ["cpu", "cuda", torch.device("cpu")]
    assert torch.equal(arrived, weight)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("own", ["cpu", "cuda"])
def test_weights_of_a_gpu_arrive_on_the_device_of_the_worker(own: str) -> None:
    small, large = torch.rand(3).cuda(), torch.rand(64, 64).cuda()
    opened: Any = Opened(3)
    opened.weight = large * 2
    packed = pack(lambda: (small, large, opened))
    one, other, kept = unpack(packed.message, packed.parts, {}, own)()
    assert {one.device.type, other.device.type, kept.weight.device.type} == {own}
    assert torch.equal(one.cpu(), small.cpu())
    assert torch.equal(other.cpu(), large.cpu())
    assert torch.equal(kept.weight.cpu(), 2 * large.cpu())
