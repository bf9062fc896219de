from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ard.assembly.statistics import (
    capture_inputs,
    captured_inputs,
    input_covariances,
    output_covariances,
    shrunk,
    with_outputs,
)
from ard.errors import NonFiniteError, PlanError
from nas_gan.errors import InvalidValueError
from nas_gan.networks import memory


def latents(n, *shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, dtype=torch.float64, generator=rng)


def test_the_moment_of_a_linear_layer_is_that_of_its_inputs():
    z = latents(20, 5)
    found = input_covariances(nn.Sequential(nn.Linear(5, 3).double()), z, ["0"])["0"]
    assert torch.allclose(found.channel, z.T @ z / 20, atol=1e-14)
    assert found.vertical is None
    assert found.n_images == 20


def test_the_channel_moment_averages_over_positions():
    x = latents(6, 4, 5, 7)
    net = nn.Sequential(nn.Conv2d(4, 2, 3, padding=1).double())
    found = input_covariances(net, x, ["0"])["0"].channel
    assert torch.allclose(found, torch.einsum("nchw,ndhw->cd", x, x) / (6 * 35), atol=1e-14)


CONVS = {
    "padded": dict(kernel_size=3, padding=1),
    "dilated": dict(kernel_size=(5, 3), padding=(4, 2), dilation=2),
    "strided": dict(kernel_size=(3, 3), stride=(2, 1), padding=(0, 1)),
    "same": dict(kernel_size=(4, 3), padding="same"),
    "valid": dict(kernel_size=3, padding="valid"),
    "reflect": dict(kernel_size=3, padding=1, padding_mode="reflect"),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
}


# torch notes that an even kernel with padding "same" costs a copy.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS.keys())
def test_the_vertical_moment_predicts_the_power_of_a_vertical_kernel(options):
    # mean |v . x|^2 over all outputs of a k_h x 1 convolution is v^T C v.
    x, net = latents(5, 3, 9, 8), nn.Sequential(nn.Conv2d(3, 4, **options).double())
    conv: Any = net[0]
    moment: Any = input_covariances(net, x, ["0"])["0"].vertical
    stride, pad = conv.stride[0], conv.padding if isinstance(conv.padding, str) else conv.padding[0]
    vertical = nn.Conv2d(
        *(3, 1, (conv.kernel_size[0], 1), (stride, 1)),
        padding=pad if isinstance(pad, str) else (pad, 0),
        dilation=(conv.dilation[0], 1),
        bias=False,
        padding_mode=conv.padding_mode,
    ).double()
    v = vertical.weight.detach().flatten()
    assert float(vertical(x).detach().square().mean()) == pytest.approx(
        float(v @ moment @ v), rel=1e-12
    )


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_the_moments_do_not_depend_on_the_batch_size(batch_size):
    net = nn.Sequential(
        nn.Linear(6, 4 * 9 * 9), nn.Unflatten(1, (4, 9, 9)), nn.Conv2d(4, 3, 3, padding=1)
    ).double()
    z = latents(20, 6)
    one: Any = input_covariances(net, z, ["2"], batch_size=20)["2"]
    other: Any = input_covariances(net, z, ["2"], batch_size=batch_size)["2"]
    assert torch.allclose(one.channel, other.channel, rtol=1e-12)
    assert torch.allclose(one.vertical, other.vertical, rtol=1e-12, atol=1e-14)


def test_a_large_map_is_read_at_both_phases_of_an_upsampling():
    # One channel is the parity of the column. Read with an even step it would be constant.
    parity = (torch.arange(32) % 2).double().expand(2, 1, 32, 32)
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1).double())
    found = input_covariances(net, parity, ["0"], max_positions=128)["0"].channel
    assert float(found) == pytest.approx(0.5, abs=0.1)


def test_a_pointwise_convolution_with_stride_sees_what_it_reads():
    x, net = latents(3, 2, 6, 6), nn.Sequential(nn.Conv2d(2, 2, 1, stride=2).double())
    seen = x[:, :, ::2, ::2]
    found = input_covariances(net, x, ["0"])["0"].channel
    assert torch.allclose(found, torch.einsum("nchw,ndhw->cd", seen, seen) / 27, atol=1e-14)


def test_a_generator_in_training_mode_is_left_as_it_was():
    net: Any = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    input_covariances(net, latents(8, 4), ["2"])
    assert all(module.training for module in net.modules())
    assert torch.equal(net[1].running_mean, torch.zeros(4).double())
    assert not net[2]._forward_pre_hooks


def test_half_precision_inputs_are_summed_in_double():
    x = F.normalize(latents(4000, 3)).half()
    found = input_covariances(nn.Sequential(nn.Linear(3, 2).half()), x, ["0"], batch_size=4000)
    assert float(found["0"].channel.trace()) == pytest.approx(1, abs=1e-3)
    assert found["0"].channel.dtype == torch.float64


def test_a_name_that_is_no_layer_is_refused():
    with pytest.raises(PlanError, match="no layer 'c9'"):
        input_covariances(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2), ["c9"])
    with pytest.raises(PlanError, match="0: a ReLU has no input covariance"):
        input_covariances(nn.Sequential(nn.ReLU()), torch.ones(1, 2), ["0"])


def test_an_input_of_nan_is_refused_with_the_layer_named():
    with pytest.raises(NonFiniteError, match="0: an input"):
        input_covariances(nn.Sequential(nn.Linear(2, 2)), torch.full((1, 2), torch.nan), ["0"])


TRANSPOSED = {
    "dcgan": dict(kernel_size=4, stride=2, padding=1),
    "odd": dict(kernel_size=3, stride=2, padding=1, output_padding=1),
    "dilated": dict(kernel_size=(3, 2), stride=(3, 1), dilation=(2, 1), padding=(5, 0)),
}


@pytest.mark.parametrize("options", TRANSPOSED.values(), ids=TRANSPOSED.keys())
def test_the_vertical_moment_of_a_transposed_kernel_predicts_its_power(options):
    x, net = latents(5, 3, 9, 8), nn.Sequential(nn.ConvTranspose2d(3, 4, **options).double())
    conv: Any = net[0]
    moment: Any = input_covariances(net, x, ["0"], max_positions=10**6)["0"].vertical
    vertical = nn.ConvTranspose2d(
        *(3, 1, (conv.kernel_size[0], 1), (conv.stride[0], 1), (conv.padding[0], 0)),
        output_padding=(conv.output_padding[0], 0),
        dilation=(conv.dilation[0], 1),
        bias=False,
    ).double()
    v = vertical.weight.detach().flatten()
    assert float(vertical(x).detach().square().mean()) == pytest.approx(
        float(v @ moment @ v), rel=1e-12
    )


def test_a_line_has_vertical_patches_and_a_volume_has_none():
    x = latents(5, 3, 9)
    net: Any = nn.Sequential(nn.Conv1d(3, 1, 3, 2, 1, bias=False).double())
    v, moment = net[0].weight.detach().flatten(), input_covariances(net, x, ["0"])["0"].vertical
    assert float(net(x).detach().square().mean()) == pytest.approx(float(v @ moment @ v))
    volume = nn.Sequential(nn.Conv3d(3, 2, 3).double())
    found = input_covariances(volume, latents(2, 3, 4, 4, 4), ["0"])["0"]
    assert (found.channel.shape, found.vertical) == ((3, 3), None)


def test_every_call_of_a_shared_weight_is_measured():
    one, other = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
    other.weight = one.weight
    net, z = nn.Sequential(one, nn.Tanh(), other, one), latents(20, 3)
    seen = torch.cat([z, net[:2](z), net[:3](z)]).detach()
    found = input_covariances(net, z, ["0"])["0"].channel
    assert torch.allclose(found, seen.T @ seen / 60, atol=1e-14)


# -- outputs


def one_pixel(activation):
    """`w . f(x)`: an image of one number, whose sign is all that a direction changes."""
    net = nn.Sequential(nn.Linear(3, 3), activation, nn.Linear(3, 1)).double()
    net[0].weight.data, net[0].bias.data = torch.eye(3).double(), torch.zeros(3).double()
    return net


def test_the_gradients_of_one_pixel_by_hand():
    net, z = one_pixel(nn.Tanh()), latents(20, 3)
    g = net[2].weight.detach() * (1 - z.tanh().square())  # (20, 3)
    found = output_covariances(net, z, ["0", "2"], n_probes=1)
    assert torch.allclose(found["0"], g.T @ g / 20, atol=1e-14)
    assert torch.allclose(found["2"], torch.ones(1, 1).double(), atol=1e-14)


def test_positions_are_averaged_over():
    layers = nn.Conv2d(2, 3, 1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)
    net: Any = nn.Sequential(*layers).double()
    x = latents(5, 2, 2, 2)
    y = net[0](x).detach()
    g = (net[3].weight.detach().view(3, 2, 2) * (1 - y.tanh().square())).movedim(1, -1)
    found = output_covariances(net, x, ["0"], n_probes=3)["0"]
    assert torch.allclose(found, g.reshape(-1, 3).T @ g.reshape(-1, 3) / 20, atol=1e-14)


def test_many_directions_give_the_squared_derivative():
    net: Any = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)).double()
    z = latents(500, 2)
    a = net[1].weight.detach()
    found = output_covariances(net, z, ["0"], n_probes=8)["0"]
    # A mean of 4000 draws whose spread is about their size.
    assert float((found - a.T @ a).norm() / (a.T @ a).norm()) < 0.05


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_worth_of_outputs_does_not_depend_on_the_batch_size(batch_size):
    net = nn.Sequential(
        nn.Linear(6, 36), nn.Unflatten(1, (4, 3, 3)), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3)
    ).double()
    z = latents(20, 6)
    one, other = (output_covariances(net, z, ["0"], batch_size=n)["0"] for n in (20, batch_size))
    assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_a_seed_gives_the_same_directions_and_another_gives_others():
    net, z = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)).double(), latents(4, 2)
    first, again, other = (output_covariances(net, z, ["0"], seed=s)["0"] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_an_activation_that_works_in_place_changes_nothing():
    z = latents(20, 3)
    copied = one_pixel(nn.ReLU())
    in_place = one_pixel(nn.ReLU(inplace=True))
    in_place.load_state_dict(copied.state_dict())
    found, expected = (output_covariances(n, z, ["0"])["0"] for n in (in_place, copied))
    assert torch.equal(found, expected)


def test_measuring_outputs_leaves_the_generator_as_it_was():
    net = one_pixel(nn.Tanh()).requires_grad_(False)
    net[0].requires_grad_(True)
    output_covariances(net, latents(4, 3), ["0", "2"])
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert not net[0]._forward_hooks
    assert not net(latents(4, 3)).isnan().any()


def test_an_output_that_the_image_does_not_show_is_worth_nothing():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.unseen = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, z):
            self.unseen(z)
            return self.seen(z)

    frozen = Blind().requires_grad_(False)
    for names in (["seen", "unseen"], ["unseen"]):
        found = output_covariances(frozen, torch.ones(2, 3), names)
        assert not found["unseen"].any()


def test_outputs_that_cannot_be_measured_are_refused():
    net = one_pixel(nn.Tanh())
    with pytest.raises(InvalidValueError, match="n_probes must be at least 1; got 0"):
        output_covariances(net, latents(2, 3), ["0"], n_probes=0)
    with pytest.raises(PlanError, match="no layer 'c9'"):
        output_covariances(net, latents(2, 3), ["c9"])
    with pytest.raises(NonFiniteError, match="0: a gradient"):
        output_covariances(net, torch.full((1, 3), torch.nan).double(), ["0"])


def test_both_measurements_of_a_layer_go_into_one_value():
    net, z = one_pixel(nn.Tanh()), latents(4, 3)
    inputs, outputs = input_covariances(net, z, ["0", "2"]), output_covariances(net, z, ["0"])
    found = with_outputs(inputs, outputs)
    assert found["0"].output is outputs["0"]
    assert found["2"].output is None
    assert found["0"].channel is inputs["0"].channel


def test_shrinking_a_small_sample_brings_it_nearer_to_what_it_was_drawn_from() -> None:
    rng = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.5, 1.5, 30, dtype=torch.float64)
    rows = torch.randn(60, 30, generator=rng, dtype=torch.float64) * scale
    sample, true = rows.T @ rows / 60, scale.square().diag()
    assert (shrunk(sample, 60) - true).norm() < 0.7 * (sample - true).norm()
    # Of normal latents, whose covariance is the identity, it leaves little but their length.
    latents = torch.randn(128, 40, generator=rng, dtype=torch.float64)
    sample, identity = latents.T @ latents / 128, torch.eye(40, dtype=torch.float64)
    assert (shrunk(sample, 128) - identity).norm() < 0.15 * (sample - identity).norm()


def test_shrinking_keeps_the_trace_and_goes_away_as_the_sample_grows() -> None:
    rng = torch.Generator().manual_seed(1)
    half = torch.randn(8, 8, generator=rng, dtype=torch.float64)
    covariance = half @ half.T
    for n in (1, 10, 10**9):
        assert float(shrunk(covariance, n).trace()) == pytest.approx(float(covariance.trace()))
    assert torch.allclose(shrunk(covariance, 10**9), covariance)
    identity = torch.eye(5, dtype=torch.float64)
    assert torch.equal(shrunk(identity, 3), identity)
    assert torch.equal(shrunk(torch.tensor([[4.0]]), 1), torch.tensor([[4.0]]))


# --- memory


class Maps(nn.Module):
    """Two convolutions on maps of 2,048 floats an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(8, 8, 3, padding=1).double()
        self.last = nn.Conv2d(8, 3, 3, padding=1).double()
        self.given = list[int]()
        self.room = 100

    def forward(self, z):
        self.given.append(len(z))
        if len(z) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.last(self.first(z).tanh())


def alike(one: Any, other: Any) -> None:
    for name in one:
        assert torch.allclose(one[name].channel, other[name].channel, rtol=1e-12)
        assert torch.allclose(one[name].vertical, other[name].vertical, rtol=1e-12)
        assert torch.allclose(one[name].output, other[name].output, rtol=1e-12, atol=1e-15)


def statistics_of_maps(net: nn.Module, x: torch.Tensor) -> Any:
    names = ["first", "last"]
    found = input_covariances(net, x, names)
    return with_outputs(found, output_covariances(net, x, names, batch_size=12))


@pytest.mark.parametrize("short", ["of a GPU", "of a CPU"])
def test_statistics_do_not_depend_on_how_little_memory_there_is(short, monkeypatch):
    x, net = latents(12, 8, 16, 16), Maps()
    wanted = statistics_of_maps(net, x)
    assert max(net.given) == 12
    net.given.clear()
    if short == "of a GPU":
        net.room = 3
    else:  # a quarter of it has room for the maps of three images
        row = memory.activations_of(net, x).alive
        monkeypatch.setattr(memory, "available_bytes", lambda: 4 * 3 * row)
    alike(wanted, statistics_of_maps(net, x))
    fitted = [n for n in net.given if n <= 3]
    assert sum(fitted) >= 24
    if short == "of a CPU":
        assert fitted == net.given


def test_inputs_are_captured_in_groups_that_fit_and_are_the_same():
    x, net = latents(4, 8, 16, 16), Maps()
    names = ["first", "last"]
    together = capture_inputs(net, x, names)
    net.given.clear()
    found = dict(captured_inputs(net, x, names, most=together["first"].nbytes))
    assert list(found) == names
    assert all(torch.equal(found[name], together[name]) for name in names)
    apart = net.given.count(4)
    net.given.clear()
    dict(captured_inputs(net, x, names))
    assert apart == net.given.count(4) + 1 == 2
    net.room = 2
    halves = capture_inputs(net, x, names)
    assert all(torch.allclose(halves[name], together[name], rtol=1e-12) for name in names)
