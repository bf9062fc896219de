import pytest
import torch

from ard.errors import RankError
from ard.factorization.svd import RIDGE, covariance_root, leading_left_vectors, spatial_svd, svd


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(n, seed=1):
    """Eigenvalues over three orders of magnitude, so that directions really differ."""
    basis = torch.linalg.qr(random(n, n, seed=seed))[0]
    return basis * torch.logspace(0, -3, n, dtype=torch.float64) @ basis.T


def weighted_error(matrix, product, moment):
    return float(((matrix - product) @ covariance_root(moment)).norm())


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
@pytest.mark.parametrize("weighted", [False, True])
def test_full_rank_is_exact(shape, weighted):
    matrix = random(*shape)
    left, right = svd(matrix, min(shape), covariance(shape[1]) if weighted else None)
    assert torch.allclose(left @ right, matrix, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_the_error_is_what_eckart_and_young_promise(shape):
    matrix = random(*shape)
    values = torch.linalg.svdvals(matrix)
    for rank in range(1, 7):
        left, right = svd(matrix, rank)
        assert float((matrix - left @ right).norm()) == pytest.approx(float(values[rank:].norm()))


@pytest.mark.parametrize("shape", [(24, 10), (10, 24)])
def test_the_weighted_error_is_the_weighted_eckart_young_value(shape):
    matrix, moment = random(*shape), covariance(shape[1])
    values = torch.linalg.svdvals(matrix @ covariance_root(moment))
    for rank in range(1, 10):
        left, right = svd(matrix, rank, moment)
        error = weighted_error(matrix, left @ right, moment)
        assert error == pytest.approx(float(values[rank:].norm()), rel=1e-8)
        plain_left, plain_right = svd(matrix, rank)
        assert error < weighted_error(matrix, plain_left @ plain_right, moment)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_an_input_that_never_varies_costs_no_rank(rank):
    # Inputs live in the first `rank` coordinates: that many components reproduce every output.
    matrix, inputs = random(16, 8), torch.zeros(8, 50, dtype=torch.float64)
    inputs[:rank] = random(rank, 50, seed=2)
    left, right = svd(matrix, rank, inputs @ inputs.T / 50)
    assert torch.allclose(left @ right @ inputs, matrix @ inputs, rtol=0, atol=1e-4)


def test_singular_values_are_shared_evenly():
    matrix = random(12, 7)
    left, right = svd(matrix, 5)
    values = torch.linalg.svdvals(matrix)[:5].sqrt()
    assert torch.allclose(left.norm(dim=0), values)
    assert torch.allclose(right.norm(dim=1), values)


def test_a_zero_matrix_gives_zero_factors():
    left, right = svd(torch.zeros(5, 4), 3, torch.zeros(4, 4))
    assert float(left.abs().max()) == float(right.abs().max()) == 0


def test_the_basis_is_orthonormal_even_for_a_matrix_of_low_rank():
    basis = leading_left_vectors(random(30, 2) @ random(2, 10), 8)
    assert torch.allclose(basis.T @ basis, torch.eye(8, dtype=torch.float64), atol=1e-12)


def test_the_root_of_a_diagonal_covariance():
    root = covariance_root(torch.diag(torch.tensor([4.0, 9.0])))
    expected = torch.diag(torch.tensor([4.0, 9.0]).double() + 6.5 * RIDGE).sqrt()
    assert torch.allclose(root, expected, atol=1e-12)


def rebuild(horizontal, vertical):
    return torch.einsum("orw,rih->oihw", horizontal[:, :, 0], vertical[..., 0])


@pytest.mark.parametrize("shape", [(6, 4, 3, 5), (4, 6, 5, 3), (5, 5, 1, 3), (5, 5, 3, 1)])
def test_spatial_svd_is_exact_at_full_rank(shape):
    c_out, c_in, k_h, k_w = shape
    weight, rank = random(*shape), min(c_out * k_w, c_in * k_h)
    horizontal, vertical = spatial_svd(weight, rank, covariance(c_in * k_h))
    assert horizontal.shape == (c_out, rank, 1, k_w)
    assert vertical.shape == (rank, c_in, k_h, 1)
    assert torch.allclose(rebuild(horizontal, vertical), weight, rtol=0, atol=1e-12)


def test_spatial_svd_error_never_grows_with_rank():
    weight, moment = random(6, 5, 3, 3), covariance(15)
    errors = []
    for rank in range(1, 16):
        rest = weight - rebuild(*spatial_svd(weight, rank, moment))
        matrix = rest.permute(0, 3, 1, 2).reshape(18, 15)
        errors.append(weighted_error(matrix, torch.zeros(18, 15), moment))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12 < errors[0]


@pytest.mark.parametrize("rank", [0, 8, -1])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(RankError, match="does not fit"):
        svd(random(12, 7), rank)
