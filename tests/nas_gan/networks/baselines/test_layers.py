from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import UNIT
from nas_gan.networks.baselines.layers import (
    LAYERS,
    LogOdds,
    Maxout,
    Noise,
    SelfAttention,
    Slots,
    build_layers,
)

# One of each type, with what enters it.
SAMPLES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "linear": ({"out": 5}, (12,)),
    "conv": ({"out": 5, "kernel": 4, "stride": 2, "padding": 1}, (3, 9, 8)),
    "conv_transpose": ({"out": 5, "kernel": 4, "stride": 2, "output_padding": 1}, (3, 4, 5)),
    "maxout": ({"out": 4, "pieces": 3}, (6,)),
    "upsample": ({"scale": 3, "mode": "bilinear"}, (3, 4, 5)),
    "average_pool": ({}, (3, 4, 6)),
    "batch_norm": ({}, (3, 4, 4)),
    "hidden": ({"slope": 0.2}, (3, 4, 4)),
    "output": ({}, (7,)),
    "activation": ({"name": "pmish"}, (7,)),
    "dropout": ({"rate": 0.3}, (7,)),
    "noise": ({"rate": 0.3, "distribution": "normal"}, (7,)),
    "reshape": ({"to": [2, 3, 4]}, (24,)),
    "flatten": ({}, (2, 3, 4)),
    "self_attention": ({}, (8, 4, 6)),
}


def test_every_type_has_a_sample():
    assert SAMPLES.keys() == LAYERS.keys()


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_inferred_shape_is_that_of_the_output(kind):
    options, shape = SAMPLES[kind]
    built = build_layers([{"type": kind, **options}], shape, Slots())
    assert built.module(torch.randn(2, *shape)).shape[1:] == built.shape


@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("out", 0, 1), ("kernel", -3, 1), ("stride", 1.0, 1), ("padding", -1, 0)],
)
def test_both_kinds_of_convolution_refuse_the_same_sizes(kind, option, value, least):
    layer = {"type": kind, "out": 4, "kernel": 3, option: value}
    message = f"{option} must be a whole number of at least {least}; got {value}"
    with pytest.raises(InvalidValueError, match=message):
        build_layers([layer], (3, 8, 8), Slots())


@pytest.mark.parametrize("geometry", [(1, 1, 0, 1), (3, 2, 1, 1), (5, 1, 4, 2), (4, 3, 0, 1)])
def test_a_convolution_of_any_geometry_has_the_inferred_shape(geometry):
    kernel, stride, padding, dilation = geometry
    conv = {"out": 2, "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    built = build_layers([{"type": "conv", **conv}], (3, 17, 11), Slots())
    assert built.module(torch.randn(1, 3, 17, 11)).shape[1:] == built.shape


def test_a_list_is_a_chain_of_numbered_parts():
    specs: list[dict[str, Any]] = [
        {"type": "linear", "out": 4}, {"type": "hidden"}, {"type": "linear", "out": 2}
    ]  # fmt: skip
    net: Any = build_layers(specs, (3,), Slots()).module
    assert [name for name, _ in net.named_children()] == ["linear1", "hidden1", "linear2"]
    x = torch.randn(5, 3)
    expected = net.linear2(torch.relu(net.linear1(x)))
    assert torch.equal(net(x), expected)


def test_maxout_is_the_largest_of_its_linear_maps():
    layer = Maxout(3, 2, 4)
    x = torch.randn(6, 3)
    rows = layer.linear.weight.view(4, 2, 3)
    pieces = torch.stack(
        [x @ w.T + b for w, b in zip(rows, layer.linear.bias.view(4, 2), strict=True)]
    )
    torch.testing.assert_close(layer(x), pieces.max(dim=0).values)


def test_noise_acts_in_training_alone_and_has_its_size(rng):
    x = torch.zeros(20_000)
    uniform, normal = Noise(0.3, "uniform"), Noise(0.3, "normal")
    torch.manual_seed(0)
    assert uniform(x).min() >= 0
    assert uniform(x).max() < 0.3
    assert uniform(x).mean().item() == pytest.approx(0.15, rel=0.03)
    assert normal(x).std().item() == pytest.approx(0.3, rel=0.03)
    assert torch.equal(uniform.eval()(x), x)


def test_attention_starts_as_the_identity_and_is_its_formula():
    block, x = SelfAttention(16, 8), torch.randn(2, 16, 4, 6)
    assert torch.equal(block(x), x)
    nn.init.constant_(block.gamma, 0.5)
    q = block.query(x).flatten(2)
    k, v = (F.max_pool2d(f(x), 2).flatten(2) for f in (block.key, block.value))
    attention = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k), dim=2)
    mixed = torch.einsum("bcm,bnm->bcn", v, attention).view(2, 8, 4, 6)
    torch.testing.assert_close(block(x), x + 0.5 * block.project(mixed))


def test_log_odds_undo_a_sigmoid_and_keep_the_gradient_of_what_is_out_of_range():
    scores = torch.linspace(-5, 5, 11, dtype=torch.float64)
    torch.testing.assert_close(LogOdds()(torch.sigmoid(scores)), scores)
    p = torch.tensor([-0.2, 0.0, 1.0, 1.3], requires_grad=True)
    odds = LogOdds()(p)
    odds.sum().backward()
    assert odds.isfinite().all()
    assert p.grad is not None
    assert p.grad.gt(0).all()


def test_slots_are_filled_by_name():
    specs: list[dict[str, Any]] = [{"type": "hidden", "slope": 0.2}, {"type": "output"}]

    def parts(**slots):
        return list(build_layers(specs, (3, 4, 4), Slots(**slots)).module.children())

    assert [type(part) for part in parts()] == [nn.LeakyReLU, nn.Tanh]
    assert [type(part) for part in parts(interval=UNIT)] == [nn.LeakyReLU, nn.Identity]
    assert parts(hidden="mida")[0].t.shape == (3, 4, 4)
    assert parts(hidden="mida", sharing="channel")[0].t.shape == (3, 1, 1)
    assert parts(hidden="mida", sharing="site")[0].t.shape == (1,)
    assert parts(output="bhsa")[1].t.shape == (3, 4, 4)
    assert isinstance(parts(output="bhsa", interval=UNIT)[1][1], LogOdds)


def test_layers_that_ask_for_spectral_norm_are_listed_with_what_enters_them():
    specs: list[dict[str, Any]] = [
        {"type": "conv", "out": 4, "kernel": 3, "spectral_norm": 1.5},
        {"type": "conv", "out": 4, "kernel": 1},
        {"type": "self_attention", "spectral_norm": 1},
        {"type": "flatten"},
        {"type": "linear", "out": 1, "spectral_norm": 2.0},
    ]
    built = build_layers(specs, (3, 6, 6), Slots())
    assert built.normed[0] == ("conv1", (3, 6, 6), 1.5)
    assert built.normed[-1] == ("linear1", (64,), 2.0)
    inner = {name: shape for name, shape, _ in built.normed if "attention" in name}
    assert inner == {f"self_attention1.{n}": (4, 4, 4) for n in ("query", "key", "value")} | {
        "self_attention1.project": (2, 4, 4)
    }


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ({"type": "convv", "out": 1}, (3, 4, 4), "'convv' is not known; did you mean conv"),
        ({"type": "conv", "out": 1, "kernels": 3}, (3, 4, 4), "'kernels' is not known.*kernel"),
        ({"type": "conv", "out": 1}, (3, 4, 4), "missing 1 required .* 'kernel'"),
        ({"type": "conv", "out": 1, "kernel": 3}, (12,), "takes a feature map .*reshape"),
        ({"type": "conv", "out": 1, "kernel": 9}, (3, 4, 4), "too small"),
        ({"type": "conv", "out": "8", "kernel": 3}, (3, 4, 4), "out must be a whole number"),
        ({"type": "linear", "out": 0}, (3,), "out must be a whole number"),
        ({"type": "linear", "out": 2}, (3, 4, 4), r"takes a vector \(n,\)"),
        ({"type": "linear", "out": 2, "spectral_norm": True}, (3,), "above 0; got True"),
        ({"type": "reshape", "to": [2, 2]}, (3,), "another number"),
        ({"type": "average_pool"}, (3, 5, 4), "does not divide"),
        ({"type": "self_attention"}, (3, 5, 4), "odd"),
        ({"type": "dropout", "rate": 1.0}, (3,), r"in \[0, 1\)"),
        ({"type": "noise", "rate": -1.0}, (3,), "at least 0"),
        ({"type": "upsample", "mode": "cubic"}, (3, 4, 4), "did you mean bicubic"),
        ({"out": 2}, (3,), 'a "type"'),
        ("conv", (3,), "dictionary"),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_its_place(spec, shape, message):
    with pytest.raises(InvalidValueError, match=f"net: layer 2 .*{message}"):
        build_layers([{"type": "hidden"}, spec], shape, Slots(), "net")
