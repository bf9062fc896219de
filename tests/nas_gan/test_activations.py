import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nas_gan
from nas_gan.activations import (
    ACTIVATIONS,
    BETA_MIN,
    PMish,
    Swish,
    away_from_zero,
    make_activation,
    pmish,
)
from nas_gan.errors import InvalidValueError

X = torch.tensor([-3, -1, -0.5, 0.5, 1, 3], dtype=torch.float64)
# Published values at X, rounded to six digits.
VALUES = {
    0.5: [-1.147095, -0.738946, -0.409188, 0.464557, 0.960176, 2.993362],
    1.0: [-0.145647, -0.303401, -0.220744, 0.375245, 0.865098, 2.986535],
    2.0: [-0.003714, -0.063379, -0.077681, 0.288058, 0.786986, 2.985201],
    5.0: [0, -0.001343, -0.007888, 0.237217, 0.762158, 2.985164],
}
MINIMA = {0.5: -1.1644, 1.0: -0.30884, 2.0: -0.07859, 5.0: -0.01264}


def beta_of(value):
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("beta", VALUES)
def test_pmish_has_the_published_values(beta):
    expected = torch.tensor(VALUES[beta], dtype=torch.float64)
    # The values were rounded to six digits.
    torch.testing.assert_close(pmish(X, beta_of(beta)), expected, atol=5.1e-7, rtol=0)


@pytest.mark.parametrize("beta", MINIMA)
def test_pmish_has_the_published_minimum(beta):
    x = torch.linspace(-10, 0, 100_001, dtype=torch.float64)
    assert pmish(x, beta_of(beta)).min().item() == pytest.approx(MINIMA[beta], abs=6e-5)


def test_pmish_with_beta_one_is_mish():
    torch.testing.assert_close(PMish()(X.float()), F.mish(X.float()))
    torch.testing.assert_close(pmish(X, beta_of(1.0)), F.mish(X), atol=1e-15, rtol=1e-14)


@pytest.mark.parametrize("value", [0.3, 0.5, 1.0, 2.0, 5.0, -0.7])
def test_the_derivatives_of_pmish_are_their_closed_forms(value):
    beta, x = beta_of(value), X.clone().requires_grad_()
    first, by_beta = torch.autograd.grad(pmish(x, beta).sum(), (x, beta), create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)

    b, x = beta.detach(), x.detach()
    softplus, g = F.softplus(b * x, threshold=100), torch.sigmoid(b * x)
    t = torch.tanh(softplus / b)
    h = 1 - t**2
    expect = {
        "first": t + x * h * g,
        "second": 2 * h * g + x * h * (b * g * (1 - g) - 2 * t * g**2),
        "by beta": (x * h * (b * x * g - softplus) / b**2).sum(0, keepdim=True),
    }
    found = {"first": first, "second": second, "by beta": by_beta}
    torch.testing.assert_close(found, expect, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-9, -1e-9, -1e-4, -1.0, 1e-3, 50.0])
def test_any_beta_gives_finite_values_and_gradients(value):
    layer = PMish()
    nn.init.constant_(layer.beta, value)
    x = torch.linspace(-1e4, 1e4, 2001, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert layer.beta.grad.isfinite().all()


# Near beta 0 the function is the identity but for inputs of the size of 1 / beta.
@pytest.mark.parametrize(
    ("value", "x"),
    [(0.0, -9000.0), (1e-9, -9000.0), (-1e-4, 9000.0), (0.1, -1.0), (-1.0, 1.0), (50.0, 0.01)],
)
def test_the_gradient_reaches_beta_where_the_function_depends_on_it(value, x):
    layer = PMish()
    nn.init.constant_(layer.beta, value)
    layer(torch.tensor([x])).backward()
    assert layer.beta.grad.abs() > 0


@pytest.mark.parametrize(
    ("value", "moved"),
    [(0.0, BETA_MIN), (1e-5, BETA_MIN), (-1e-5, -BETA_MIN), (0.5, 0.5), (-2.0, -2.0)],
)
def test_beta_near_zero_moves_away_and_keeps_its_sign_and_gradient(value, moved):
    beta = beta_of(value)
    result = away_from_zero(beta)
    result.backward()
    # The straight-through sum `beta + (clamped - beta)` rounds once.
    assert result.item() == pytest.approx(moved, rel=1e-12)
    assert beta.grad.item() == 1


def test_swish_starts_as_silu_and_learns_its_beta():
    layer = Swish()
    torch.testing.assert_close(layer(X.float()), F.silu(X.float()))
    layer(X.float()).sum().backward()
    assert layer.beta.grad.abs() > 0


def test_every_name_makes_a_fresh_module_and_another_name_is_refused():
    for name in ACTIVATIONS:
        assert make_activation(name) is not make_activation(name)
    with pytest.raises(InvalidValueError, match="'gelu' is not known; choose one of relu, silu"):
        make_activation("gelu")


def test_no_device_is_hard_coded():
    pattern = re.compile(r"\.cuda\(|cuda\.(Float|Long|Half)Tensor|\.to\(\s*['\"]cuda")
    sources = sorted(Path(nas_gan.__file__).parent.rglob("*.py"))
    assert sources
    assert [path.name for path in sources if pattern.search(path.read_text())] == []
