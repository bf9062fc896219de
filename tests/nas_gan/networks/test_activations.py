import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import nas_gan
from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import (
    ACTIVATIONS,
    BETA_MIN,
    OUTPUT_ACTIVATIONS,
    SYMMETRIC,
    UNIT,
    PMish,
    Swish,
    activation_statistics,
    away_from_zero,
    bhaa,
    bhaa_range,
    bhana,
    bhata,
    dsilu,
    freeze_activations_,
    make_activation,
    make_output_activation,
    mida,
    shrelu,
)
from nas_gan.networks.pmish import pmish

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


@pytest.mark.parametrize("beta", [-2.0, -BETA_MIN, BETA_MIN, 0.5, 1.0, 3.0])
def test_pmish_without_a_gradient_has_the_same_values(beta):
    x = torch.cat([torch.linspace(-120, 120, 4001), torch.tensor([-1e30, 1e30, 0.0])])
    with torch.no_grad():
        quick = pmish(x, torch.tensor([beta]))
    exact = pmish(x.double().requires_grad_(), beta_of(beta)).float()
    assert quick.isfinite().all()
    # Within a few roundings of x, since a sigmoid near 1 has lost what tells softplus from 0.
    assert ((quick - exact).abs() <= 5e-7 * x.abs() + 1e-7).all()
    assert torch.equal(x[-3:], torch.tensor([-1e30, 1e30, 0.0]))  # its input is left as it was


@pytest.mark.parametrize("value", [-9.0, -2.0, 0.3, 1.0, 8.0, 50.0])
def test_pmish_in_float32_has_the_values_and_gradients_of_float64(value):
    x = torch.cat([torch.linspace(-120, 120, 4001), torch.tensor([-1e30, 1e30, 0.0])])
    weight = torch.linspace(-1, 1, len(x))
    found, expected = (
        [y, *torch.autograd.grad(y[:-3] @ weight.to(y)[:-3], inputs)]
        for dtype in (torch.float32, torch.float64)
        for inputs in [(x.to(dtype).requires_grad_(), beta_of(value).detach().to(dtype))]
        for y in [pmish(inputs[0], inputs[1].requires_grad_())]
    )
    assert ((found[0] - expected[0]).abs() <= 5e-7 * x.abs() + 1e-7).all()
    torch.testing.assert_close(found[1:], expected[1:], atol=5e-6, rtol=5e-5, check_dtype=False)


def test_pmish_can_be_differentiated_again_and_by_transforms():
    x, beta = torch.linspace(-4, 4, 41), beta_of(1.3).detach()

    def slope(x, beta):
        return torch.func.grad(lambda x: pmish(x, beta).square().sum())(x)

    expected = torch.func.jacrev(slope)(x.double(), beta)
    found = torch.func.jacrev(slope)(x, beta.float())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, check_dtype=False)


def test_pmish_can_be_traced_without_values():
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), PMish())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert layer(torch.empty(2, 3, 8, 8)).shape == (2, 4, 6, 6)


def test_pmish_with_a_beta_for_every_unit():
    x, beta = torch.randn(5, 3, 2, 2), torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    found, expected = (
        torch.autograd.grad(pmish(*inputs).square().sum(), inputs)
        for dtype in (torch.float32, torch.float64)
        for inputs in [(x.to(dtype).requires_grad_(), beta.to(dtype).requires_grad_())]
    )
    assert [gradient.shape for gradient in found] == [x.shape, beta.shape]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, check_dtype=False)


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
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert layer.beta.grad is not None
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
    assert layer.beta.grad is not None
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
    assert layer.beta.grad is not None
    assert layer.beta.grad.abs() > 0


def test_every_name_makes_a_fresh_module_and_another_name_is_refused():
    for name in ACTIVATIONS:
        assert make_activation(name) is not make_activation(name)
    with pytest.raises(InvalidValueError, match=r"'gelu' is not known; .*choose one of relu, silu"):
        make_activation("gelu")
    with pytest.raises(InvalidValueError, match="'bhna' is not known; did you mean bhana"):
        make_output_activation("bhna", UNIT)
    with pytest.raises(InvalidValueError, match=r"'sigmoid' is not known; .*tanh"):
        make_output_activation("sigmoid", SYMMETRIC)
    with pytest.raises(InvalidValueError, match=r"\(-1, 1\) or \(0, 1\); asked for \(0.0, 2.0\)"):
        make_output_activation("bhsa", (0.0, 2.0))


# The bi-hyperbolic family: values at X as published, rounded to six digits.


def number(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


PUBLISHED = {
    "bhsa (-1, 1)": (
        lambda x: bhaa(x, number(0.25), number(0.25), number(0.5), SYMMETRIC),
        [-0.984788, -0.780776, -0.437016, 0.437016, 0.780776, 0.984788],
    ),
    "bhsa (0, 1)": (
        lambda x: bhaa(x, number(0.7), number(0.7), number(0.5), UNIT),
        [0.047847, 0.217389, 0.339767, 0.660233, 0.782611, 0.952153],
    ),
    "mida": (
        lambda x: mida(x, number(0.25), number(0.7)),
        [-0.182455, -0.385589, -0.283661, 0.449430, 0.952975, 2.978470],
    ),
    "shrelu": (
        lambda x: shrelu(x, number(0.2)),
        [0.003330, 0.009902, 0.019258, 0.519258, 1.009902, 3.003330],
    ),
    "dsilu (0, 1)": (
        lambda x: dsilu(x, number(1.0), UNIT),
        [0.009294, 0.134632, 0.281280, 0.656220, 0.802868, 0.928206],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_bi_hyperbolic_family_has_the_published_values(name):
    function, values = PUBLISHED[name]
    expected = torch.tensor(values, dtype=torch.float64)
    # The values were rounded to six digits.
    torch.testing.assert_close(function(X), expected, atol=6e-7, rtol=0)


@pytest.mark.parametrize("interval", [SYMMETRIC, UNIT])
@pytest.mark.parametrize(("t1", "t2", "slope"), [(0.7, 0.5, 0.5), (0.2, 0.9, -1.3), (0.3, 0.3, 2)])
def test_bhaa_is_its_formula(t1, t2, slope, interval):
    k = 2 if interval == SYMMETRIC else 4
    left = torch.sqrt((1 + k * slope * X) ** 2 + k**2 * t1**2)
    right = torch.sqrt((1 - k * slope * X) ** 2 + k**2 * t2**2)
    expected = (left - right) / k + (0 if k == 2 else 0.5)
    found = bhaa(X, number(t1), number(t2), number(slope), interval)
    # The floor under the roots is 1e-12 of them.
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)


def slope_of(function):
    x = X.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


@pytest.mark.parametrize(("k", "interval"), [(2, SYMMETRIC), (4, UNIT)])
def test_the_derivative_of_bhaa_is_its_closed_form(k, interval):
    t1, t2, slope = 0.7, 0.4, 0.6
    a, b = 1 + k * slope * X, 1 - k * slope * X
    roots = torch.hypot(a, number(k * t1)), torch.hypot(b, number(k * t2))
    found = slope_of(lambda x: bhaa(x, number(t1), number(t2), number(slope), interval))
    torch.testing.assert_close(found, slope * (a / roots[0] + b / roots[1]), atol=1e-10, rtol=0)


def test_the_derivatives_of_mida_shrelu_and_dsilu_are_their_closed_forms():
    t, slope = 0.25, 0.7
    s = F.softplus(X, threshold=100).requires_grad_()
    inner = bhaa(s, number(t), number(t), number(slope), SYMMETRIC)
    (by_s,) = torch.autograd.grad(inner.sum(), s)
    a = 0.58 * X
    g = torch.sigmoid(a)
    expected = {
        "mida": (inner + X * torch.sigmoid(X) * by_s).detach(),
        "shrelu": 0.5 * (1 + X / torch.sqrt(X**2 + 0.2**2)),
        # The second derivative of SiLU, scaled.
        "dsilu": 0.58 * g * (1 - g) * (2 + a * (1 - 2 * g)) / 1.28,
    }
    found = {
        "mida": slope_of(lambda x: mida(x, number(t), number(slope))),
        "shrelu": slope_of(lambda x: shrelu(x, number(0.2))),
        "dsilu": slope_of(lambda x: dsilu(x, number(0.58), UNIT)),
    }
    # SHReLU is kept from 0 / 0 by 1e-7.
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_shrelu_has_slope_one_half_at_zero():
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    shrelu(x, number(0.2)).backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(0.5, abs=1e-5)  # the guard is 1e-7 of 0.2


@pytest.mark.parametrize(
    ("t1", "t2", "symmetric", "unit"),
    [(0.7, 0.5, 1.0198, 1.03852), (0.2, 0.9, -1.22066, -0.36023)],
)
def test_bhaa_overshoots_by_the_published_amount(t1, t2, symmetric, unit):
    for interval, value in ((SYMMETRIC, symmetric), (UNIT, unit)):
        bottom, top = bhaa_range(number(t1), number(t2), interval)
        assert (top if t1 > t2 else bottom).item() == pytest.approx(value, abs=6e-6)
        assert (bottom if t1 > t2 else top).item() == interval[0 if t1 > t2 else 1]


@pytest.mark.parametrize("interval", [SYMMETRIC, UNIT])
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1)])
@pytest.mark.parametrize(("t1", "t2"), [(0.7, 0.5), (0.2, 0.9), (0.4, 0.4), (0.0, 0.6)])
def test_bhana_and_bhata_fill_the_interval_and_never_leave_it(t1, t2, signs, interval):
    # Dense enough to meet the extremum to 1e-4, long enough to come within 1e-2 of the limits.
    x = torch.cat([torch.linspace(-40, 40, 80_001), torch.tensor([-1e6, 1e6])]).double()
    parameters = number(signs[0] * t1), number(signs[1] * t2), number(0.5), interval
    for function in (bhana, bhata):
        y = function(x, *parameters)
        assert interval[0] - 1e-9 <= y.min() <= interval[0] + 1e-4
        assert interval[1] - 1e-4 <= y.max() <= interval[1] + 1e-9


@pytest.mark.parametrize("interval", [SYMMETRIC, UNIT])
def test_bhana_is_continuous_where_the_two_heights_meet(interval):
    equal, above, below = (
        bhana(X, number(0.5 + step), number(0.5), number(0.5), interval)
        for step in (0.0, 1e-7, -1e-7)
    )
    assert equal.isfinite().all()
    torch.testing.assert_close(above, equal, atol=1e-6, rtol=0)
    torch.testing.assert_close(below, equal, atol=1e-6, rtol=0)


def test_dsilu_reaches_the_published_range():
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    for interval, low, high in ((UNIT, 0.00013, 0.93737), (SYMMETRIC, -0.99975, 0.87475)):
        y = dsilu(x, number(1.0), interval)
        assert (y.min().item(), y.max().item()) == pytest.approx((low, high), abs=6e-6)


# The experimental scalars of MMD-PMish-NAS.


@pytest.mark.parametrize("name", ["mish_a", "mish_b", "pmish_ab", "prmmish"])
def test_the_relatives_of_mish_start_as_mish(name):
    layer = make_activation(name).double()
    torch.testing.assert_close(layer(X), F.mish(X), atol=1e-14, rtol=1e-14)


def experimental(name, x, alpha, beta, gamma):
    """Value and derivative by x, written down from the formulas."""
    g, s = torch.sigmoid(beta * x), F.softplus(beta * x, threshold=1000)
    if name in ("new", "pnew"):
        gate = (1 - torch.exp(-s)) / (1 + torch.exp(-s))
        return alpha * x * gate, alpha * (gate + x * (1 - gate**2) / 2 * beta * g)
    gate = torch.tanh(gamma * s)
    return alpha * x * gate, alpha * (gate + x * (1 - gate**2) * gamma * beta * g)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mish_a", {"beta": 0.7}),
        ("mish_b", {"beta": 0.7}),
        ("pmish_ab", {"alpha": 1.3, "beta": 0.7}),
        ("prmmish", {"alpha": 1.3, "beta": 0.7, "gamma": 0.4}),
        ("new", {}),
        ("pnew", {"alpha": 1.3, "beta": 0.7}),
    ],
)
def test_the_experimental_activations_are_their_formulas(name, values):
    layer = make_activation(name).double()
    for parameter, value in values.items():
        nn.init.constant_(getattr(layer, parameter), value)
    given = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0} | values
    if name == "mish_b":
        given["alpha"] = 1 / given["beta"]
    value, slope = experimental(name, X, **given)
    torch.testing.assert_close(layer(X), value, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(slope_of(layer), slope, atol=1e-12, rtol=1e-12)


# What holds for all of them.


def every_learned(shape=(1,), init="default"):
    for name in ACTIVATIONS:
        yield name, make_activation(name, shape, init)
    for name in OUTPUT_ACTIVATIONS:
        for interval in (SYMMETRIC, UNIT):
            yield f"{name} {interval}", make_output_activation(name, interval, shape, init)


@pytest.mark.parametrize("value", [None, 0.0, -3.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_input_overflows_and_every_gradient_is_finite(value, dtype):
    half = dtype == torch.float16  # which runs nets, but trains none
    largest = 50 if half else 1e6  # the square of 2 * 50 * 50 is no half any more
    for name, layer in every_learned((7,)):
        layer.to(dtype)
        for parameter in layer.parameters():
            if value is not None:
                nn.init.constant_(parameter, value)
        scale = torch.tensor([-1.0, -1e-3, -1e-7, 0.0, 1e-7, 1e-3, 1.0])
        x = (scale * largest).to(dtype).repeat(3, 1).requires_grad_()
        y = layer(x)
        y.sum().backward()
        results = [y] if half else [y, x.grad, *(p.grad for p in layer.parameters())]
        assert all(r.isfinite().all() for r in results), (name, y)


def test_a_parameter_has_the_shape_of_its_site_or_broadcasts():
    for shape in ((5,), (3, 4, 4), (3, 1, 1), (1,)):
        x = torch.randn(2, *((5,) if shape == (5,) else (3, 4, 4)))
        for name, layer in every_learned(shape):
            assert layer(x).shape == x.shape, name
            assert all(p.shape == shape for p in layer.parameters()), name


def test_parameters_start_where_they_are_said_to(rng):
    layer: Any = make_output_activation("bhaa", UNIT, (40_000,))
    layer.reset_parameters(rng)
    assert (layer.t1.mean().item(), layer.t1.std().item()) == pytest.approx((0.7, 0.05), rel=0.02)
    init = {"name": "normal", "mean": 2.0, "std": 0.5, "slope": {"mean": -1.0, "std": 0.0}}
    layer = make_output_activation("bhsa", SYMMETRIC, (40_000,), init)
    layer.reset_parameters(rng)
    assert (layer.t.mean().item(), layer.t.std().item()) == pytest.approx((2.0, 0.5), rel=0.02)
    assert torch.equal(layer.slope, torch.full((40_000,), -1.0))
    layer = make_activation("mida", (40_000,), "xavier_normal")
    layer.reset_parameters(rng)
    assert layer.t.std().item() == pytest.approx((2 / 40_001) ** 0.5, rel=0.02)


def test_the_start_depends_on_the_generator_alone():
    layer: Any = make_activation("shrelu", (9,))
    drawn = []
    for _ in range(2):
        layer.reset_parameters(torch.Generator().manual_seed(3))
        drawn.append(layer.t.detach().clone())
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("uniformly", "'uniformly' is not known"),
        ({"name": "default", "mean": 1.0}, "'default' has no 'mean'"),
        ({"name": "normal", "tt": {}}, "'normal' has no 'tt'; it takes mean, name, std, t"),
        ({"name": "normal", "std": -1.0}, "'std': -1.0"),
        ({"name": "normal", "t": {"mean": "x"}}, "got .*'x'"),
        ({"name": "normal", "t": 3}, "got 3"),
    ],
)
def test_an_initialiser_that_cannot_be_is_refused(init, message):
    with pytest.raises(InvalidValueError, match=message):
        make_activation("shrelu", (2,), init)


def test_statistics_name_each_parameter_of_each_site():
    net = nn.Sequential(nn.Linear(2, 2), make_activation("mida", (3,)), nn.ReLU(), PMish())
    net[1].t.data = torch.tensor([1.0, 2.0, 6.0])
    statistics = activation_statistics(net)
    assert [statistics[f"1.t/{what}"] for what in ("mean", "max", "min")] == [3.0, 6.0, 1.0]
    assert statistics["3.beta/mean"] == 1.0
    assert len(statistics) == 9


def test_frozen_parameters_stay_and_everything_else_learns():
    net = nn.Sequential(nn.Linear(3, 3), make_activation("shrelu", (3,)))
    adam = torch.optim.Adam(net.parameters(), 0.1)

    def update():
        before = [p.detach().clone() for p in net.parameters()]
        adam.zero_grad()
        net.requires_grad_(True)  # as a training step does with a whole network
        net(torch.ones(4, 3)).sum().backward()
        adam.step()
        return [torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]

    assert not freeze_activations_(net, epoch=2, from_epoch=3)
    assert update() == [False, False, False]
    assert freeze_activations_(net, epoch=3, from_epoch=3)
    assert update() == [False, False, True]
    assert not freeze_activations_(net, epoch=9, from_epoch=None)
    assert update() == [False, False, False]


def test_no_device_is_hard_coded():
    pattern = re.compile(r"\.cuda\(|cuda\.(Float|Long|Half)Tensor|\.to\(\s*['\"]cuda")
    sources = sorted(Path(nas_gan.__file__).parent.rglob("*.py"))
    assert sources
    assert [path.name for path in sources if pattern.search(path.read_text())] == []
