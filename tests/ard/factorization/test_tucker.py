from itertools import pairwise

import pytest
import torch
from tensorly.decomposition import partial_tucker
from tensorly.tucker_tensor import TuckerTensor, tucker_to_tensor

from ard.errors import RankError
from ard.factorization.backend import torch_backend
from ard.factorization.tucker import tucker2
from ard.factorization.whitening import covariance_root


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(n):
    basis = torch.linalg.qr(random(n, n, seed=1))[0]
    return basis * torch.logspace(0, -4, n, dtype=torch.float64) @ basis.T


def rebuild(core, factors):
    out_factor, in_factor, *_ = factors
    return torch.einsum("rshw,or,is->oihw", core, out_factor, in_factor)


def whitened_error(weight, factors, moment):
    rest = weight - rebuild(*factors)
    return float(torch.einsum("oihw,ij->ojhw", rest, covariance_root(moment)).norm())


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (6, 8, 5, 3), (40, 2, 3, 3), (2, 40, 3, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_full_rank_is_exact(shape, weighted):
    weight = random(*shape)
    factors = tucker2(weight, shape[:2], covariance(shape[1]) if weighted else None)
    assert torch.allclose(rebuild(*factors), weight, rtol=0, atol=1e-11)


@pytest.mark.parametrize("rank", [(3, 2), (1, 1), (8, 2), (2, 6), (8, 1), (1, 6)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_the_factors_have_the_rank_that_was_asked_for(rank, kernel):
    core, (out_factor, in_factor, *_) = tucker2(random(8, 6, *kernel), rank, covariance(6))
    assert (core.shape, out_factor.shape, in_factor.shape) == (
        (*rank, *kernel),
        (8, rank[0]),
        (6, rank[1]),
    )


def test_a_kernel_of_low_multilinear_rank_is_recovered():
    weight = rebuild(random(3, 2, 3, 3), [random(10, 3, seed=1), random(8, 2, seed=2)])
    assert torch.allclose(rebuild(*tucker2(weight, (3, 2))), weight, rtol=0, atol=1e-12)


def test_iterating_improves_on_the_truncated_hosvd():
    weight = random(12, 12, 3, 3)
    start, end = (
        float((weight - rebuild(*tucker2(weight, (4, 4), n_iter_max=n))).norm()) for n in (0, 10)
    )
    assert end < 0.995 * start


@pytest.mark.parametrize("rank", [(2, 2), (6, 3), (3, 6), (10, 8)])
def test_whitening_lowers_the_error_of_the_outputs(rank):
    weight, moment = random(12, 12, 3, 3), covariance(12)
    plain, whitened = tucker2(weight, rank), tucker2(weight, rank, moment)
    assert whitened_error(weight, whitened, moment) < whitened_error(weight, plain, moment)


def test_the_factors_are_orthonormal():
    _, (out_factor, in_factor, *_) = tucker2(random(8, 6, 3, 3), (4, 3), covariance(6))
    assert torch.allclose(out_factor.T @ out_factor, torch.eye(4).double(), atol=1e-12)
    assert torch.allclose(in_factor.T @ in_factor, torch.eye(3).double(), atol=1e-12)


def test_a_wide_kernel_needs_no_full_right_factor():
    # The unfolding is 4 x 180,000: its full right factor alone would take 259 GB.
    _, factors = tucker2(random(4, 20000, 3, 3), (2, 3))
    assert factors[1].shape == (20000, 3)


@pytest.mark.parametrize("rank", [(9, 1), (1, 7), (0, 1)])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(RankError, match=r"does not fit a weight of shape \(8, 6, 3, 3\)"):
        tucker2(random(8, 6, 3, 3), rank)


@pytest.mark.parametrize("rank", [(3, 2), (6, 4), (4, 6)])
def test_the_iteration_ends_where_that_of_tensorly_ends(rank):
    weight = random(8, 7, 3, 3)
    (core, factors), _ = partial_tucker(weight.numpy(), rank, modes=[0, 1], n_iter_max=200)
    expected = rebuild(torch.from_numpy(core), list(map(torch.from_numpy, factors)))
    found = rebuild(*tucker2(weight, rank, n_iter_max=200))
    # Both stop when a sweep gains less than some 1e-5 of the norm.
    assert float((weight - found).norm()) == pytest.approx(
        float((weight - expected).norm()), rel=1e-3
    )


def between(weight, factors, inputs, outputs):
    rest = weight - rebuild(*factors)
    return float(
        torch.einsum(
            "po,oihw,ij->pjhw", covariance_root(outputs), rest, covariance_root(inputs)
        ).norm()
    )


@pytest.mark.parametrize("rank", [(2, 2), (6, 3), (3, 6), (10, 8)])
def test_with_both_covariances_the_error_is_no_more_than_with_one(rank):
    weight, inputs, outputs = random(12, 12, 3, 3), covariance(12), covariance(12).flip(0, 1)
    found = between(
        weight, tucker2(weight, rank, inputs, output_covariance=outputs), inputs, outputs
    )
    for factors in (tucker2(weight, rank, inputs), tucker2(weight, rank, None, 10, outputs)):
        assert found <= between(weight, factors, inputs, outputs)


def test_both_covariances_leave_full_rank_exact_and_factors_orthonormal():
    weight, inputs, outputs = random(8, 6, 3, 3), covariance(6), covariance(8)
    factors = tucker2(weight, (8, 6), inputs, output_covariance=outputs)
    assert torch.allclose(rebuild(*factors), weight, rtol=0, atol=1e-11)
    _, (out_factor, *_) = tucker2(weight, (4, 3), inputs, output_covariance=outputs)
    assert torch.allclose(out_factor.T @ out_factor, torch.eye(4).double(), atol=1e-12)


def test_the_error_never_grows_with_either_rank():
    weight, moment = random(8, 6, 3, 3), covariance(6)
    errors = [
        [whitened_error(weight, tucker2(weight, (r, s), moment), moment) for s in range(1, 7)]
        for r in range(1, 9)
    ]
    slack = 1e-4 * float(weight.norm())  # an iteration stops at a gain of 1e-5 a sweep
    assert all(b <= a + slack for row in errors for a, b in pairwise(row))
    assert all(b <= a + slack for row in zip(*errors, strict=True) for a, b in pairwise(row))


def test_the_value_is_tensorly_s_and_stands_for_the_whole_kernel():
    weight = random(8, 6, 3, 5)
    found = tucker2(weight, (4, 3), covariance(6))
    assert isinstance(found, TuckerTensor)
    assert (found.shape, found.rank) == ((8, 6, 3, 5), (4, 3, 3, 5))
    with torch_backend():
        assert torch.allclose(tucker_to_tensor(found), rebuild(*found), rtol=0, atol=1e-12)
