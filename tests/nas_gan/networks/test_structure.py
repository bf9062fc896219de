import copy
from typing import Any

import pytest
import torch
from torch import nn

from nas_gan.errors import CheckpointError
from nas_gan.networks.structure import (
    apply_structure,
    build_layer,
    evaluating,
    layer_spec,
    replace_modules,
    weight_sharers,
)

LAYERS = [
    nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(0, 2), dilation=(2, 1), bias=False),
    nn.Conv2d(4, 4, 3, padding="same", groups=4, padding_mode="circular"),
    nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, output_padding=1),
    nn.Conv1d(4, 6, 3, stride=2, padding="valid"),
    nn.ConvTranspose1d(4, 6, 4, stride=3, output_padding=2, groups=2),
    nn.Conv3d(4, 6, (1, 2, 3), padding=(0, 1, 2), padding_mode="replicate"),
    nn.ConvTranspose3d(4, 6, 2, dilation=(1, 2, 1), bias=False),
    nn.Linear(4, 6, bias=False),
    nn.Identity(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_survives_its_spec(layer):
    rebuilt = build_layer(layer_spec(layer))
    assert repr(rebuilt) == repr(layer)
    rebuilt.load_state_dict(layer.state_dict())


def test_a_built_layer_is_zero_and_draws_no_random_number():
    state = torch.get_rng_state()
    layer: Any = build_layer(
        layer_spec(nn.Identity()) | {"type": "Linear", "in_features": 3} | FEATURES
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert not layer.weight.any()


FEATURES = {"out_features": 2, "bias": True}


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.LazyLinear(3), nn.Bilinear(1, 1, 1)])
def test_other_layers_have_no_spec(layer):
    with pytest.raises(CheckpointError, match="cannot describe a"):
        layer_spec(layer)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "of type None"),
        ("Linear", "of type None"),
        ({"type": "Module"}, "of type 'Module'"),
        ({"type": ["Linear"]}, "of type"),
        ({"type": "Linear", "in_features": 2}, "out_features"),
        ({"type": "Linear", "in_features": 2, "device": "cuda"} | FEATURES, "unknown .*device"),
        ({"type": "Linear", "in_features": "2"} | FEATURES, "Linear of the compressed structure"),
        ({"type": "Conv2d", "in_channels": 2, "out_channels": 3, "kernel_size": 0}, "Conv2d"),
    ],
)
def test_a_spec_from_a_bad_file_is_refused(spec, message):
    with pytest.raises(CheckpointError, match=message):
        build_layer(spec)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.again = self.a
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))


def test_replacing_a_module_makes_a_new_net():
    net, new = Net(), nn.Linear(3, 5)
    replaced: Any = replace_modules(net, {"rest.1": new})
    assert replaced.rest[1].out_features == 5
    assert net.rest[1].out_features == 2
    shared = {p.data_ptr() for p in [*net.parameters(), *new.parameters()]}
    assert shared.isdisjoint(p.data_ptr() for p in replaced.parameters())


def test_a_module_with_two_names_is_replaced_under_both():
    replaced = replace_modules(Net(), {"a": nn.Identity()})
    assert replaced.a is replaced.again
    assert isinstance(replaced.a, nn.Identity)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.c = nn.Linear(3, 3)


def test_layers_that_shared_a_weight_get_replacements_that_share_theirs():
    parts = {name: nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 3)) for name in "abc"}
    new: Any = replace_modules(Shared(), parts)
    assert new.a[0].weight is new.b[0].weight
    assert new.a[1].weight is new.b[1].weight
    assert new.a[1].bias is not new.b[1].bias
    assert new.c[0].weight is not new.a[0].weight
    assert parts["a"][0].weight is not parts["b"][0].weight


def test_who_holds_a_weight():
    assert weight_sharers(Shared(), "b") == ("a", "b")
    assert weight_sharers(Shared(), "c") == ("c",)
    assert weight_sharers(nn.Sequential(nn.ReLU()), "0") == ("0",)


def test_the_structure_takes_device_and_type_of_what_it_replaces():
    net = Net().double().eval()
    structure = {"rest.1": [layer_spec(nn.Linear(3, 1, bias=False)), layer_spec(nn.Linear(1, 2))]}
    rebuilt: Any = apply_structure(net, structure)
    assert {p.dtype for p in rebuilt.parameters()} == {torch.float64}
    assert not rebuilt.rest[1].training


def test_a_structure_for_another_net_names_the_layer():
    with pytest.raises(CheckpointError, match="no layer 'b'"):
        replace_modules(Net(), {"b": nn.Identity()})
    with pytest.raises(CheckpointError, match="a: a layer of the compressed structure"):
        apply_structure(Net(), {"a": [{"type": "eval"}]})


def test_evaluating_gives_every_module_its_mode_back():
    net = Net()
    net.rest.eval()
    modes = copy.deepcopy([m.training for m in net.modules()])
    with evaluating(net):
        assert not any(m.training for m in net.modules())
        assert not torch.is_grad_enabled()
    assert [m.training for m in net.modules()] == modes


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "Linear", "in_features": 100, "out_features": 10, "bias": False},
        {"type": "Conv2d", "in_channels": 10, "out_channels": 4, "kernel_size": [5, 5],
         "bias": False},
        {"type": "Gate", "form": "gate"},
    ],
    ids=lambda spec: spec["type"],
)  # fmt: skip
def test_a_layer_may_have_all_the_parameters_that_are_left(spec: dict[str, Any]) -> None:
    size = 3 if spec["type"] == "Gate" else 1000
    assert sum(p.numel() for p in build_layer(spec, size).parameters()) == size
    with pytest.raises(CheckpointError, match=f"more than {size - 1:,} parameters"):
        build_layer(spec, size - 1)
