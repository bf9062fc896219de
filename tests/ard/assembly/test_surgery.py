import copy
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ard.assembly.statistics import input_covariances, output_covariances, with_outputs
from ard.assembly.surgery import (
    apply_plan,
    apply_structure,
    describe_structure,
    factorize_layer,
    random_factors,
)
from ard.errors import NonFiniteError, PlanError, RankError
from ard.layers import describe_layer, profile_layers
from ard.plan import DENSE, Factorization, RankPlan
from ard.recovery.store import compressed_checkpoint
from nas_gan.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nas_gan.networks.layer_types import Layer
from nas_gan.networks.searched import Generator, GeneratorConfig

# torch notes that an even kernel with padding "same" costs a copy.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

CONVS = {
    "plain": dict(kernel_size=3),
    "padded": dict(kernel_size=3, padding=1),
    "no bias": dict(kernel_size=3, padding=1, bias=False),
    "strided": dict(kernel_size=3, padding=1, stride=(2, 3)),
    "dilated": dict(kernel_size=5, padding=4, dilation=2),
    "dilated apart": dict(kernel_size=3, padding=(1, 3), dilation=(1, 3)),
    "padded apart": dict(kernel_size=(5, 3), padding=(2, 0)),
    "flat": dict(kernel_size=(1, 3), padding=(0, 1)),
    "tall": dict(kernel_size=(3, 1), padding=(1, 0)),
    "same": dict(kernel_size=(4, 3), padding="same", dilation=(1, 2)),
    "valid": dict(kernel_size=3, padding="valid"),
    "reflect": dict(kernel_size=3, padding=(2, 1), padding_mode="reflect"),
    "replicate": dict(kernel_size=3, padding=(1, 2), padding_mode="replicate"),
    "circular": dict(kernel_size=3, padding=(1, 2), padding_mode="circular"),
    "circular same": dict(kernel_size=(4, 3), padding="same", padding_mode="circular"),
    "many outputs": dict(kernel_size=3, out_channels=40),
}
POINTWISE = {
    "plain": dict(),
    "strided": dict(stride=2),
    "padded": dict(padding=1, bias=False),
    "reflect": dict(padding=1, padding_mode="reflect"),
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def images(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def conv(options, dtype=torch.float64):
    options = {"in_channels": 6, "out_channels": 8} | options
    return nn.Conv2d(**options, dtype=dtype)


def full_rank(module, method):
    return Factorization(method, describe_layer("", module).max_rank(method))


def assert_same(module, factors, x):
    assert {p.dtype for p in factors.parameters()} == {module.weight.dtype}
    with torch.no_grad():
        expected, found = module(x), factors(x)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < TOLERANCE[x.dtype]


EVERY_CONV = [
    pytest.param(options, method, id=f"{name}-{method}")
    for name, options in CONVS.items()
    for method in describe_layer("", conv(options)).methods()
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("options", "method"), EVERY_CONV)
def test_a_convolution_is_exact_at_full_rank(options, method, dtype):
    module, x = conv(options, dtype), images(2, 6, 11, 10, dtype=dtype)
    assert_same(module, factorize_layer(module, full_rank(module, method)), x)


@pytest.mark.parametrize(("options", "method"), EVERY_CONV)
def test_a_whitened_convolution_is_exact_at_full_rank(options, method):
    module, x = conv(options), images(4, 6, 11, 10)
    statistics = input_covariances(nn.Sequential(module), x, ["0"])["0"]
    assert_same(module, factorize_layer(module, full_rank(module, method), statistics), x)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("options", POINTWISE.values(), ids=POINTWISE.keys())
def test_a_pointwise_convolution_is_exact_at_full_rank(options, dtype):
    module = conv({"kernel_size": 1} | options, dtype)
    x = images(2, 6, 7, 5, dtype=dtype)
    assert_same(module, factorize_layer(module, full_rank(module, "svd")), x)


# Every other kind of layer, and the shape of one input without its channels.
OTHERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "transposed dcgan": (nn.ConvTranspose2d(6, 8, 4, 2, 1, bias=False), (5, 4)),
    "transposed odd": (nn.ConvTranspose2d(6, 8, 3, 2, 1, output_padding=1), (5, 4)),
    "transposed dilated": (
        nn.ConvTranspose2d(6, 8, (3, 2), (1, 3), dilation=(2, 1), output_padding=(0, 1)),
        (5, 4),
    ),
    "transposed grouped": (nn.ConvTranspose2d(6, 8, (3, 4), 2, (1, 0), groups=2), (5, 4)),
    "transposed pointwise": (nn.ConvTranspose2d(6, 8, 1, 2, output_padding=1), (5, 4)),
    "transposed pointwise grouped": (nn.ConvTranspose2d(6, 8, 1, (1, 2), groups=2), (5, 4)),
    "grouped": (nn.Conv2d(6, 8, (3, 5), (2, 1), (1, 2), (1, 2), groups=2), (11, 10)),
    "grouped reflect": (nn.Conv2d(8, 8, 3, padding=2, padding_mode="reflect", groups=4), (6, 5)),
    "grouped pointwise": (nn.Conv2d(6, 8, 1, 2, groups=2), (6, 5)),
    "line": (nn.Conv1d(6, 8, 5, 2, 4, 2), (13,)),
    "line circular grouped": (
        nn.Conv1d(6, 8, 3, padding="same", padding_mode="circular", groups=2),
        (9,),
    ),
    "line pointwise": (nn.Conv1d(6, 8, 1, 2), (9,)),
    "line transposed": (nn.ConvTranspose1d(6, 8, 4, 3, 1, output_padding=2, groups=2), (7,)),
    "volume": (nn.Conv3d(4, 8, (3, 2, 3), (1, 2, 1), (1, 0, 2), bias=False), (4, 5, 4)),
    "volume pointwise": (nn.Conv3d(6, 8, 1, (1, 2, 3)), (3, 4, 5)),
    "volume transposed": (nn.ConvTranspose3d(6, 4, (2, 3, 2), 2, 1, groups=2), (3, 3, 3)),
}
EVERY = [
    pytest.param(module, shape, method, id=f"{name}-{method}")
    for name, (module, shape) in OTHERS.items()
    for method in describe_layer("", module).methods()
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("module", "shape", "method"), EVERY)
def test_every_other_layer_is_exact_at_full_rank(module, shape, method, dtype):
    module = copy.deepcopy(module).to(dtype)
    x = images(2, describe_layer("", module).shape[1], *shape, dtype=dtype)
    assert_same(module, factorize_layer(module, full_rank(module, method)), x)


def known(module, shape):
    """Statistics of inputs and outputs that really differ from channel to channel."""
    module, c_in = copy.deepcopy(module).double(), describe_layer("", module).shape[1]
    scale = torch.logspace(0, -2, c_in, dtype=torch.float64)
    x = images(4, c_in, *shape) * scale.view(-1, *[1] * len(shape))
    net = nn.Sequential(module)
    return with_outputs(
        input_covariances(net, x, ["0"]), output_covariances(net, x, ["0"], n_probes=2)
    )["0"]


@pytest.mark.parametrize(("module", "shape", "method"), EVERY)
def test_every_other_layer_is_exact_at_full_rank_when_it_is_weighted(module, shape, method):
    statistics, module = known(module, shape), copy.deepcopy(module).double()
    x = images(2, describe_layer("", module).shape[1], *shape)
    assert_same(module, factorize_layer(module, full_rank(module, method), statistics), x)


def response(module):
    """Outputs for one unit impulse in every input channel, without bias: the kernel's entries."""
    layer = describe_layer("", module)
    axes = layer.weight_shape[2:]
    x = torch.zeros(layer.shape[1], layer.shape[1], *[9] * len(axes), dtype=torch.float64)
    for i in range(len(x)):
        x[(i, i, *[4] * len(axes))] = 1
    return x


FREE: dict[str, Any] = {  # one layer of each kind and grouping that reads every tap: stride one
    "conv": nn.Conv2d(6, 8, (3, 2), padding=1, bias=False),
    "grouped": nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False),
    "transposed": nn.ConvTranspose2d(6, 8, (4, 3), stride=2, bias=False),
    "transposed grouped": nn.ConvTranspose2d(6, 8, 3, groups=2, bias=False),
    "pointwise": nn.Conv2d(6, 8, 1, bias=False),
    "line": nn.Conv1d(6, 8, 5, padding=2, bias=False),
    "volume": nn.Conv3d(4, 4, 2, bias=False),
}


@pytest.mark.parametrize(
    ("module", "method"),
    [
        pytest.param(module.double(), method, id=f"{name}-{method}")
        for name, module in FREE.items()
        for method in describe_layer("", module).methods()
    ],
)
def test_the_error_never_grows_with_rank(module, method):
    layer, x = describe_layer("", module), response(module)
    largest = layer.max_rank(method)
    steps = (0.1, 0.3, 0.6, 1) if method == "cp" else (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1)
    ranks = [
        tuple(layer.groups * max(1, int(share * r) // layer.groups) for r in largest)
        for share in steps
    ]
    with torch.no_grad():
        errors = [
            float((factorize_layer(module, Factorization(method, rank))(x) - module(x)).norm())
            for rank in ranks
        ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10 < errors[0]


def test_each_group_is_factorized_for_itself():
    # A group whose kernel has rank one is exact at a rank of one for each group.
    module = nn.Conv2d(8, 8, 3, groups=2, dtype=torch.float64)
    terms = [images(2, *shape) for shape in ((4,), (3,), (4,), (3,))]
    module.weight.data = torch.einsum("go,gw,gi,gh->goihw", *terms[:1], *terms[1:]).flatten(0, 1)
    factors = factorize_layer(module, Factorization("spatial_svd", (2,)))
    assert [factor.groups for factor in factors] == [2, 2]
    assert_same(module, factors, images(2, 8, 6, 5))


def test_a_rank_that_groups_cannot_share_is_refused():
    with pytest.raises(RankError, match=r"rank \(7,\) is not a multiple of the 2 groups .* \(8,\)"):
        factorize_layer(nn.Conv2d(8, 8, 3, groups=2), Factorization("spatial_svd", (7,)))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_a_linear_layer_is_exact_at_full_rank(shape, bias, dtype):
    module, x = (
        nn.Linear(shape[0], shape[1], bias=bias, dtype=dtype),
        images(7, shape[0], dtype=dtype),
    )
    assert_same(module, factorize_layer(module, Factorization("svd", (5,))), x)


def rebuilt_weight(factors, method):
    """The dense kernel that the factors stand for, from their weights alone."""
    weights = [factor.weight.detach() for factor in factors]
    if method == "spatial_svd":
        return torch.einsum("rihx,oryw->oihw", *weights)
    if method == "tucker2":
        return torch.einsum("sixy,rshw,orxy->oihw", *weights)
    if method == "tensor_train":
        return torch.einsum("pixy,qphy,sqxw,osxy->oihw", *weights)
    return torch.einsum("rixy,rxhy,rxyw,orxy->oihw", *weights)


REBUILT = {
    "tucker2": "tucker2(3, 4)",
    "spatial_svd": "spatial_svd(5)",
    "cp": "cp(7)",
    "tensor_train": "tensor_train(4, 5, 3)",
}


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        pytest.param(options, choice, id=f"{name}-{method}")
        for name, options in CONVS.items()
        for method, choice in REBUILT.items()
        if method in describe_layer("", conv(options)).methods()
    ],
)
def test_factors_compute_what_the_rebuilt_kernel_computes(options, choice):
    module, choice = conv(options), Factorization.parse(choice)
    if choice.rank > full_rank(module, choice.method).rank:
        choice = full_rank(module, choice.method)
    factors = factorize_layer(module, choice)
    dense = copy.deepcopy(module)
    dense.weight.data = rebuilt_weight(factors, choice.method)
    assert_same(dense, factors, images(2, 6, 11, 10))


TRAIN = "tensor_train(3, 7, 5)"
CHOICES = [
    (nn.Linear(6, 20), "svd(3)"),
    (nn.Linear(6, 20, bias=False), "svd(3)"),
    (nn.Conv2d(6, 20, 1, stride=2, padding=1), "svd(4)"),
    (nn.Conv2d(6, 20, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), "tucker2(7, 4)"),
    (nn.Conv2d(6, 20, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), "spatial_svd(9)"),
    (nn.Conv2d(6, 20, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), "cp(9)"),
    (nn.ConvTranspose2d(6, 20, 4, stride=2, padding=1), "tucker2(5, 3)"),
    (nn.ConvTranspose2d(6, 20, (4, 3), stride=(2, 3), padding=1), "spatial_svd(7)"),
    (nn.ConvTranspose2d(6, 20, (4, 3), stride=(2, 3), padding=1), "cp(7)"),
    (nn.ConvTranspose2d(6, 20, 1, stride=2), "svd(3)"),
    (nn.ConvTranspose2d(6, 20, 4, stride=2, groups=2), "spatial_svd(6)"),
    (nn.Conv2d(6, 20, (3, 5), stride=(2, 1), groups=2), "tucker2(6, 4)"),
    (nn.Conv2d(6, 20, (3, 5), stride=(2, 1), groups=2), "spatial_svd(4)"),
    (nn.Conv2d(6, 20, (3, 5), stride=(2, 1), groups=2), "cp(4)"),
    (nn.Conv2d(6, 20, 1, stride=2, groups=2), "svd(4)"),
    (nn.Conv2d(6, 20, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), TRAIN),
    (nn.ConvTranspose2d(6, 20, (4, 3), stride=(2, 3), padding=1), TRAIN),
    (nn.ConvTranspose2d(6, 20, 4, stride=2, groups=2), "tensor_train(4, 6, 8)"),
    (nn.Conv2d(6, 20, (3, 5), stride=(2, 1), groups=2), "tensor_train(4, 6, 8)"),
]


@pytest.mark.parametrize(
    ("module", "choice"), CHOICES, ids=[f"{type(m).__name__}-{c}" for m, c in CHOICES]
)
def test_a_profile_predicts_the_params_and_macs_of_the_factors(module, choice):
    x = torch.ones(2, 6) if isinstance(module, nn.Linear) else torch.ones(2, 6, 13, 12)
    choice, net = Factorization.parse(choice), nn.Sequential(module)
    layer = profile_layers(net, x, min_channels=1)["0"]
    factors = profile_layers(apply_plan(net, RankPlan({"0": choice})), x, min_channels=1)
    assert layer.params(choice) == factors.total_params
    assert layer.macs(choice) == factors.total_macs


@pytest.mark.parametrize("method", ["svd", "spatial_svd"])
def test_knowing_the_inputs_lowers_the_error_of_the_outputs(method):
    module = conv({"kernel_size": 1 if method == "svd" else 3, "out_channels": 12})
    x = images(16, 6, 8, 8) * torch.logspace(0, -2, 6, dtype=torch.float64)[:, None, None]
    statistics = input_covariances(nn.Sequential(module), x, ["0"])["0"]
    choice = Factorization(method, (3,))
    errors = [
        float((factorize_layer(module, choice, s)(x) - module(x)).detach().norm())
        for s in (statistics, None)
    ]
    assert errors[0] < 0.7 * errors[1]


def small_generator(**changes):
    torch.manual_seed(0)
    config = GeneratorConfig(bottom_width=2, latent_dim=12, gf_dim=8, **changes, n_classes=0)
    return Generator(config).eval()


PLAN = RankPlan(
    {
        "l1": Factorization("svd", (2,)),
        "cell1.up0.ups.0.c.1": Factorization("svd", (3,)),
        "cell2.c3.ops.0.op.1": Factorization("tucker2", (4, 3)),
        "cell3.c0.ops.0.op.1": Factorization("spatial_svd", (5,)),
        "cell3.c4.ops.0.op.1": Factorization("cp", (6,)),
    }
)


def test_a_full_rank_plan_gives_the_same_images():
    generator, z = small_generator(), images(3, 12, dtype=torch.float32)
    profile = profile_layers(generator, z)
    plan = RankPlan(
        {
            layer.name: Factorization(method, layer.max_rank(method))
            for layer in profile.layers
            for method in layer.methods()[:1]
        }
    )
    assert len(plan) == 13 + 6 + 3 + 3
    with torch.no_grad():
        assert torch.allclose(apply_plan(generator, plan)(z), generator(z), atol=1e-5)


def test_a_plan_leaves_the_old_generator_alone():
    generator, z = small_generator().train(), images(3, 12, dtype=torch.float32)
    before = copy.deepcopy(generator.state_dict())
    new = apply_plan(generator, PLAN)
    assert new.training
    assert all(child.training for child in new.modules())
    new.eval()(z).sum().backward()
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(1)
    after = generator.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_a_plan_draws_no_random_numbers():
    generator = small_generator()
    state = torch.get_rng_state()
    first, second = apply_plan(generator, PLAN), apply_plan(generator, PLAN)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_a_dense_plan_is_a_copy():
    generator, z = small_generator(), images(3, 12, dtype=torch.float32)
    new = apply_plan(generator, DENSE)
    assert new is not generator
    assert torch.equal(new(z), generator(z))


def test_frozen_layers_have_frozen_factors():
    generator = small_generator().requires_grad_(False)
    assert not any(p.requires_grad for p in apply_plan(generator, PLAN).parameters())


def test_the_structure_rebuilds_without_the_plan():
    generator, z = small_generator(), images(3, 12, dtype=torch.float32)
    compressed = apply_plan(generator, PLAN)
    structure = json.loads(json.dumps(describe_structure(compressed, PLAN)))
    rebuilt = apply_structure(small_generator(activation="pmish"), structure)
    rebuilt.load_state_dict(compressed.state_dict())
    assert torch.equal(rebuilt(z), compressed(z))
    assert [spec["type"] for spec in structure["cell3.c4.ops.0.op.1"]] == ["Conv2d"] * 4


def test_describing_a_dense_generator_is_refused():
    with pytest.raises(PlanError, match=r"l1: expected the factors of svd\(2\); found Linear"):
        describe_structure(small_generator(), RankPlan({"l1": Factorization("svd", (2,))}))


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("cell9.c0", "svd(1)", r"names 'cell9.c0', .* its layers are l1, l2, l3, cell1.up0"),
        (
            "cell2.c3.ops.0.op.1",
            "tucker2(300, 1)",
            r"^cell2.c3.ops.0.op.1: rank \(300, 1\) does not fit a weight of shape \(8, 8, 3, 3\)",
        ),
        ("cell2.c3.ops.0.op.1", "svd(1)", "methods that do: tucker2, spatial_svd, cp"),
        ("l1", "tucker2(1, 1)", r"l1: tucker2\(1, 1\) does not fit a linear weight .* svd"),
        ("cell1", "svd(1)", r"cell1: svd\(1\) does not fit a Cell, which has no factors"),
    ],
)
def test_a_plan_that_does_not_fit_names_the_layer(name, choice, message):
    with pytest.raises(PlanError, match=message):
        apply_plan(small_generator(), RankPlan({name: Factorization.parse(choice)}))


def test_a_weight_of_nan_is_refused_with_its_name():
    generator = small_generator()
    generator.l1.weight.data[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="l1: a weight is NaN"):
        apply_plan(generator, PLAN)


def test_a_grouped_convolution_is_refused():
    with pytest.raises(RankError, match=r"with 6 group\(s\); methods that do: none"):
        factorize_layer(nn.Conv2d(6, 6, 3, groups=6), Factorization("cp", (2,)))


# -- layers with one weight


class Tied(nn.Module):
    """One convolution that runs twice, at two sizes, and two more that share a weight."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.b.weight = self.a.weight
        self.lost = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        x = self.twice(x)  # 8 x 8
        x = self.b(torch.relu(self.a(x)))  # 4 x 4
        return self.twice(torch.relu(x))


TIED = RankPlan({"twice": Factorization("spatial_svd", (5,)), "a": Factorization("cp", (6,))})


def tied():
    torch.manual_seed(0)
    return Tied().double().eval()


def test_layers_with_one_weight_are_one_layer_and_every_call_counts():
    profile = profile_layers(tied(), images(2, 8, 8, 8))
    assert [(layer.name, layer.aliases) for layer in profile.layers] == [
        ("twice", ()),
        ("a", ("b",)),
    ]
    assert profile["twice"].macs() == 8 * 8 * 9 * (64 + 16)
    assert profile["a"].macs() == 8 * 8 * 9 * (16 + 16)
    assert profile.fixed_macs == 0
    assert profile.fixed_params == 8 + (8 * 8 * 9 + 8)  # the bias of b, and what is never called
    assert profile.skipped == (("lost", "never called"),)


def test_layers_with_one_weight_are_factorized_once_and_share_the_factors():
    net, x = tied(), images(2, 8, 8, 8)
    dense = profile_layers(net, x)
    new: Any = apply_plan(net, TIED)
    assert all(ours.weight is theirs.weight for ours, theirs in zip(new.a, new.b, strict=True))
    assert torch.equal(new.b[3].bias, net.b.bias)
    assert (new.a[1].stride, new.b[1].dilation) == ((2, 1), (2, 1))
    counted = profile_layers(new, x, min_channels=1)
    planned = {layer.name: TIED[layer.name] for layer in dense.layers}
    assert counted.total_macs == sum(dense[name].macs(c) for name, c in planned.items())
    assert counted.total_params == dense.fixed_params + sum(
        dense[name].params(choice) for name, choice in planned.items()
    )


def test_tied_layers_are_exact_at_full_rank():
    net, x = tied(), images(2, 8, 8, 8)
    statistics = input_covariances(net, x, ["twice", "a"])
    full = {name: full_rank(net.get_submodule(name), "tucker2") for name in ("twice", "a")}
    with torch.no_grad():
        assert torch.allclose(apply_plan(net, RankPlan(full), statistics)(x), net(x), atol=1e-10)


@pytest.mark.parametrize("named", ["a", "b", "both"])
def test_any_name_of_a_shared_weight_replaces_all(named):
    plan = RankPlan(dict.fromkeys("ab" if named == "both" else named, TIED["a"]))
    new: Any = apply_plan(tied(), plan)
    assert new.a[0].weight is new.b[0].weight


def test_two_choices_for_one_weight_are_refused():
    plan = RankPlan({"a": Factorization("cp", (6,)), "b": Factorization("cp", (7,))})
    with pytest.raises(PlanError, match=r"b: the plan has cp\(7\) here and cp\(6\) for a"):
        apply_plan(tied(), plan)


def test_shared_factors_are_still_shared_after_a_round_trip():
    compressed, x = apply_plan(tied(), TIED), images(2, 8, 8, 8)
    structure = json.loads(json.dumps(describe_structure(compressed, TIED)))
    assert set(structure) == {"twice", "a", "b"}
    rebuilt = apply_structure(Tied().double().eval(), structure)
    rebuilt.load_state_dict(compressed.state_dict())
    assert torch.equal(rebuilt(x), compressed(x))
    assert sum(p.numel() for p in rebuilt.parameters()) == sum(
        p.numel() for p in compressed.parameters()
    )


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_shared_factors_can_be_saved_and_loaded(suffix, tmp_path):
    compressed = apply_plan(tied().float(), TIED)
    dense = Checkpoint({"kind": "external"}, tied().state_dict())
    save_checkpoint(compressed_checkpoint(dense, compressed, TIED), tmp_path / f"tied{suffix}")
    loaded = load_checkpoint(tmp_path / f"tied{suffix}")
    rebuilt: Any = apply_structure(Tied().eval(), loaded.structure)
    rebuilt.load_state_dict(loaded.generator)
    assert rebuilt.a[0].weight is rebuilt.b[0].weight
    x = images(2, 8, 8, 8, dtype=torch.float32)
    assert torch.equal(rebuilt(x), compressed(x))


def test_a_weight_shared_with_something_else_stays_dense():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(8, 8), nn.Linear(8, 8)
            self.out.weight, self.fine = self.table.weight, nn.Linear(8, 8)

        def forward(self, z):
            return self.fine(self.out(z))

    profile = profile_layers(Embedded(), torch.ones(2, 8))
    assert profile.skipped == (
        ("out", "shares a parameter with table (Embedding), which is not replaced with it"),
    )


def test_a_module_with_two_names_becomes_one():
    net = nn.Sequential(nn.Linear(8, 8))
    net.again = net[0]
    new: Any = apply_plan(net, RankPlan({"again": Factorization("svd", (2,))}))
    assert new.again is new[0]
    assert isinstance(new[0], nn.Sequential)


def test_a_plan_for_another_net_names_the_layer_and_both_shapes():
    plan = RankPlan({"l1": Factorization("svd", (2,))}).with_shapes({"l1": (512, 40)})
    with pytest.raises(PlanError, match=r"^l1: .* shape \(512, 40\), but this .* is \(32, 4\)"):
        apply_plan(small_generator(), plan)


def test_half_precision_stays_half_precision():
    module = nn.Linear(8, 8, dtype=torch.bfloat16)
    factors: Any = factorize_layer(module, Factorization("svd", (8,)))
    weight = factors[1].weight.float() @ factors[0].weight.float()
    assert factors[0].weight.dtype == torch.bfloat16
    assert F.mse_loss(weight, module.weight.float()).item() < 1e-5


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(64, 80),
        nn.Conv1d(16, 24, 3),
        nn.Conv2d(32, 64, 5, stride=2, groups=4),
        nn.Conv3d(16, 16, 3, bias=False),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, groups=4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_random_factors_have_the_shapes_of_the_real_ones(layer: Layer) -> None:
    """A clock sees no difference."""
    profile = describe_layer("", layer)
    for method in profile.methods():
        for choice in profile.rank_grid(method, (0.4,)):
            found, wanted = random_factors(layer, choice), factorize_layer(layer, choice)
            assert [str(factor) for factor in found] == [str(factor) for factor in wanted]
