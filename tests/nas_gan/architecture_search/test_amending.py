import math

import pytest
import torch

from nas_gan.architecture_search.amending import amended_gradient, check_coefficient
from nas_gan.errors import InvalidValueError

rng = torch.Generator().manual_seed(0)
N, M = 4, 3
B = torch.randn(N, M, generator=rng, dtype=torch.float64)
C = torch.randn(M, generator=rng, dtype=torch.float64)
TARGET = torch.randn(N, generator=rng, dtype=torch.float64)


def bilevel(hessian, coefficient):
    """T = w'Hw/2 - w'Ba and S = |w - t|^2/2 + c'a at the w that minimises T; the amended slope."""
    a = torch.randn(M, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w = torch.linalg.solve(hessian, B @ a)
    a.requires_grad_()
    w.requires_grad_()
    train = w @ hessian @ w / 2 - w @ B @ a
    search = (w - TARGET).square().sum() / 2 + C @ a
    [gradient] = amended_gradient(search, train, [a], [w], coefficient)
    return gradient, w.detach()


def random_hessian():
    root = torch.randn(N, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return root @ root.T + torch.eye(N, dtype=torch.float64)


def test_the_amended_slope_of_a_quadratic_problem_is_the_one_worked_out_by_hand():
    hessian = random_hessian()
    gradient, w = bilevel(hessian, 0.3)
    # S_a = c, S_w = w - t, T_ww = H, T_aw = -B'
    torch.testing.assert_close(gradient, C + 0.3 * B.T @ hessian @ (w - TARGET))


@pytest.mark.parametrize("curvature", [0.5, 2.0])
def test_with_one_curvature_the_right_coefficient_gives_the_exact_hypergradient(curvature):
    hessian = curvature * torch.eye(N, dtype=torch.float64)
    gradient, _ = bilevel(hessian, curvature**-2)
    # w*(a) = Ba / h, so that S(a) is known in closed form.
    a = torch.randn(M, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a.requires_grad_()
    (B @ a / curvature - TARGET).square().sum().div(2).add(C @ a).backward()
    torch.testing.assert_close(gradient, a.grad)


def test_the_correction_and_the_exact_one_agree_about_the_direction():
    hessian = random_hessian()
    gradient, w = bilevel(hessian, 1.0)
    v = w - TARGET
    exact = torch.linalg.solve(hessian, v)
    # Before T_aw, which both share, their inner product is v'H H^-1 v = |v|^2.
    assert (hessian @ v) @ exact == pytest.approx(v.square().sum().item())
    torch.testing.assert_close(gradient - C, B.T @ hessian @ v)


def test_the_products_are_those_of_explicit_second_derivatives():
    a = torch.tensor([0.3, -0.2], dtype=torch.float64)
    w = torch.tensor([0.5, -1.0, 0.8], dtype=torch.float64)

    def train(a, w):
        return (torch.tanh(w[:2] * a).sum() + w[2] * a[0].exp()) ** 2 + w.sin().sum()

    def search(a, w):
        return (w**3).sum() * a[1] + a[0] ** 2

    h_ww = torch.autograd.functional.hessian(lambda w: train(a, w), w)
    blocks = torch.autograd.functional.hessian(train, (a, w))
    slope_a, slope_w = torch.autograd.functional.jacobian(search, (a, w))
    expected = slope_a - 0.7 * blocks[0][1] @ h_ww @ slope_w
    a.requires_grad_()
    w.requires_grad_()
    [gradient] = amended_gradient(search(a, w), train(a, w), [a], [w], 0.7)
    torch.testing.assert_close(gradient, expected)


def test_a_weight_that_neither_loss_reads_changes_nothing():
    a, w, unread = (torch.tensor([x], requires_grad=True) for x in (2.0, 3.0, 5.0))
    with_it = amended_gradient((w * a).sum(), (w * w * a).sum(), [a], [w, unread], 0.1)
    without = amended_gradient((w * a).sum(), (w * w * a).sum(), [a], [w], 0.1)
    assert with_it == without
    # S_a = w, S_w = a, T_ww = 2a, T_aw = 2w: 3 - 0.1 * 2w * 2a * a
    assert with_it[0].item() == pytest.approx(3 - 0.1 * 6 * 4 * 2)


@pytest.mark.parametrize("value", [-1e-9, math.inf, math.nan])
def test_a_coefficient_below_zero_is_refused(value):
    with pytest.raises(InvalidValueError, match="amending coefficient"):
        check_coefficient(value)
