import copy
import math
import re

import pytest
import torch
from foreign_nets import (
    NETS,
    Conv2DMod,
    EqualConv2d,
    EqualLinear,
    ModulatedConv2d,
    StyledConv,
)
from torch import nn
from torch.nn import functional as F

from nas_gan.errors import CheckpointError
from nas_gan.networks import rewriting
from nas_gan.networks.normal_form import NormalForm, normal_form_, normalize_
from nas_gan.networks.rewriting import (
    Modulated,
    energy_of,
    plain_layer,
    register_rewrite,
    rewrite_modules_,
)


@pytest.fixture(autouse=True)
def _only_what_is_built_in(monkeypatch):
    monkeypatch.setattr(rewriting, "_rewrites", list(rewriting._rewrites))


class Around(nn.Module):
    """One module of a network, called with everything that it gets."""

    def __init__(self, module):
        super().__init__()
        self.inner = module

    def forward(self, *inputs):
        return self.inner(*inputs)


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Resampled(ModulatedConv2d):
    """The same convolution as others write it: no `scale`, and resized beforehand."""

    def __init__(self, sample_mode):
        super().__init__(5, 7, 3, 4)
        del self.upsample, self.downsample
        self.add_module("modulation", nn.Linear(4, 5))
        self.sample_mode = sample_mode
        self.weight = nn.Parameter(self.weight.detach() * self.scale)
        del self.scale

    def forward(self, x, style):
        factor = {"upsample": 2.0, "downsample": 0.5, None: 1.0}[self.sample_mode]
        if factor != 1:
            x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        scales = self.get_submodule("modulation")(style)
        weight = self.weight * scales[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + self.eps).rsqrt()
        rows = [F.conv2d(a[None], w, padding=1) for a, w in zip(x, weight, strict=True)]
        return torch.cat(rows)


Resampled.__name__ = "ModulatedConv2d"


class FullyConnectedLayer(nn.Module):
    """Both constants kept in attributes, and the bias inside the activation."""

    def __init__(self, activation):
        super().__init__()
        self.weight, self.bias = nn.Parameter(maps(7, 5)), nn.Parameter(maps(7))
        self.weight_gain, self.bias_gain, self.activation = 0.3, 0.5, activation

    def forward(self, x):
        x = x @ (self.weight * self.weight_gain).t() + self.bias * self.bias_gain
        return F.leaky_relu(x, 0.2) * 2**0.5 if self.activation == "lrelu" else x


MODULES = {
    "bilinear up": (lambda: Resampled("upsample"), (maps(2, 5, 6, 6), maps(2, 4))),
    "bilinear down": (lambda: Resampled("downsample"), (maps(2, 5, 6, 6), maps(2, 4))),
    "not resized": (lambda: Resampled(None), (maps(2, 5, 6, 6), maps(2, 4))),
    "fully connected": (lambda: FullyConnectedLayer("linear"), (maps(2, 5),)),
    "leaky": (lambda: FullyConnectedLayer("lrelu"), (maps(2, 5),)),
    "modulated": (lambda: ModulatedConv2d(5, 7, 3, 4), (maps(2, 5, 6, 6), maps(2, 4))),
    "1x1": (lambda: ModulatedConv2d(5, 3, 1, 4, demodulate=False), (maps(2, 5, 6, 6), maps(2, 4))),
    "up": (lambda: ModulatedConv2d(5, 7, 3, 4, upsample=True), (maps(2, 5, 6, 6), maps(2, 4))),
    "down": (lambda: ModulatedConv2d(5, 7, 3, 4, downsample=True), (maps(2, 5, 6, 6), maps(2, 4))),
    "mod": (lambda: Conv2DMod(5, 7, 3), (maps(2, 5, 6, 6), maps(2, 5))),
    "mod 5x5": (lambda: Conv2DMod(5, 7, 5, eps=1e-4), (maps(2, 5, 6, 6), maps(2, 5))),
    "mod, not normalised": (
        lambda: Conv2DMod(5, 7, 1, demod=False),
        (maps(2, 5, 6, 6), maps(2, 5)),
    ),
    "equal linear": (lambda: EqualLinear(5, 7, bias_init=1, lr_mul=0.1), (maps(2, 5),)),
    "no bias": (lambda: EqualLinear(5, 7, bias=False), (maps(2, 5),)),
    "activated": (lambda: EqualLinear(5, 7, bias_init=1, activation="fused_lrelu"), (maps(2, 5),)),
    "equal conv": (lambda: EqualConv2d(5, 7, 3, stride=2, padding=1), (maps(2, 5, 6, 6),)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_rewritten_module_makes_the_same_outputs_from_plain_layers(name):
    make, inputs = MODULES[name]
    torch.manual_seed(0)
    network = Around(make())
    before, kind = network(*inputs), type(network.inner).__name__
    names = rewrite_modules_(network, inputs)
    assert names[-1] == "inner"
    after = network(*inputs)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    kinds = {type(module).__name__ for module in network.modules()}
    assert kind not in kinds
    # Every parameter is in a plain layer.
    layers = [
        m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    assert {id(p) for p in network.parameters()} == {id(p) for m in layers for p in m.parameters()}
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_energy_of_a_kernel_by_hand():
    weight = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # one output, two inputs
    assert energy_of(weight).get_parameter("weight").tolist() == [[5.0, 9.0]]
    module = Modulated(plain_layer(weight), energy_of(weight), eps=0.0)
    x, style = torch.ones(1, 2, 1, 2), torch.tensor([[2.0, 1.0]])
    # 2 * (1 + 2) + 1 * 3, over the root of 4 * 5 + 1 * 9.
    assert module(x, style).item() == pytest.approx(9 / math.sqrt(29))


def test_energies_below_zero_do_not_break_a_factorized_module():
    weight = torch.ones(1, 1, 1, 1)
    module = Modulated(plain_layer(weight), plain_layer(-torch.ones(1, 1)))
    assert module(torch.ones(1, 1, 1, 1), torch.ones(1, 1)).isfinite().all()


@pytest.mark.parametrize("name", ["stylegan2", "lucid"])
def test_a_network_of_modulated_convolutions_is_rewritten_and_rebuilt_from_names(name):
    net = NETS[name]
    network = net.build()
    before, inputs = net.images(network, n=3), net.inputs(2, 1)
    form, remarks = normalize_(network, inputs, net.options)
    assert remarks == ()
    torch.testing.assert_close(net.images(network, n=3), before, rtol=1e-3, atol=1e-5)
    owners = {type(m).__name__ for m in network.modules() if [*m.parameters(recurse=False)]}
    assert not owners & {"ModulatedConv2d", "Conv2DMod", "EqualLinear"}
    assert {"Conv2d", "Linear"} <= owners

    rebuilt = copy.deepcopy(net.build())
    for parameter in rebuilt.parameters():
        nn.init.normal_(parameter)
    normal_form_(rebuilt, NormalForm.from_dict(form.to_dict()))
    assert list(rebuilt.state_dict()) == list(network.state_dict())
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(net.images(rebuilt, n=3), net.images(network, n=3))


def test_fresh_noise_in_every_pass_does_not_hide_that_a_network_agrees():
    net = NETS["stylegan2"]
    network = net.build()
    form, remarks = normalize_(network, net.inputs(2, 1))  # without randomize_noise=False
    assert remarks == ()
    assert "conv1.conv" in form.rewritten


class Scaled(nn.Module):
    """A class that nobody knows."""

    def __init__(self):
        super().__init__()
        self.kernel, self.gain = nn.Parameter(maps(6, 6, 3, 3)), 0.25

    def forward(self, x):
        return F.conv2d(x, self.kernel * self.gain, padding=1)


def test_a_user_makes_a_class_known_in_ten_lines():
    def plain(module):
        conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        conv.weight = nn.Parameter(module.kernel * module.gain)
        return conv

    register_rewrite("Scaled", plain)

    network, x = nn.Sequential(Scaled(), nn.Tanh()), maps(2, 6, 4, 4)
    before = network(x)
    assert rewrite_modules_(network, [x]) == ("0",)
    torch.testing.assert_close(network(x), before)
    assert type(network[0]) is nn.Conv2d


def test_a_rewrite_may_be_chosen_by_a_function_and_the_last_one_wins():
    register_rewrite("Scaled", lambda module: nn.Identity())
    register_rewrite(
        lambda module: hasattr(module, "gain"),
        lambda module: plain_layer(module.kernel * module.gain, padding=1),
    )
    network, x = nn.Sequential(Scaled()), maps(2, 6, 4, 4)
    assert rewrite_modules_(network, [x]) == ("0",)
    assert isinstance(network[0], nn.Conv2d)


WRONG = {
    "another result": (lambda m: plain_layer(m.kernel, padding=1), r"its output differs by .* of"),
    "another shape": (lambda m: plain_layer(m.kernel), "another shape"),
    "an error": (lambda m: plain_layer(m.wieght), "AttributeError: 'Scaled' object has no"),
    "not finite": (lambda m: plain_layer(m.kernel * math.inf, padding=1), "differs by nan"),
    "nothing": (lambda m: None, "not known"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rewrite_leaves_the_module_and_says_why(wrong):
    rewrite, reason = WRONG[wrong]
    register_rewrite("Scaled", rewrite)
    network, x, remarks = nn.Sequential(nn.Tanh(), Scaled()), maps(2, 6, 4, 4), list[str]()
    before = network(x)
    assert rewrite_modules_(network, [x], remarks=remarks) == ()
    assert torch.equal(network(x), before)
    [remark] = remarks
    assert remark.startswith("1: Scaled stays as it is: ")
    assert re.search(reason, remark)


class Reader(nn.Module):
    """Calls one module and looks into another."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Scaled(), Scaled()

    def forward(self, x):
        return self.a(self.b(x)) * self.b.gain


def test_a_module_that_the_network_looks_into_stays_and_the_others_are_rewritten():
    register_rewrite("Scaled", lambda m: plain_layer(m.kernel * m.gain, padding=1))
    network, x, remarks = Reader(), maps(2, 6, 4, 4), list[str]()
    before = network(x)
    assert rewrite_modules_(network, [x], remarks=remarks) == ("a",)
    torch.testing.assert_close(network(x), before)
    assert remarks[0].startswith("b: Scaled stays as it is: the network fails without it")


def test_a_module_that_never_runs_stays_since_nothing_can_be_compared():
    network, remarks = Reader(), list[str]()
    network.idle = EqualLinear(4, 4)
    assert rewrite_modules_(network, [maps(2, 6, 4, 4)], remarks=remarks) == ()
    assert "idle: EqualLinear stays as it is: the network never calls it" in remarks[0]


def test_a_shared_module_and_a_list_of_modules_get_the_same_new_one():
    class Listing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = EqualLinear(4, 4)
            self.steps = [self.first, self.second]
            self.by_name = {"first": self.first}

        def forward(self, x):
            return self.by_name["first"](self.steps[1](self.steps[0](x)))

    network, x = Listing(), maps(2, 4)
    before = network(x)
    assert rewrite_modules_(network, [x]) == ("first",)
    torch.testing.assert_close(network(x), before)
    assert network.first is network.second
    assert network.steps == [network.first, network.first]
    assert network.by_name == {"first": network.first}


def test_modes_and_frozen_weights_stay():
    network = Around(StyledConv(4, 4, 3, 4, upsample=False)).train()
    network.inner.conv.eval().requires_grad_(False)
    rewrite_modules_(network, [maps(2, 4, 5, 5), maps(2, 4), torch.zeros(2, 1, 5, 5)])
    conv = network.inner.conv
    assert isinstance(conv, Modulated)
    assert network.inner.training
    assert not any(module.training for module in conv.modules())
    assert not any(parameter.requires_grad for parameter in conv.parameters())


def test_a_class_of_the_same_name_with_other_insides_is_left_alone():
    class ModulatedConv2d(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(maps(4, 4, 3, 3))

        def forward(self, x, style):
            return F.conv2d(x, self.weight) * style.mean()

    network, remarks = Around(ModulatedConv2d()), list[str]()
    assert rewrite_modules_(network, [maps(2, 4, 5, 5), maps(2, 4)], remarks=remarks) == ()
    assert "not known" in remarks[0]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (NormalForm(folded=("0",)), "0: .* computed here"),
        (NormalForm(rewritten=("5",)), "5: .* found no module"),
        (NormalForm(rewritten=("0",)), "0: .* found a Linear"),
    ],
)
def test_a_form_of_another_network_is_refused(form, message):
    with pytest.raises(CheckpointError, match=message):
        normal_form_(nn.Sequential(nn.Linear(2, 2)), form)


@pytest.mark.parametrize(
    "values", [{"folded": "0"}, {"rewritten": [1]}, {"other": []}, {"folded": 3}]
)
def test_a_form_that_is_not_lists_of_names_is_refused(values):
    with pytest.raises(CheckpointError, match="normal form"):
        NormalForm.from_dict(values)
