import pytest
import torch
from torch import nn

from nas_gan.errors import CheckpointError
from nas_gan.weights.fitting import load_weights


def norm():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_a_missing_count_of_batches_is_zero():
    network = norm()
    count = network.get_buffer("1.num_batches_tracked")
    count += 5
    state = {n: t for n, t in norm().state_dict().items() if "tracked" not in n}
    load_weights(network, state)
    assert count == 0
    load_weights(network, {f"model.{name}": t for name, t in state.items()})


def test_counts_and_versions_that_a_network_lacks_are_left_out():
    state = nn.Linear(2, 2).state_dict()
    extra = {"num_batches_tracked": torch.tensor(3), "a.version": torch.tensor([2])}
    network = nn.Linear(2, 2)
    load_weights(network, state | extra)
    assert torch.equal(network.weight, state["weight"])
    with pytest.raises(CheckpointError, match=r"a\.version is not in the network"):
        load_weights(network, state | {"a.version": torch.ones(2)})


def test_integer_buffers_stay_what_they_are():
    class Indexed(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("index", torch.zeros(2, dtype=torch.int64))

    network = Indexed()
    load_weights(network, Indexed().state_dict() | {"index": torch.tensor([2**53 + 1, 3])})
    assert network.get_buffer("index").tolist() == [2**53 + 1, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if n != "0.bias"}, "0.bias is missing$"),
        (lambda s: s | {"2.weight": torch.ones(1)}, "2.weight is not in the network$"),
        (lambda s: s | {"0.bias": torch.ones(3)}, r"0.bias is \(3,\), the network needs \(2,\)$"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "generator.net."])
def test_what_does_not_fit_is_named_under_the_nearest_names(change, message, prefix):
    state = {prefix + name: tensor for name, tensor in change(norm().state_dict()).items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(norm(), state)


def test_a_network_with_values_beside_its_tensors_is_filled():
    class Extra(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)

        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            raise AssertionError("nothing of the kind was stored")

    state = nn.Linear(2, 2).state_dict()
    network = Extra()
    load_weights(network, state)
    assert torch.equal(network.bias, state["bias"])
