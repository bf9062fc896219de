from typing import Any

import pytest
import torch
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.training.averaging import ExponentialMovingAverage


def filled(net, value):
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.fill_(value)
    return net


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_the_average_approaches_a_constant_model_geometrically(n):
    start, constant = 3.0, -1.0
    net = filled(nn.Linear(2, 2).double(), start)
    average = ExponentialMovingAverage(net, 0.999)
    filled(net, constant)
    for _ in range(n):
        average.update(net)
    expected = constant + (start - constant) * 0.999**n
    for parameter in average.average.parameters():
        torch.testing.assert_close(
            parameter, torch.full_like(parameter, expected), atol=0, rtol=1e-12
        )


def test_float_buffers_are_averaged_and_integers_copied():
    net = nn.BatchNorm1d(2)
    average: Any = ExponentialMovingAverage(net, 0.75)
    filled(net, 5)
    average.update(net)
    assert average.average.running_mean.tolist() == [1.25, 1.25]  # 0.75 * 0 + 0.25 * 5
    assert average.average.running_var.tolist() == [2, 2]  # 0.75 * 1 + 0.25 * 5
    assert average.average.num_batches_tracked == 5


def test_the_average_is_a_copy_for_evaluation():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    average = ExponentialMovingAverage(net).average
    assert not any(module.training for module in average.modules())
    assert not any(p.requires_grad for p in average.parameters())
    filled(net, 7)
    assert all((p != 7).all() for p in average.parameters())


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_that_would_not_average_is_refused(decay):
    with pytest.raises(InvalidValueError, match="must be in"):
        ExponentialMovingAverage(nn.Linear(1, 1), decay)


def test_a_warm_average_forgets_its_start_at_once():
    net = filled(nn.Linear(1, 1), 0)
    average: Any = ExponentialMovingAverage(net, 0.999, warm_up=True)
    filled(net, 1)
    expected = 0.0
    for n in range(3):
        assert average.present_decay == pytest.approx((1 + n) / (10 + n))
        expected = average.present_decay * expected + (1 - average.present_decay)
        average.update(net)
    assert average.average.weight.item() == pytest.approx(expected)


def test_a_warm_average_never_decays_slower_than_it_was_told():
    average = ExponentialMovingAverage(nn.Linear(1, 1), 0.9, warm_up=True)
    average.updates = 10_000
    assert average.present_decay == 0.9


def test_an_average_goes_on_from_its_state():
    net = filled(nn.Linear(1, 1), 0)
    first: Any = ExponentialMovingAverage(net, warm_up=True)
    first.update(filled(net, 1))
    second: Any = ExponentialMovingAverage(net, warm_up=True)
    second.load_state_dict(first.state_dict())
    assert second.present_decay == first.present_decay
    assert second.average.weight.item() == first.average.weight.item() == pytest.approx(0.9)
