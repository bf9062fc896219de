import pytest
import torch
from tensorly.cp_tensor import CPTensor, cp_to_tensor
from tensorly.decomposition import parafac

from ard.errors import RankError
from ard.factorization import cp as module
from ard.factorization.backend import torch_backend
from ard.factorization.cp import cp, degeneracy, spread_norms


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rebuild(terms):
    weights, factors = terms
    return torch.einsum("r,or,ir,hr,wr->oihw", weights, *factors)


def of(factors):
    """The terms of the factors as they are."""
    return torch.ones(factors[0].shape[1], dtype=torch.float64), factors


def error(weight, terms):
    return float((weight - rebuild(terms)).norm() / weight.norm())


def test_spreading_the_norms_of_two_factors_keeps_a_matrix():
    # The published code took the fourth root here as well, which loses most of the matrix.
    a, b = random(64, 32), random(32, 32, seed=1)
    _, (left, right) = spread_norms((None, [a, b]))
    assert torch.allclose(left @ right.T, a @ b.T, atol=1e-12)
    assert torch.allclose(left.norm(dim=0), right.norm(dim=0))


def test_spreading_the_norms_of_four_factors_keeps_a_kernel():
    factors = [random(n, 5, seed=n) * 10.0 ** (n - 4) for n in (7, 6, 3, 4)]
    even = spread_norms((None, factors))
    assert torch.allclose(rebuild(even), rebuild(of(factors)), rtol=1e-12)
    lengths = torch.stack([factor.norm(dim=0) for factor in even.factors])
    assert torch.allclose(lengths, lengths[0].expand(4, 5))


def test_a_term_of_zero_stays_zero():
    _, factors = spread_norms((None, [torch.zeros(3, 1), torch.ones(2, 1)]))
    assert all(float(factor.abs().max()) == 0 for factor in factors)


@pytest.mark.parametrize("shape", [(8, 3, 3, 2), (3, 8, 2, 3), (2, 2, 5, 3), (4, 4, 3, 3)])
def test_every_kernel_is_exact_at_the_largest_rank(shape):
    weight = random(*shape)
    rank = weight.numel() // max(shape)
    found = cp(weight, rank)
    assert [f.shape for f in found.factors] == [(n, rank) for n in shape]
    assert torch.allclose(rebuild(found), weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_kernel_made_of_few_terms_is_found_again(rank):
    weight = rebuild(of([random(n, rank, seed=n) for n in (9, 8, 3, 5)]))
    assert error(weight, cp(weight, rank, n_iter_max=500)) < 1e-3  # ALS creeps at the end


def test_more_terms_than_needed_do_not_break_it():
    weight = rebuild(of([random(n, 1, seed=n) for n in (9, 8, 3, 5)]))
    found = cp(weight, 6)
    assert error(weight, found) < 1e-5
    assert [f.shape[1] for f in found.factors] == [6] * 4


def test_more_terms_leave_less_error():
    weight = random(8, 8, 3, 3)
    errors = [error(weight, cp(weight, rank)) for rank in (2, 6, 18, 54)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_the_same_kernel_gives_the_same_factors():
    weight = random(8, 8, 3, 3)
    assert all(
        torch.equal(a, b) for a, b in zip(cp(weight, 5).factors, cp(weight, 5).factors, strict=True)
    )


def test_whitening_lowers_the_error_of_the_outputs():
    weight, inputs = random(8, 8, 3, 3), random(8, 100, seed=1)
    inputs = inputs * torch.logspace(0, -3, 8, dtype=torch.float64)[:, None]

    def outputs(kernel):
        return torch.einsum("oihw,in->ohwn", kernel, inputs)

    plain, whitened = cp(weight, 6), cp(weight, 6, inputs @ inputs.T / 100)
    errors = [float(outputs(weight - rebuild(f)).norm()) for f in (whitened, plain)]
    assert errors[0] < 0.8 * errors[1]


def test_a_zero_kernel_gives_zero_factors():
    assert float(rebuild(cp(torch.zeros(4, 4, 3, 3), 3)).abs().max()) == 0


@pytest.mark.parametrize("rank", [0, 73])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(RankError, match="does not fit"):
        cp(random(8, 8, 3, 3), rank)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_fit_that_breaks_down_is_an_error_and_not_another_rank(value):
    weight = random(8, 8, 3, 3)
    weight[0, 0, 0, 0] = value
    with pytest.raises(RankError, match=r"cp\(5\) of a \(8, 8, 3, 3\) kernel"):
        cp(weight, 5)


@pytest.mark.parametrize("shape", [(8, 6, 3, 5), (6, 8, 5, 3)])
def test_the_sweeps_are_those_of_tensorly(shape):
    weight = random(*shape)
    weight = weight / weight.norm()
    start = [random(n, 4, seed=n + i) for i, n in enumerate(shape)]
    _, expected = parafac(
        weight.numpy(),
        *(4, 7),
        init=(None, [factor.numpy() for factor in start]),
        tol=None,
        l2_reg=module.RIDGE,
    )
    with torch_backend():
        found = module.alternating_least_squares(weight, start, 7, extrapolated=False)
    # Equal up to rounding, which seven ill-conditioned solves have made larger.
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, torch.from_numpy(b), rtol=1e-6)


@pytest.mark.parametrize("rank", [2, 8, 18])  # up to half of the weights
def test_a_fit_is_as_close_as_fifty_plain_sweeps(rank):
    weight = random(12, 10, 3, 3)
    weight = weight / weight.norm()
    with torch_backend():
        start = module.spatial_svd_terms(weight, rank)
        plain, quick = (
            module.alternating_least_squares(weight, start, n, extrapolated=extrapolated)
            for n, extrapolated in ((module.N_ITER_MAX, True), (50, False))
        )
    errors = [float((weight - rebuild(of(found))).norm()) for found in (quick, plain)]
    assert module.N_ITER_MAX < 50
    assert errors[0] <= 1.005 * errors[1]  # where two different paths end differs by about that


def test_the_degeneracy_of_orthogonal_terms_is_one():
    factors = [torch.eye(5)[:, :3] * (i + 1) for i in range(4)]
    assert degeneracy((None, factors)) == pytest.approx(1, rel=1e-12)


def test_the_degeneracy_of_terms_that_cancel_is_large():
    # (1 + h) x - x = h x: powers (1 + h)^2 + 1 against h^2.
    h = 0.01
    a = torch.tensor([[1 + h, -1.0]], dtype=torch.float64)
    ones = torch.ones(1, 2, dtype=torch.float64)
    assert degeneracy((None, [a, ones, ones])) == pytest.approx(((1 + h) ** 2 + 1) / h**2)
    assert degeneracy((None, [a, ones, ones]), norm=2.0) == pytest.approx(((1 + h) ** 2 + 1) / 4)


def border_tensor(n=4):
    """`a1 b1 c2 + a1 b2 c1 + a2 b1 c1`: of rank 3, and as close to rank 2 as one likes."""
    (a1, a2), (b1, b2), (c1, c2) = (torch.linalg.qr(random(n, 2, seed=s))[0].T for s in range(3))
    terms = ((a1, b1, c2), (a1, b2, c1), (a2, b1, c1))
    return torch.stack([torch.einsum("i,j,k->ijk", *term) for term in terms]).sum(0).unsqueeze(3)


def test_the_terms_of_a_tensor_without_a_best_fit_stay_bounded():
    weight = border_tensor()
    norm = float(weight.norm())
    free = cp(weight, 2, n_iter_max=400, max_degeneracy=1e9)
    bounded = cp(weight, 2, n_iter_max=400, max_degeneracy=4)
    assert degeneracy(free, norm) > 6  # and further with every sweep
    assert degeneracy(bounded, norm) <= 4
    assert error(weight, bounded) < 0.05
    assert [factor.shape[1] for factor in bounded.factors] == [2] * 4


def test_the_same_tensor_is_found_at_its_rank():
    weight = border_tensor()
    factors = cp(weight, 3, n_iter_max=500)
    assert error(weight, factors) < 1e-3
    assert degeneracy(factors, float(weight.norm())) <= module.MAX_DEGENERACY


@pytest.mark.parametrize("bound", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("rank", [4, 20, 50])
def test_any_bound_is_met(rank, bound):
    weight = random(8, 8, 3, 3)
    factors = cp(weight, rank, max_degeneracy=bound)
    assert degeneracy(factors, float(weight.norm())) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("bound", [0.5, torch.nan])
def test_a_bound_below_that_of_orthogonal_terms_is_refused(bound):
    with pytest.raises(RankError, match="max_degeneracy must be at least 1"):
        cp(random(8, 8, 3, 3), 2, max_degeneracy=bound)


def test_weighing_the_outputs_lowers_the_weighed_error():
    weight, values = random(8, 8, 3, 3), torch.logspace(0, -4, 8, dtype=torch.float64)
    plain, weighed = cp(weight, 6), cp(weight, 6, output_covariance=torch.diag(values))
    errors = [
        float(((weight - rebuild(f)) * values.sqrt().view(-1, 1, 1, 1)).norm())
        for f in (weighed, plain)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_the_value_is_tensorly_s_and_stands_for_the_kernel():
    weight = random(8, 6, 3, 5)
    found = cp(weight, 7)
    assert isinstance(found, CPTensor)
    assert (found.shape, found.rank) == ((8, 6, 3, 5), 7)
    with torch_backend():
        assert torch.allclose(cp_to_tensor(found), rebuild(found), rtol=0, atol=1e-12)
