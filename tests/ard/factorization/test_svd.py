import pytest
import torch

from ard.errors import RankError
from ard.factorization.spatial_svd import spatial_svd
from ard.factorization.svd import leading_left_vectors, svd
from ard.factorization.whitening import RIDGE, covariance_factor, covariance_root


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


@pytest.mark.parametrize("shape", [(9, 30), (30, 9)])
@pytest.mark.parametrize("rank", [1, 4, 5, 9])
def test_the_basis_spans_the_leading_directions(shape, rank):
    matrix = random(*shape)
    basis, expected = leading_left_vectors(matrix, rank), torch.linalg.svd(matrix)[0][:, :rank]
    assert torch.allclose(basis @ basis.T, expected @ expected.T, atol=1e-10)


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


def both_sides(matrix, product, inputs, outputs):
    return float((covariance_root(outputs) @ (matrix - product) @ covariance_root(inputs)).norm())


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (9, 9)])
def test_with_both_covariances_the_error_is_the_eckart_young_value_between_them(shape):
    matrix, inputs, outputs = random(*shape), covariance(shape[1]), covariance(shape[0], seed=2)
    values = torch.linalg.svdvals(covariance_root(outputs) @ matrix @ covariance_root(inputs))
    for rank in range(1, min(shape)):
        left, right = svd(matrix, rank, inputs, outputs)
        found = both_sides(matrix, left @ right, inputs, outputs)
        assert found == pytest.approx(float(values[rank:].norm()), rel=1e-7)
        for one_sided in (svd(matrix, rank, inputs), svd(matrix, rank, None, outputs)):
            assert found < both_sides(matrix, one_sided[0] @ one_sided[1], inputs, outputs)


def test_both_covariances_leave_full_rank_exact_and_factors_even():
    matrix = random(12, 7)
    left, right = svd(matrix, 7, covariance(7), covariance(12))
    assert torch.allclose(left @ right, matrix, rtol=0, atol=1e-12)
    left, right = svd(matrix, 4, covariance(7), covariance(12))
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1))


@pytest.mark.parametrize("rank", [2, 7, 13])
def test_spatial_svd_weighs_the_outputs_of_every_column(rank):
    weight, inputs, outputs = random(6, 5, 3, 3), covariance(15), covariance(6, seed=2)
    wide = torch.kron(outputs, torch.eye(3, dtype=torch.float64))

    def as_matrix(kernel):
        return kernel.permute(0, 3, 1, 2).reshape(18, 15)

    values = torch.linalg.svdvals(
        covariance_root(wide) @ as_matrix(weight) @ covariance_root(inputs)
    )
    product = as_matrix(rebuild(*spatial_svd(weight, rank, inputs, outputs)))
    found = both_sides(as_matrix(weight), product, inputs, wide)
    assert found == pytest.approx(float(values[rank:].norm()), rel=1e-7)


@pytest.mark.parametrize("n", [1, 6])
def test_a_factor_of_a_covariance_multiplies_back_to_it(n):
    moment = covariance(n)
    factor, root = covariance_factor(moment), covariance_root(moment)
    assert torch.allclose(factor @ factor.T, root @ root, rtol=0, atol=1e-12)


def test_a_matrix_that_is_no_covariance_gets_its_root():
    broken = torch.diag(torch.tensor([1.0, -0.5]))
    assert torch.equal(covariance_factor(broken), covariance_root(broken))
