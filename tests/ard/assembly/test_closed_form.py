from __future__ import annotations

import pytest
import torch
from tiny import SmallNet
from torch import Tensor, nn

from ard.assembly.closed_form import MAX_GAIN, Fit, calibrate, layer_outputs
from ard.assembly.surgery import apply_plan
from ard.layers import profile_layers
from ard.plan import Factorization, RankPlan
from nas_gan.networks.latents import latent_bank

# torch's word about kernels of even length, said once in a process
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
LATENTS = latent_bank(48, 8, seed=3)


def choice(method: str, *rank: int) -> Factorization:
    return Factorization(method, rank)


class Chain(nn.Module):
    """Vectors, or maps of 4 channels made of them, through one layer after the other."""

    def __init__(self, *layers: nn.Module, side: int = 0) -> None:
        super().__init__()
        self.layers, self.side = nn.Sequential(*layers), side
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=rng))
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        if not self.side:
            return self.layers(z)
        waves = torch.outer(torch.arange(8.0), torch.arange(4.0 * self.side**2)).sin()
        return self.layers((z @ waves).view(-1, 4, self.side, self.side))


# What is replaced, by what, and how large a map enters it.
LAYERS: dict[str, tuple[nn.Module, Factorization, int]] = {
    "linear": (nn.Linear(8, 12), choice("svd", 3), 0),
    "1x1": (nn.Conv2d(4, 12, 1), choice("svd", 2), 6),
    "3x3": (nn.Conv2d(4, 8, 3, padding=1), choice("tucker2", 5, 3), 6),
    "in two lines": (nn.Conv2d(4, 8, 3, padding=1), choice("spatial_svd", 3), 7),
    "strided": (nn.Conv2d(4, 8, 3, padding=1, stride=2), choice("spatial_svd", 3), 9),
    "dilated": (nn.Conv2d(4, 8, 3, padding=2, dilation=2), choice("spatial_svd", 3), 8),
    "same": (nn.Conv2d(4, 8, (2, 4), padding="same"), choice("spatial_svd", 3), 7),
    "valid": (nn.Conv2d(4, 8, 3, padding="valid"), choice("spatial_svd", 3), 7),
    "reflected": (
        nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"), choice("spatial_svd", 3), 7,
    ),
    "circular": (
        nn.Conv2d(4, 8, (5, 3), padding=(2, 1), padding_mode="circular"),
        choice("tucker2", 4, 3), 7,
    ),
    "transposed": (nn.ConvTranspose2d(4, 8, 4, 2, 1), choice("tucker2", 5, 3), 4),
    "no bias": (nn.Conv2d(4, 8, 3, padding=1, bias=False), choice("spatial_svd", 3), 7),
}  # fmt: skip


def repaired(net: nn.Module, plan: RankPlan, fit: Fit, batch_size: int = 64) -> nn.Module:
    targets = layer_outputs(net, LATENTS, list(plan), batch_size)
    factorized = apply_plan(net, plan)
    return calibrate(factorized, LATENTS, targets, list(plan), fit=fit, batch_size=batch_size)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    channels = images.double().movedim(1, -1).flatten(0, -2)
    return channels.mean(dim=0), channels.var(dim=0, unbiased=False)


@pytest.mark.parametrize("name", LAYERS)
def test_every_channel_has_the_mean_and_the_variance_that_it_had(name: str) -> None:
    layer, replacement, side = LAYERS[name]
    net = Chain(layer, side=side)
    plan = RankPlan({"layers.0": replacement})
    mean, variance = moments(net(LATENTS))
    factorized = moments(apply_plan(net, plan)(LATENTS))
    fitted = moments(repaired(net, plan, "moments")(LATENTS))
    total, lost, kept = (v + m.square() for m, v in ((mean, variance), factorized, fitted))
    if layer.bias is None:  # nothing can shift it: the mean square is all that there is to match
        reachable = total / lost < MAX_GAIN**2
        torch.testing.assert_close(kept[reachable], total[reachable], rtol=1e-4, atol=1e-6)
    else:
        reachable = variance / factorized[1] < MAX_GAIN**2
        torch.testing.assert_close(fitted[0], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fitted[1][reachable], variance[reachable], rtol=1e-4, atol=1e-6)
    assert reachable.sum() >= len(reachable) / 2
    assert (factorized[1] < 0.98 * variance).any()  # there was something to repair


def test_a_channel_that_is_almost_lost_grows_by_no_more_than_the_largest_gain() -> None:
    net = Chain(nn.Linear(8, 12))
    plan = RankPlan({"layers.0": choice("svd", 1)})
    before, after = (moments(f(LATENTS))[1] for f in (apply_plan(net, plan),
                                                      repaired(net, plan, "moments")))  # fmt: skip
    gain = (after / before).sqrt()
    assert gain.max() == pytest.approx(MAX_GAIN, rel=1e-4)
    assert gain.min() >= 1 / MAX_GAIN - 1e-4


def test_a_channel_that_never_varies_keeps_its_weights() -> None:
    net = Chain(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))
    dead = net.layers[0]
    assert isinstance(dead, nn.Linear)
    dead.bias.fill_(-100.0)  # nothing passes the ReLU
    plan = RankPlan({"layers.2": choice("svd", 4)})
    before, after = (
        f.state_dict() for f in (apply_plan(net, plan), repaired(net, plan, "moments"))
    )
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)


def test_layers_behind_other_replaced_layers_are_fitted_to_what_enters_them_now() -> None:
    net = SmallNet()
    plan = RankPlan({"conv1": choice("tucker2", 4, 4), "conv2": choice("tucker2", 4, 4)})
    fitted = repaired(net, plan, "moments")
    for name in plan:
        dense, found = (layer_outputs(g, LATENTS, [name])[name] for g in (net, fitted))
        wanted, reached = (rows.double().square().mean(dim=0) for rows in (dense, found))
        share = reached / wanted
        assert (share.log().abs() < 1e-3).float().mean() > 0.6
        assert share.max() < 1.001


@pytest.mark.parametrize("name", LAYERS)
def test_least_squares_never_makes_the_output_error_larger(name: str) -> None:
    layer, replacement, side = LAYERS[name]
    net, plan = Chain(layer, side=side), RankPlan({"layers.0": replacement})
    wanted = net(LATENTS)
    before = (apply_plan(net, plan)(LATENTS) - wanted).square().mean()
    after = (repaired(net, plan, "least_squares")(LATENTS) - wanted).square().mean()
    assert after < before


@pytest.mark.parametrize("bias", [True, False])
def test_least_squares_reaches_the_best_last_factor(bias: bool) -> None:
    net, plan = Chain(nn.Linear(8, 12, bias=bias)), RankPlan({"layers.0": choice("svd", 3)})
    fitted = repaired(net, plan, "least_squares")
    first = fitted.get_submodule("layers.0.0")
    rows = first(LATENTS).double()  # what the last factor sees, (m, 3)
    if bias:
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    wanted = net(LATENTS).double()
    best = rows @ torch.linalg.lstsq(rows, wanted).solution
    torch.testing.assert_close(fitted(LATENTS).double(), best, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fit", ["moments", "least_squares"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_plan_of_full_rank_is_left_as_it_is(name: str, fit: Fit) -> None:
    layer, replacement, side = LAYERS[name]
    net = Chain(layer, side=side)
    profile = profile_layers(net, LATENTS[:2])["layers.0"]
    full = profile.max_rank(replacement.method)
    plan = RankPlan({"layers.0": Factorization(replacement.method, full)})
    before, after = apply_plan(net, plan), repaired(net, plan, fit)
    torch.testing.assert_close(after(LATENTS), before(LATENTS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fit", ["moments", "least_squares"])
def test_the_batch_size_does_not_matter(fit: Fit) -> None:
    net, plan = SmallNet(), RankPlan({n: choice("spatial_svd", 3) for n in ("conv1", "conv2")})
    whole = repaired(net, plan, fit, batch_size=48).state_dict()
    for batch_size in (7, 32):
        parts = repaired(net, plan, fit, batch_size).state_dict()
        for name, tensor in whole.items():
            torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "replacement"),
    [
        (nn.ConvTranspose2d(4, 8, 4, 2, 1), choice("spatial_svd", 3)),
        (nn.Conv2d(4, 8, 3, groups=2), choice("spatial_svd", 4)),
    ],
)
def test_a_last_factor_that_is_transposed_or_grouped_stays_as_it_is(
    layer: nn.Module, replacement: Factorization
) -> None:
    net, plan = Chain(layer, side=5), RankPlan({"layers.0": replacement})
    before, after = apply_plan(net, plan), repaired(net, plan, "least_squares")
    assert torch.equal(before(LATENTS), after(LATENTS))


def test_a_net_of_lines_or_volumes_is_passed_over() -> None:
    line = nn.Sequential(nn.Unflatten(1, (4, 2)), nn.Conv1d(4, 8, 1)).eval().requires_grad_(False)
    plan = RankPlan({"1": choice("svd", 2)})
    assert torch.equal(repaired(line, plan, "moments")(LATENTS), apply_plan(line, plan)(LATENTS))


class Patches(nn.Module):
    """A linear layer on the last axis of four, as nets with channels last have it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 6)
        self.mix = nn.Linear(6, 6)
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        return self.mix(torch.tanh(self.linear(z.view(-1, 2, 2, 2))))  # (n, 2, 2, 6)


def test_a_linear_layer_on_maps_has_its_features_last() -> None:
    net, plan = Patches(), RankPlan({"mix": choice("svd", 3)})
    wanted = net(LATENTS).double().flatten(0, 2)
    after = repaired(net, plan, "moments")(LATENTS).double().flatten(0, 2)
    torch.testing.assert_close(after.mean(dim=0), wanted.mean(dim=0), rtol=1e-4, atol=1e-5)
    fitted = repaired(net, plan, "least_squares")(LATENTS).double().flatten(0, 2)
    before = apply_plan(net, plan)(LATENTS).double().flatten(0, 2)
    assert (fitted - wanted).square().sum() < (before - wanted).square().sum()


@pytest.mark.parametrize("fit", ["none", "moments"])
def test_neither_the_factorized_nor_the_dense_net_is_changed(fit: Fit) -> None:
    net, plan = SmallNet(), RankPlan({"conv1": choice("spatial_svd", 3)})
    factorized = apply_plan(net, plan)
    before = {name: tensor.clone() for name, tensor in factorized.state_dict().items()}
    targets = layer_outputs(net, LATENTS, ["conv1"])
    new = calibrate(factorized, LATENTS, targets, ["conv1"], fit=fit)
    assert all(torch.equal(factorized.state_dict()[n], t) for n, t in before.items())
    assert all(torch.equal(net.state_dict()[n], t) for n, t in SmallNet().state_dict().items())
    unchanged = all(torch.equal(new.state_dict()[n], t) for n, t in before.items())
    assert unchanged == (fit == "none")
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in new.modules())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice = nn.Linear(8, 8), nn.Linear(8, 8)
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        return self.twice(torch.tanh(self.twice(torch.tanh(self.once(z)))))


def test_a_layer_that_runs_twice_in_a_pass_is_left_out() -> None:
    net = Twice()
    assert list(layer_outputs(net, LATENTS, ["once", "twice"], batch_size=20)) == ["once"]
    plan = RankPlan({"twice": choice("svd", 3)})
    assert torch.equal(repaired(net, plan, "moments")(LATENTS), apply_plan(net, plan)(LATENTS))


def test_outputs_are_read_row_by_row_at_a_grid_of_positions() -> None:
    net = Chain(nn.Conv2d(4, 5, 1), side=3)
    [rows] = layer_outputs(net, LATENTS[:2], ["layers.0"]).values()
    torch.testing.assert_close(rows, net(LATENTS[:2]).movedim(1, -1).reshape(18, 5))


def test_without_a_layer_to_fit_the_generator_does_not_run() -> None:
    class Untouchable(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            raise AssertionError("it runs")

    assert layer_outputs(Untouchable(), LATENTS, []) == {}
