from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from nas_gan.errors import InvalidValueError
from nas_gan.networks.spectral import normalise_network_, spectral_norm_

LAYERS = {
    "plain": (lambda: nn.Conv2d(2, 3, 3, padding=1), (5, 4)),
    "strided": (lambda: nn.Conv2d(2, 4, 4, stride=2, padding=1), (6, 6)),
    "unpadded": (lambda: nn.Conv2d(2, 3, 3), (4, 5)),
    "dilated": (lambda: nn.Conv2d(3, 2, 3, padding=2, dilation=2), (5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2), (4, 4)),
    "same": (lambda: nn.Conv2d(2, 2, (5, 3), padding="same"), (5, 4)),
    "reflecting": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (4, 4)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (4, 4)),
    "transposed": (
        lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1),
        (4, 3),
    ),
    "one axis": (lambda: nn.Conv1d(2, 3, 3, stride=2), (5,)),
    "linear": (lambda: nn.Linear(6, 4), ()),
}


def seeded(make):
    torch.manual_seed(0)
    return make()


def explicit_matrix(layer, size):
    """The layer without its bias as a matrix: its answers to every unit input."""
    shape = (layer.in_channels, *size) if size else (layer.in_features,)
    n = torch.Size(shape).numel()
    with torch.no_grad():
        units = torch.eye(n).view(n, *shape)
        return (layer(units) - layer(torch.zeros(1, *shape))).flatten(1).T


def norm_of(layer, size):
    return torch.linalg.matrix_norm(explicit_matrix(layer, size), 2).item()


def scale_of(layer):
    return layer.parametrizations["weight"][0]


@pytest.mark.parametrize("name", LAYERS)
def test_the_estimate_becomes_the_largest_singular_value_of_the_explicit_matrix(name, rng):
    make, size = LAYERS[name]
    layer = seeded(make)
    expected, weight = norm_of(layer, size), layer.weight.detach().clone()
    spectral_norm_(layer, input_size=size, n_iterations=25, rng=rng)
    for _ in range(8):  # 200 rounds
        effective = layer.weight
    assert scale_of(layer).sigma(weight).item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(effective, weight / expected, rtol=1e-3, atol=1e-5)
    # The norm of the layer as it is used now.
    assert norm_of(layer.eval(), size) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", ["plain", "strided", "unpadded", "transposed"])
def test_the_flattened_kernel_has_another_norm_where_the_kernel_overlaps_itself(name, rng):
    make, size = LAYERS[name]
    layer = seeded(make)
    dim = 1 if name == "transposed" else 0
    flat = torch.linalg.matrix_norm(layer.weight.transpose(0, dim).flatten(1), 2).item()
    operator, weight = norm_of(layer, size), layer.weight.detach().clone()
    spectral_norm_(layer, method="kernel", n_iterations=300, rng=rng)
    _ = layer.weight
    assert scale_of(layer).sigma(weight).item() == pytest.approx(flat, rel=1e-4)
    assert abs(flat - operator) > 0.03 * operator


def test_both_methods_agree_on_a_kernel_of_one_pixel(rng):
    sigmas = []
    for method in ("operator", "kernel"):
        layer: Any = spectral_norm_(
            seeded(lambda: nn.Conv2d(3, 4, 1)),
            method=method,
            input_size=(3, 3),
            n_iterations=200,
            rng=rng,
        )
        sigmas.append(layer.weight.norm().item())
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-4)


def test_the_norm_depends_on_stride_and_size():
    def norm(stride, size):
        layer = seeded(lambda: nn.Conv2d(1, 1, 3, stride=stride, padding=1, bias=False))
        nn.init.ones_(layer.weight)
        return norm_of(layer, size)

    # All nine weights are 1. One pixel: a single weight is left. Stride 3: no overlap, so the
    # norm is that of the kernel. Stride 1 on a large image comes near the sum of the weights.
    assert norm(1, (1, 1)) == pytest.approx(1)
    assert norm(3, (4, 4)) <= 3 + 1e-5
    assert norm(1, (12, 12)) > 8


def test_the_effective_kernel_is_scaled_by_the_constant(rng):
    layer = seeded(lambda: nn.Conv2d(2, 2, 3, padding=1))
    spectral_norm_(layer, input_size=(4, 4), constant=1.818, n_iterations=100, rng=rng)
    _ = layer.weight
    assert norm_of(layer.eval(), (4, 4)) == pytest.approx(1.818, rel=1e-3)


def test_the_start_vector_has_norm_one_and_stays_there(rng):
    layer = spectral_norm_(nn.Conv2d(2, 3, 3), input_size=(6, 6), rng=rng)
    assert scale_of(layer).vector.norm().item() == pytest.approx(1)
    _ = layer.weight
    assert scale_of(layer).vector.norm().item() == pytest.approx(1)


def test_the_vector_is_state_and_moves_in_training_only(rng):
    layer: Any = spectral_norm_(nn.Conv2d(2, 3, 3), input_size=(6, 6), rng=rng)
    key = "parametrizations.weight.0.vector"
    before = layer.state_dict()[key].clone()
    _ = layer.eval().weight
    assert torch.equal(layer.state_dict()[key], before)
    _ = layer.train().weight
    assert not torch.equal(layer.state_dict()[key], before)
    other: Any = spectral_norm_(nn.Conv2d(2, 3, 3), input_size=(6, 6)).eval()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.eval().weight)


def test_the_gradient_is_that_of_the_scaled_weight(rng):
    # d(sum(c * w / s)) with s = ||A v|| differentiated, v held: against finite differences.
    layer: Any = spectral_norm_(nn.Conv2d(1, 1, 2).double(), input_size=(3, 3), rng=rng).eval()
    scale, weight = scale_of(layer), layer.parametrizations["weight"].original
    assert torch.autograd.gradcheck(scale, (weight,))


def test_under_autocast_the_estimate_stays_in_float32(rng):
    layer: Any = spectral_norm_(nn.Conv2d(4, 4, 3), input_size=(6, 6), rng=rng).eval()
    exact = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, exact)


def test_a_zero_weight_stays_zero(rng):
    layer: Any = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    spectral_norm_(layer, rng=rng)
    layer(torch.ones(1, 3)).sum().backward()
    assert not layer.weight.any()
    assert layer.parametrizations["weight"].original.grad.isfinite().all()


def test_every_layer_of_a_network_is_normalised_for_the_size_that_it_sees(rng):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 4, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 2),
    )
    normalise_network_(network, torch.zeros(1, 3, 8, 8), gain=64, n_iterations=200, rng=rng)
    _ = [network[i].weight for i in (0, 2, 4)]
    for index, size in ((0, (8, 8)), (2, (4, 4)), (4, ())):
        assert norm_of(network[index].eval(), size) == pytest.approx(64 ** (1 / 3), rel=1e-3)


@pytest.mark.parametrize(
    ("layer", "settings", "message"),
    [
        (nn.BatchNorm2d(3), {}, "got BatchNorm2d"),
        (nn.Conv2d(3, 3, 3), {}, "needs an input_size of 2 numbers; got None"),
        (nn.Conv2d(3, 3, 3), {"input_size": (8,)}, "2 numbers"),
        (nn.Linear(3, 3), {"constant": 0.0}, "constant must be above 0"),
        (nn.Linear(3, 3), {"method": "exact"}, "must be operator or kernel; got 'exact'"),
    ],
)
def test_what_cannot_be_normalised_is_refused(layer, settings, message):
    with pytest.raises(InvalidValueError, match=message):
        spectral_norm_(layer, **settings)
    assert not parametrize.is_parametrized(layer)


def test_a_layer_is_normalised_once(rng):
    layer = spectral_norm_(nn.Linear(3, 3), rng=rng)
    with pytest.raises(InvalidValueError, match="already"):
        spectral_norm_(layer)


def test_a_network_without_layers_is_refused():
    with pytest.raises(InvalidValueError, match="no convolution"):
        normalise_network_(nn.Sequential(nn.ReLU()), torch.zeros(1, 3))
