from typing import Any

import pytest
import torch
from torch import nn

from nas_gan.networks.hooks import hooked, observing, run_batches


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).train()


def n_hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_what_enters_and_what_leaves_is_told_in_the_order_of_the_calls():
    network, told = net(), []
    x = torch.ones(4, 2)
    with hooked(
        entering=[(network[0], lambda x: told.append(("in", x)))],
        leaving=[(network[2], lambda inputs, output: told.append(("out", output)))],
    ):
        found = network(x)
    assert [name for name, _ in told] == ["in", "out"]
    assert told[0][1] is x
    assert told[1][1] is found


def test_what_a_function_returns_leaves_instead():
    network = net()
    with hooked(leaving=[(network[2], lambda inputs, output: torch.zeros_like(output))]):
        assert not network(torch.ones(4, 2)).any()
    assert network(torch.ones(4, 2)).any()


def test_an_observed_network_is_in_evaluation_mode_without_gradients_and_back_afterwards():
    network, told = net(), list[Any]()
    network[0].eval()
    with observing(network, entering=[(network[1], told.append)]):
        run_batches(network, torch.ones(5, 2), batch_size=2)
        assert not any(module.training for module in network.modules())
    assert [len(x) for x in told] == [2, 2, 1]
    assert not any(x.requires_grad for x in told)
    assert torch.equal(network[1].running_mean, torch.zeros(3))
    assert [module.training for module in network] == [False, True, True]


def test_no_hook_survives_an_error():
    network = net()

    def fail(x):
        raise KeyError

    with pytest.raises(KeyError), observing(network, entering=[(network[1], fail)]):
        network(torch.ones(4, 2))
    assert n_hooks(network) == 0
    assert network.training
