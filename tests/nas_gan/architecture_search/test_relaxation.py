import math

import numpy as np
import pytest
import torch

from nas_gan.architecture_search.relaxation import (
    Relaxation,
    TemperatureSchedule,
    gumbel_noise,
    gumbel_softmax,
)
from nas_gan.errors import InvalidValueError

# epoch of 125 -> temperature, as published
TEMPERATURES = {0: 5.0, 1: 4.84594, 25: 2.28653, 62: 0.71826, 100: 0.21867, 124: 0.10318}


@pytest.mark.parametrize(("epoch", "temperature"), TEMPERATURES.items())
def test_the_temperature_falls_as_published(epoch, temperature):
    assert TemperatureSchedule(5, 0.1)(epoch / 125) == pytest.approx(temperature, abs=5e-6)


def test_the_temperature_ends_at_its_end_and_stays_there():
    schedule = TemperatureSchedule(2, 0.5)
    assert schedule(0.5) == pytest.approx(1)  # the geometric mean
    assert schedule(1) == schedule(3) == 0.5


@pytest.mark.parametrize(("start", "end"), [(5, 0), (5, -1), (1, 2), (math.inf, 1), (math.nan, 1)])
def test_a_temperature_that_does_not_fall_to_above_zero_is_refused(start, end):
    with pytest.raises(InvalidValueError, match="temperature must fall"):
        TemperatureSchedule(start, end)


def test_gumbel_noise_has_the_moments_of_its_distribution():
    noise = gumbel_noise((100_000,), np.random.default_rng(0)).double()
    variance = math.pi**2 / 6
    # Within 5 standard errors; the excess kurtosis of a Gumbel variable is 12 / 5.
    assert abs(noise.mean() - np.euler_gamma) < 5 * (variance / 1e5) ** 0.5
    assert abs(noise.var() - variance) < 5 * variance * (4.4 / 1e5) ** 0.5


def test_without_noise_at_temperature_1_the_weights_are_the_probabilities():
    alphas = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    weights = gumbel_softmax(alphas, torch.zeros(3, dtype=torch.float64), 1.0)
    assert weights == pytest.approx(alphas.softmax(0))


def test_the_largest_weight_is_an_operation_with_its_probability():
    probabilities = torch.tensor([0.7, 0.2, 0.1])
    noise = gumbel_noise((20_000, 3), np.random.default_rng(0))
    weights = gumbel_softmax(probabilities.log().expand(20_000, 3), noise, 0.1)
    shares = weights.argmax(-1).bincount() / 20_000
    # Within 5 standard errors of a share of 20,000 draws.
    assert shares.numpy() == pytest.approx(probabilities.numpy(), abs=5 * 0.5 / 20_000**0.5)


def test_the_published_logits_hide_what_was_learned():
    # Probabilities (1, 0) as logits: the odds are e to 1, however sure the network is.
    noise = gumbel_noise((20_000, 2), np.random.default_rng(0))
    alphas = torch.tensor([40.0, 0.0]).expand(20_000, 2)
    first = gumbel_softmax(alphas, noise, 0.1, "probabilities").argmax(-1).eq(0).float().mean()
    assert first == pytest.approx(math.e / (1 + math.e), abs=5 * 0.5 / 20_000**0.5)
    assert gumbel_softmax(alphas, noise, 0.1).argmax(-1).eq(0).all()


@pytest.mark.parametrize("logits", ["log-probabilities", "probabilities"])
def test_an_operation_that_is_missing_has_no_weight_and_no_gradient(logits):
    alphas = torch.zeros(3, requires_grad=True)
    masked = alphas.masked_fill(torch.tensor([False, False, True]), -torch.inf)
    weights = gumbel_softmax(masked, torch.tensor([1.0, 0.0, 9.0]), 0.1, logits)
    weights[0].backward()
    assert weights[2] == 0
    assert weights.sum().item() == pytest.approx(1)
    assert alphas.grad is not None
    assert alphas.grad.isfinite().all()
    assert alphas.grad[2] == 0


def test_without_gumbel_noise_the_weights_are_the_softmax_at_any_temperature():
    alphas = torch.tensor([0.0, 3.0])
    for temperature in (5.0, 0.1):
        weights = Relaxation("softmax")(alphas, temperature, np.random.default_rng(0))
        assert torch.equal(weights, alphas.softmax(0))


def test_a_low_temperature_makes_weights_that_choose():
    def largest(temperature):
        rng = np.random.default_rng(0)
        return Relaxation()(torch.zeros(1000, 7), temperature, rng).amax(-1).mean().item()

    assert largest(5.0) < 0.3
    assert largest(0.01) > 0.95
