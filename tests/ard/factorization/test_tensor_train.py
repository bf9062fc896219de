from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from tensorly.decomposition import tensor_train as tensorly_s
from tensorly.tt_tensor import TTTensor, tt_to_tensor

from ard.errors import RankError
from ard.factorization.backend import torch_backend
from ard.factorization.tensor_train import TENSOR_TRAIN, tensor_train
from ard.factorization.whitening import covariance_root


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(n, seed=1):
    basis = torch.linalg.qr(random(n, n, seed=seed))[0]
    return basis * torch.logspace(0, -4, n, dtype=torch.float64) @ basis.T


def as_ranks(ranks: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = ranks
    return first, second, third


def rebuild(factors):
    return torch.einsum("aip,phq,qws,soz->oihw", *factors)


def weighted_error(weight, factors, inputs, outputs):
    rest = weight - rebuild(factors)
    return float(
        torch.einsum(
            "po,oihw,ij->pjhw", covariance_root(outputs), rest, covariance_root(inputs)
        ).norm()
    )


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (6, 8, 5, 3), (40, 2, 3, 2), (2, 40, 2, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_full_rank_is_exact(shape, weighted):
    weight, known = random(*shape), (None, None)
    if weighted:
        known = covariance(shape[1]), covariance(shape[0], seed=2)
    found = tensor_train(weight, as_ranks(TENSOR_TRAIN.max_rank(shape)), *known)
    assert torch.allclose(rebuild(found), weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [(3, 5, 2), (1, 1, 1), (6, 1, 8), (1, 18, 8), (6, 18, 1)])
def test_the_factors_have_the_ranks_that_were_asked_for(rank):
    first, second, third = rank
    found = tensor_train(random(8, 6, 3, 5), rank, covariance(6), covariance(8))
    assert isinstance(found, TTTensor)
    assert (found.shape, found.rank) == ((6, 3, 5, 8), (1, *rank, 1))
    assert [tuple(factor.shape) for factor in found] == [
        (1, 6, first), (first, 3, second), (second, 5, third), (third, 8, 1)
    ]  # fmt: skip
    with torch_backend():
        kernel = tt_to_tensor(found).permute(3, 0, 1, 2)  # from (c_in, k_h, k_w, c_out)
    assert torch.allclose(kernel, rebuild(found), rtol=0, atol=1e-12)


def test_a_train_of_low_rank_is_found_again():
    shapes = ((1, 9, 3), (3, 3, 4), (4, 5, 2), (2, 8, 1))
    weight = rebuild([random(*shape, seed=i) for i, shape in enumerate(shapes)])
    assert torch.allclose(rebuild(tensor_train(weight, (3, 4, 2))), weight, rtol=0, atol=1e-11)


@pytest.mark.parametrize("rank", [(2, 4, 3), (5, 3, 6)])
def test_the_error_is_that_of_an_exact_svd_at_every_step(rank):
    weight = random(8, 6, 3, 5)
    exact = tensorly_s(weight.permute(1, 2, 3, 0).numpy(), [1, *rank, 1])
    expected = rebuild([torch.from_numpy(factor) for factor in exact])
    assert float((weight - rebuild(tensor_train(weight, rank))).norm()) == pytest.approx(
        float((weight - expected).norm()), rel=1e-10
    )


def test_the_error_never_grows_with_any_rank():
    weight, inputs, outputs = random(8, 6, 3, 3), covariance(6), covariance(8, seed=2)
    largest = TENSOR_TRAIN.max_rank((8, 6, 3, 3))
    for varied, most in enumerate(largest):
        for others in (0.3, 0.6, 1.0):
            ranks = [max(1, int(others * r)) for r in largest]
            errors = []
            for r in range(1, most + 1):
                ranks[varied] = r
                found = tensor_train(weight, as_ranks(ranks), inputs, outputs)
                errors.append(weighted_error(weight, found, inputs, outputs))
            assert all(b <= a + 1e-12 for a, b in pairwise(errors))


@pytest.mark.parametrize("rank", [(2, 3, 2), (4, 5, 4), (5, 9, 6)])
def test_whitening_lowers_the_weighted_error(rank):
    weight, inputs, outputs = random(8, 6, 3, 3), covariance(6), covariance(8, seed=2)
    both, one, plain = (
        weighted_error(weight, tensor_train(weight, rank, *known), inputs, outputs)
        for known in ((inputs, outputs), (inputs, None), (None, None))
    )
    assert both < one < plain


@pytest.mark.parametrize("rank", [(7, 1, 1), (1, 19, 1), (1, 1, 9), (0, 1, 1)])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(RankError, match=r"does not fit .* go up to \(6, 18, 8\)"):
        tensor_train(random(8, 6, 3, 3), rank)
