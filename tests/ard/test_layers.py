import functools
import math

import pytest
import torch
from foreign_nets import NETS
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ard.assembly.surgery import apply_plan
from ard.errors import NonFiniteError, NothingToFactorizeError, RankError
from ard.layers import LayerProfile, profile_layers
from ard.plan import Factorization, RankPlan
from nas_gan.errors import InvalidValueError
from nas_gan.networks.normal_form import normalize_
from nas_gan.networks.parametrizations import fold_parametrizations_
from nas_gan.networks.searched import Generator, GeneratorConfig

# The numbering that every published table uses (layers 1 to 13, kernel side).
PUBLISHED = {
    **{"cell1.c0": 3, "cell1.c1": 5, "cell1.c2": 5, "cell1.c3": 5},
    **{"cell2.c0": 5, "cell2.c2": 3, "cell2.c3": 3, "cell2.c4": 3},
    **{"cell3.c0": 5, "cell3.c1": 3, "cell3.c2": 5, "cell3.c3": 5, "cell3.c4": 5},
}


@functools.cache
def on_meta(dataset, gf_dim):
    with torch.device("meta"):
        generator = Generator(GeneratorConfig.for_dataset(dataset, gf_dim=gf_dim))
        return profile_layers(generator, torch.empty(1, generator.latent_dim))


def conv(c_out=256, c_in=256, k=3, **fields):
    return LayerProfile("conv", "conv2d", (c_out, c_in, k, k), **fields)


@pytest.mark.parametrize(
    ("kernel", "rank", "reduction"),
    [
        *[(3, 128, 88.72), (3, 256, 77.48), (3, 512, 55.01), (3, 768, 32.54), (3, 680, 40.26)],
        *[(5, 128, 95.91), (5, 256, 91.83), (5, 512, 83.67), (5, 768, 75.52), (5, 2048, 34.74)],
    ],
)
def test_cp_reductions_of_the_published_sweep(kernel, rank, reduction):
    layer = conv(k=kernel)
    params = layer.params(Factorization("cp", (rank,)))
    assert params == rank * (256 + 256 + 2 * kernel) + 256
    assert 100 * (1 - params / layer.params()) == pytest.approx(reduction, abs=0.006)


def test_linear_params_by_hand():
    layer = LayerProfile("l3", "linear", (65536, 40))
    assert layer.params() == 65536 * 40 + 65536
    assert layer.params(Factorization("svd", (2,))) == 2 * (40 + 65536) + 65536
    assert LayerProfile("l3", "linear", (10, 4), bias=False).params() == 40


def test_the_thirteen_published_kernels_and_three_linear_layers_are_found():
    layers = on_meta("cifar10", 256).layers
    kernels = {layer.name: layer.shape[2] for layer in layers if layer.shape[2] > 1}
    assert kernels == {f"{name}.ops.0.op.1": k for name, k in PUBLISHED.items()}
    linear = {layer.name: layer.weight_shape for layer in layers if layer.kind == "linear"}
    assert linear == {"l1": (4096, 40), "l2": (16384, 40), "l3": (65536, 40)}
    assert sum(layer.methods() == ("svd",) for layer in layers) == 3 + 6 + 3


@pytest.mark.parametrize(
    ("dataset", "gf_dim", "params", "mmacs"),
    [
        ("cifar10", 128, 5_931_415, 2223.45),
        ("cifar10", 256, 20_185_879, 8880.28),
        ("cifar100", 128, 4_792_727, 2222.31),
        ("stl10", 128, 5_573_527, 5000.21),
        ("celeba64", 128, 6_666_647, 8889.26),
    ],
)
def test_totals_of_the_published_nets(dataset, gf_dim, params, mmacs):
    profile = on_meta(dataset, gf_dim)
    assert profile.total_params == params
    # The published figure counts one more operation for every output of a layer with bias.
    width = GeneratorConfig.for_dataset(dataset).bottom_width
    outputs = sum(layer.shape[0] * layer.positions for layer in profile.layers)
    outputs += 3 * (8 * width) ** 2  # the skipped to_rgb
    assert (profile.total_macs + outputs) / 1e6 == pytest.approx(mmacs, abs=0.005)


def test_the_image_layer_is_left_out_with_a_reason():
    profile = on_meta("cifar10", 128)
    assert profile.skipped == (("to_rgb.2", "too thin to factorize (128 -> 3 channels)"),)
    assert profile.fixed_params == (128 * 3 * 9 + 3) + 2 * 128 + 20  # with norm and 20 betas
    assert profile.fixed_macs == 128 * 3 * 9 * 32 * 32


def test_layers_come_in_the_order_in_which_they_run():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, z):
            return self.last(self.first(z))

    layers = profile_layers(Backwards(), torch.ones(2, 8)).layers
    assert [layer.name for layer in layers] == ["first", "last"]


class Odd(nn.Module):
    """One layer of every kind that must stay dense, and one that need not."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Linear(8, 8)
        self.owner, self.biased = nn.Linear(8, 8), nn.Linear(8, 8)
        self.biased.bias = self.owner.bias
        self.normed = spectral_norm(nn.Linear(8, 8))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.unused = nn.Linear(8, 8)

    def forward(self, z):
        z = self.normed(self.owner(self.biased(self.fine(z))))
        return self.grouped(self.depthwise(z[:, :, None, None]))


def test_what_cannot_be_replaced_safely_stays_dense_with_a_reason():
    profile = profile_layers(Odd(), torch.ones(2, 8))
    assert [layer.name for layer in profile.layers] == ["fine"]
    assert dict(profile.skipped) == {
        "biased": "shares a parameter with owner (Linear), which is not replaced with it",
        "owner": "shares a parameter with biased (Linear), which is not replaced with it",
        "normed": "ParametrizedLinear is a subclass and may compute something else",
        "depthwise": "depthwise convolution (8 groups)",
        "grouped": "too thin to factorize (2 -> 2 channels in each of 4 groups)",
        "unused": "never called",
    }
    assert profile.coverage.factorizable == 8 * 8 + 8
    assert {group.kind: group.params for group in profile.coverage.rest} == {
        "Linear, shared": 2 * 64 + 8,  # the one bias counts once
        "ParametrizedLinear, a subclass": 64 + 8,
        "Conv2d, depthwise": 8 * 9 + 8,
        "Conv2d, too thin": 8 * 2 * 9 + 8,
        "Linear, never called": 8 * 8 + 8,
    }
    # fine, biased, owner, normed: 64 each; then 8 x 9 and 8 x 2 x 9 weights.
    assert profile.total_macs == 4 * 64 + 72 + 144
    assert profile.total_params == sum(p.numel() for p in Odd().parameters())


def test_a_generator_without_layers_says_why():
    with pytest.raises(NothingToFactorizeError, match=r"0: too thin .* \(2 -> 3 channels\)"):
        profile_layers(nn.Sequential(nn.Linear(2, 3)), torch.ones(1, 2))
    with pytest.raises(NothingToFactorizeError, match="no conv"):
        profile_layers(nn.Sequential(nn.Tanh()), torch.ones(1, 2))


def test_a_generator_of_nan_names_the_layer():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    net.get_parameter("1.bias").data[3] = torch.nan
    with pytest.raises(NonFiniteError, match="1: the output of this layer is NaN"):
        profile_layers(net, torch.ones(1, 8))


def test_profiling_leaves_the_generator_as_it_was():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    profile_layers(net, torch.randn(4, 8))
    assert net[1].training
    assert torch.equal(net.get_buffer("1.running_mean"), torch.zeros(8))
    assert not net[0]._forward_hooks


@pytest.mark.parametrize("multiple_of", [1, 8])
@pytest.mark.parametrize("method", ["tucker2", "spatial_svd", "cp", "tensor_train"])
def test_a_rank_grid_holds_smaller_choices_near_the_fractions(method, multiple_of):
    layer = conv(64, 48, 5)
    grid = layer.rank_grid(method, (0.1, 0.25, 0.5, 0.75), multiple_of)
    shares = [layer.params(choice) / layer.params() for choice in grid]
    assert shares == pytest.approx([0.1, 0.25, 0.5, 0.75], rel=0.35 if multiple_of > 1 else 0.03)
    assert all(r % multiple_of == 0 for choice in grid for r in choice.rank)


def test_a_rank_grid_has_no_duplicates_and_nothing_larger_than_dense():
    layer = conv(8, 8, 3)
    grid = layer.rank_grid("spatial_svd", (0.01, 0.02, 0.5, 0.5, 1.0, 3.0))
    assert [choice.rank for choice in grid] == [(1,), (6,)]
    assert layer.rank_grid("svd", (0.5,)) == []  # not a method for this kernel


def test_a_layer_too_narrow_for_a_multiple_still_has_a_grid():
    assert conv(6, 6, 3).rank_grid("tucker2", (0.5,), multiple_of=8) == [
        Factorization("tucker2", (4, 4))
    ]


@pytest.mark.parametrize(
    ("kind", "shape", "groups", "methods"),
    [
        ("linear", (8, 8), 1, ("svd",)),
        ("conv2d", (8, 8, 1, 1), 1, ("svd",)),
        ("conv2d", (8, 8, 1, 3), 1, ("tucker2", "spatial_svd", "cp")),
        ("conv_transpose2d", (8, 8, 4, 4), 1, ("tucker2", "spatial_svd", "cp", "tensor_train")),
        ("conv_transpose2d", (8, 8, 1, 1), 1, ("svd",)),
        ("conv2d", (8, 2, 3, 3), 4, ("tucker2", "spatial_svd", "cp", "tensor_train")),
        ("conv2d", (8, 2, 1, 1), 4, ("svd",)),
        ("conv2d", (8, 1, 3, 3), 8, ()),
        ("conv_transpose2d", (8, 1, 3, 3), 8, ()),
        ("conv1d", (8, 8, 5), 1, ("tucker2", "spatial_svd")),
        ("conv3d", (8, 8, 1, 1, 1), 1, ("svd",)),
        ("conv3d", (8, 8, 3, 3, 3), 1, ("tucker2", "spatial_svd", "tensor_train")),
    ],
)
def test_which_methods_fit_which_layer(kind, shape, groups, methods):
    assert LayerProfile("x", kind, shape, groups=groups).methods() == methods


def test_a_choice_that_does_not_fit_is_refused():
    with pytest.raises(RankError, match="methods that do: tucker2, spatial_svd, cp"):
        conv().params(Factorization("svd", (3,)))
    with pytest.raises(RankError, match=r"rank \(300, 1\) does not fit a weight of shape"):
        conv().macs(Factorization("tucker2", (300, 1)))


def test_positions_default_to_those_of_the_output():
    layer = conv(8, 4, 3, positions=100)
    assert layer.macs() == 100 * 8 * 4 * 9
    assert layer.macs(Factorization("cp", (2,))) == 100 * 2 * (4 + 3 + 3 + 8)


def test_a_transposed_convolution_counts_its_input_positions():
    net = nn.Sequential(nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1))
    profile = profile_layers(net, torch.ones(3, 8, 5, 5))
    layer = profile["0"]
    assert (layer.shape, layer.input_positions, layer.positions) == ((6, 8, 4, 4), 25, 100)
    assert profile.total_macs == math.prod((8, 6, 4, 4)) * 25
    assert layer.macs(Factorization("tucker2", (3, 4))) == 25 * 8 * 4 + 25 * 12 * 16 + 100 * 18


@pytest.mark.parametrize(
    ("kind", "weight_shape", "groups", "shape"),
    [
        ("linear", (8, 4), 1, (8, 4, 1, 1)),
        ("conv1d", (8, 4, 5), 1, (8, 4, 5, 1)),
        ("conv2d", (8, 2, 5, 3), 2, (8, 4, 5, 3)),
        ("conv3d", (8, 4, 2, 3, 5), 1, (8, 4, 6, 5)),
        ("conv_transpose2d", (4, 8, 5, 3), 1, (8, 4, 5, 3)),
        ("conv_transpose1d", (4, 4, 5), 2, (8, 4, 5, 1)),
    ],
)
def test_every_weight_is_read_as_one_kernel(kind, weight_shape, groups, shape):
    assert LayerProfile("x", kind, weight_shape, groups=groups).shape == shape


@pytest.mark.parametrize("multiple_of", [1, 8])
@pytest.mark.parametrize("method", ["tucker2", "spatial_svd", "cp", "tensor_train"])
def test_a_rank_grid_of_a_grouped_layer_fits_its_groups(method, multiple_of):
    layer = LayerProfile("x", "conv2d", (96, 16, 5, 5), groups=6)
    grid = layer.rank_grid(method, (0.25, 0.5), multiple_of)
    assert [layer.params(choice) / layer.params() for choice in grid] == pytest.approx(
        [0.25, 0.5], rel=0.35
    )
    step = math.lcm(6, multiple_of)
    assert all(r % step == 0 for choice in grid for r in choice.rank)


def test_a_transposed_layer_counts_where_each_part_works():
    layer = LayerProfile(
        "x",
        "conv_transpose2d",
        (8, 6, 4, 4),
        positions=100,
        input_positions=25,
        middle_positions=50,
    )
    assert layer.macs(Factorization("spatial_svd", (5,))) == 25 * (8 * 4 * 5) + 50 * (5 * 4 * 6)


class Calling(nn.Module):
    """A layer that may be factorized, and one that `run` uses in a way of its own."""

    def __init__(self, run):
        super().__init__()
        self.fine, self.odd, self.run = nn.Linear(8, 8), nn.Linear(8, 8), run

    def forward(self, z):
        return self.run(self.odd, self.fine(z))


READ = "its weight is read without calling it"
USES = {
    "only read": (lambda odd, z: z @ odd.weight.T, READ),
    "called and read": (lambda odd, z: odd(z) / odd.weight.norm(), READ),
    "run by forward and read": (lambda odd, z: odd.forward(z) + odd.weight.sum(), READ),
    "read by name": (lambda odd, z: odd(z) * getattr(odd, "weight").mean(), READ),  # noqa: B009
    "another attribute": (
        lambda odd, z: odd(z).view(-1, odd.out_features),
        "its out_features is read without calling it",
    ),
    "asked for its class": (
        lambda odd, z: odd(z) if type(odd) is nn.Linear else z,
        "the images change if another module takes its place",
    ),
}


@pytest.mark.parametrize("use", USES)
def test_a_layer_that_is_more_than_called_stays_dense_with_a_reason(use):
    run, reason = USES[use]
    profile = profile_layers(Calling(run), torch.randn(2, 8))
    assert [layer.name for layer in profile.layers] == ["fine"]
    assert profile.skipped == (("odd", reason),)


@pytest.mark.parametrize(
    "run", [lambda odd, z: odd.forward(z), lambda odd, z: odd(input=z)], ids=["forward", "keyword"]
)
def test_a_layer_that_is_called_in_another_way_is_found_and_factorized(run):
    net, z = Calling(run), torch.randn(2, 8)
    profile = profile_layers(net, z)
    assert [layer.name for layer in profile.layers] == ["fine", "odd"]
    assert profile.total_macs == 2 * 64
    small = apply_plan(net, RankPlan({"odd": Factorization("svd", (8,))}))
    torch.testing.assert_close(small(z), net(z))


def test_a_layer_whose_weight_is_held_in_a_second_place_stays_dense():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.tied = nn.Linear(8, 8), nn.Linear(8, 8)
            self.weights = {"last": [self.tied.weight]}

        def forward(self, z):
            return self.tied(self.fine(z)) @ self.weights["last"][0]

    profile = profile_layers(Tied(), torch.randn(2, 8))
    assert [layer.name for layer in profile.layers] == ["fine"]
    reason = "the generator holds its weight in a second place, such as a list of weights"
    assert profile.skipped == (("tied", reason),)


def test_the_fast_path_of_a_transformer_which_reads_weights_is_noticed():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Linear(8, 8)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, z):
            return self.block(self.fine(z)[:, None])

    profile = profile_layers(Attending().eval(), torch.randn(2, 8))
    assert [layer.name for layer in profile.layers] == ["fine"]
    assert dict(profile.skipped)["block.linear1"] == READ


def test_a_layer_with_more_than_one_input_stays_dense():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(8, 8, 3, padding=1)
            self.up = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1)

        def forward(self, z):
            return self.up(self.first(z), output_size=[8, 8])

    profile = profile_layers(Sized(), torch.randn(2, 8, 4, 4))
    assert [layer.name for layer in profile.layers] == ["first"]
    assert profile.skipped == (("up", "it is called with more than its input"),)


def test_layers_whose_weight_or_output_is_made_by_something_else_stay_dense():
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
    net[1].register_forward_hook(lambda module, inputs, output: output + 1)
    net[2].forward = lambda x: x
    net[3].gain = nn.Parameter(torch.ones(1))
    torch.nn.utils.spectral_norm(net[4])
    assert dict(profile_layers(net, torch.randn(2, 8)).skipped) == {
        "1": "it has hooks, which its factors would not have",
        "2": "it has hooks, which its factors would not have",
        "3": "it has gain, which its factors would not have",
        "4": "its weight is not a parameter, but computed whenever it runs",
    }


def test_layers_in_a_plain_list_are_named_and_counted():
    class Hiding(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Linear(8, 8)
            self.steps = [nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8))]
            self.critic = {"idle": nn.Linear(8, 8)}  # not part of the images
            self.again = [self.fine]

        def forward(self, z):
            return self.steps[1](self.steps[0](self.again[0](z)))

    profile = profile_layers(Hiding(), torch.randn(2, 8))
    assert [layer.name for layer in profile.layers] == ["fine"]
    assert [name for name, _ in profile.skipped] == ["steps[0]", "steps[1].0"]
    assert all("nn.ModuleList" in reason for _, reason in profile.skipped)
    assert profile.total_params == 72
    assert profile.coverage.share == pytest.approx(1 / 3)
    assert profile.coverage.describe().endswith("the rest: Linear, not registered (2 layers, 144)")


def test_random_numbers_in_the_network_are_no_reason_to_keep_its_layers():
    class Noisy(nn.Sequential):
        def forward(self, z):
            return super().forward(z + torch.randn_like(z))

    net = Noisy(nn.Linear(8, 8), nn.Linear(8, 8))
    state = torch.get_rng_state()
    assert len(profile_layers(net, torch.ones(2, 8)).layers) == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_that_cannot_be_copied_is_refused_at_once():
    net = nn.Sequential(nn.Linear(8, 8))
    net.cache = (2 * net.get_parameter("0.weight")).sum()  # a tensor with a gradient
    with pytest.raises(InvalidValueError, match="cannot be copied"):
        profile_layers(net, torch.ones(2, 8))


def test_the_plan_of_a_folded_network_is_that_of_the_plain_one():
    plain = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    normed = nn.Sequential(spectral_norm(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, 8))
    fold_parametrizations_(normed)
    z = torch.randn(2, 8)
    assert profile_layers(normed, z) == profile_layers(plain, z)


def test_a_message_about_nothing_to_factorize_says_what_the_parameters_are():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8, 8))
            self.register_buffer("start", torch.ones(8))
            self.register_buffer("unsaved", torch.ones(9), persistent=False)
            self.table = nn.Embedding(10, 8)

        def forward(self, z):
            return z @ self.weight + self.start

    expected = (
        r"no conv, no linear\). 0 % of the parameters .*; the rest: "
        r"Embedding \(1 layer, 80\), Bare itself \(1 layer, 72\)"
    )
    with pytest.raises(NothingToFactorizeError, match=expected):
        profile_layers(Bare(), torch.ones(2, 8))


class OneTensor(nn.Module):
    """A foreign network as a function of one tensor of latents."""

    def __init__(self, name):
        super().__init__()
        self.net = NETS[name].build()
        self.name, self.options = name, NETS[name].options

    def forward(self, z):
        if self.name == "stylegan2":
            return self.net([z], **self.options)[0]
        if self.name == "cgan":
            return self.net(z, torch.arange(len(z)))
        return self.net(z)


@pytest.mark.parametrize("name", NETS)
def test_most_of_a_foreign_network_can_be_factorized_in_its_normal_form(name):
    net = OneTensor(name)
    inputs = NETS[name].inputs(2, 0)
    z = inputs[0][0] if name == "stylegan2" else inputs[0]
    before = net(z)
    _, remarks = normalize_(net, [z])
    profile = profile_layers(net, z)
    assert remarks == ()
    assert profile.coverage.share > 0.6
    full = {layer.name: layer.methods()[0] for layer in profile.layers}
    plan = {n: Factorization(m, profile[n].max_rank(m)) for n, m in full.items()}
    torch.testing.assert_close(apply_plan(net, RankPlan(plan))(z), before, rtol=1e-2, atol=1e-3)
