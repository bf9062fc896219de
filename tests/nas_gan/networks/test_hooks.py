import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ard.assembly.statistics import output_covariances
from nas_gan.networks.hooks import hooked, keeping_activations, observing, run_batches


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).train()


def n_observed(network):
    return sum("forward" in vars(module) for module in network.modules())


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
    assert n_observed(network) == 0
    assert network.training


class Wrapper(nn.Module):
    """Runs its layer in one of the ways in which other people run theirs."""

    def __init__(self, run):
        super().__init__()
        self.layer, self.run = nn.Linear(3, 3), run

    def forward(self, x):
        return self.run(self.layer, x)


WAYS = {
    "call": lambda layer, x: layer(x),
    "forward": lambda layer, x: layer.forward(x),
    "keyword": lambda layer, x: layer(input=x),
    "forward by keyword": lambda layer, x: layer.forward(input=x),
    "data parallel": lambda layer, x: nn.DataParallel(layer)(x),
    "checkpoint": lambda layer, x: checkpoint(layer, x, use_reentrant=False),
    "re-entrant checkpoint": lambda layer, x: checkpoint(layer, x, use_reentrant=True),
    "own name": lambda layer, x: layer._call_impl(x),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_calling_a_layer_is_seen_once(way):
    network, x, told = Wrapper(WAYS[way]), torch.randn(2, 3), list[Any]()
    with observing(
        network,
        entering=[(network.layer, told.append)],
        leaving=[(network.layer, lambda inputs, output: told.extend([*inputs, output]))],
    ):
        found = network(x)
    assert [part is x for part in told] == [True, True, False]
    assert torch.equal(told[2], found)
    assert torch.equal(found, network.layer(x))


@pytest.mark.parametrize("way", WAYS)
def test_what_matters_to_the_image_is_measured_in_every_way_of_calling(way):
    network, x = Wrapper(WAYS[way]).requires_grad_(False), torch.randn(4, 3)
    [matrix] = output_covariances(network, x, ["layer"], n_probes=64).values()
    # The image is the output: each direction of random signs has a mean square of 1.
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3, dtype=torch.float64))


def test_inputs_by_keyword_follow_in_the_order_of_the_signature():
    layer, told = nn.ConvTranspose2d(1, 1, 2, stride=2), list[Any]()
    x = torch.ones(1, 1, 2, 2)
    with hooked(leaving=[(layer, lambda inputs, output: told.append(inputs))]):
        layer(output_size=[5, 5], input=x)
    assert told[0][0] is x
    assert told[0][1] == [5, 5]


def test_blocks_may_be_nested_on_one_module():
    layer, told = nn.Linear(3, 3), []
    with hooked(entering=[(layer, lambda x: told.append("outer"))]):
        with hooked(leaving=[(layer, lambda inputs, output: torch.zeros_like(output))]):
            assert not layer(torch.ones(1, 3)).any()
        assert layer(torch.ones(1, 3)).any()
    layer(torch.ones(1, 3))
    assert told == ["outer", "outer"]
    assert n_observed(layer) == 0


def test_all_functions_of_a_module_are_told_each_time_that_it_is_called():
    layer = nn.Linear(3, 3)
    network, told = nn.Sequential(layer, layer), []
    listed = [(layer, lambda x: told.append("a")), (layer, lambda x: told.append("b"))]
    with hooked(entering=listed):
        network(torch.ones(1, 3))
    assert told == ["a", "b", "a", "b"]


def test_a_copy_made_within_the_block_has_weights_of_its_own_and_is_not_observed():
    network, told = nn.Sequential(nn.Linear(3, 3)), list[Any]()
    x = torch.ones(1, 3)
    with hooked(entering=[(network[0], told.append)]):
        twin = copy.deepcopy(network)
        for parameter in twin.parameters():
            nn.init.zeros_(parameter)
        assert not twin(x).any()
        assert not copy.deepcopy(twin)(x).any()
        assert told == []
        assert network(x).any()
    assert len(told) == 1


def test_a_forward_that_was_replaced_before_is_there_afterwards():
    layer: Any = nn.Linear(3, 3)
    told = list[Any]()
    double = lambda x: 2 * x  # noqa: E731
    layer.forward = double
    with hooked(entering=[(layer, told.append)]):
        assert torch.equal(layer(torch.ones(3)), torch.full((3,), 2.0))
    assert len(told) == 1
    assert layer.forward is double


def test_gradients_pass_through_an_observed_layer():
    layer: Any = nn.Linear(3, 1)
    with hooked(leaving=[(layer, lambda inputs, output: 2 * output)]):
        layer(torch.ones(1, 3)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.full((1, 3), 2.0))


def test_checkpoints_recompute_again_after_the_block():
    before = torch.utils.checkpoint.CheckpointFunction
    with pytest.raises(KeyError), keeping_activations():
        raise KeyError
    assert torch.utils.checkpoint.CheckpointFunction is before
