import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ard.errors import NonFiniteError, PlanError
from ard.factorization.statistics import input_covariances


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
    conv = net[0]
    moment = input_covariances(net, x, ["0"])["0"].vertical
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
    one = input_covariances(net, z, ["2"], batch_size=20)["2"]
    other = input_covariances(net, z, ["2"], batch_size=batch_size)["2"]
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
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
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
