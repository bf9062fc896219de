from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ard.baselines import published
from ard.baselines.published import (
    published_cp,
    published_factors,
    published_generator,
    published_matrix_factors,
)
from ard.errors import NonFiniteError, PlanError, RankError
from ard.plan import Factorization, RankPlan


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8 * 4 * 10),
        nn.Unflatten(1, (8, 4, 10)),
        nn.Conv2d(8, 12, (3, 5), stride=(1, 2), padding=(1, 0), dilation=(1, 2), bias=False),
    )


def plan(**choices):
    return RankPlan({name[1:]: Factorization.parse(text) for name, text in choices.items()})


def rebuild(factors):
    return torch.einsum("or,ir,hr,wr->oihw", *factors)


def test_a_kernel_of_few_terms_is_found():
    weight = rebuild([random(n, 2, seed=n) for n in (8, 7, 3, 5)])
    found = rebuild(published_cp(weight, 2, seed=1))
    assert float((found - weight).norm() / weight.norm()) < 1e-2  # single precision, 100 sweeps


def test_the_start_is_random_and_the_seed_decides():
    weight = random(8, 8, 3, 3)
    first, again, other = (published_cp(weight, 6, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_breakdown_halves_the_rank_until_it_works(monkeypatch):
    # Whether ALS breaks down hangs on the seed and the library; here it does above rank 3.
    attempt, tried = published._parafac, []

    def breaks_above_three(array, rank, seed):
        tried.append(rank)
        return None if rank > 3 else attempt(array, rank, seed)

    monkeypatch.setattr(published, "_parafac", breaks_above_three)
    found = published_factors(net(), plan(_2="cp(14)"), seed=0, linear_fault=True)
    assert tried == [14, 7, 3]
    assert found.plan == plan(_2="cp(3)")
    layers: Any = found.modules["2"]
    assert [layer.out_channels for layer in layers] == [3, 3, 3, 12]


def test_a_kernel_that_no_rank_can_fit_ends_with_an_error():
    weight = torch.full((8, 8, 3, 3), torch.nan)
    with pytest.raises(RankError, match="broke down at rank 14 and at every half of it"):
        published_cp(weight, 14, seed=0)


def test_mended_factors_of_a_matrix_are_its_truncated_svd():
    matrix = random(20, 8)
    left, right = published_matrix_factors(matrix, 5, fault=False)
    values = torch.linalg.svdvals(matrix.double())
    assert float((matrix - left @ right).norm()) == pytest.approx(float(values[5:].norm()))
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1))


def test_the_fault_takes_the_root_of_every_singular_value():
    matrix = random(20, 8).double()
    left, right = published_matrix_factors(matrix, 8, fault=True)
    expected = torch.linalg.svdvals(matrix).sqrt()
    assert torch.allclose(torch.linalg.svdvals(left @ right), expected)


def test_a_matrix_of_low_rank_has_finite_factors():
    matrix = random(20, 1) @ random(1, 8, seed=1)
    for fault in (True, False):
        left, right = published_matrix_factors(matrix, 6, fault=fault)
        assert np.isfinite((left @ right).numpy()).all()


def test_a_mended_generator_of_full_rank_is_the_generator():
    generator, z = net(), random(3, 6)
    full = published_generator(generator, plan(_0="svd(6)"), seed=0, linear_fault=False)
    faulty = published_generator(generator, plan(_0="svd(6)"), seed=0, linear_fault=True)
    with torch.no_grad():
        assert torch.allclose(full(z), generator(z), atol=1e-5)
        assert not torch.allclose(faulty(z), generator(z), atol=1e-2)


def test_the_convolutions_keep_geometry_bias_and_type():
    generator, z = net(), random(3, 6)
    new: Any = published_generator(generator, plan(_2="cp(9)"), seed=0, linear_fault=True)
    assert [type(layer) for layer in new[2]] == [nn.Conv2d] * 4
    assert new[2][1].groups == new[2][2].groups == 9
    assert new[2][3].bias is None
    assert new(z).shape == generator(z).shape
    assert {p.dtype for p in new.parameters()} == {torch.float32}
    assert isinstance(generator[2], nn.Conv2d)


def test_every_layer_has_a_start_of_its_own():
    torch.manual_seed(0)
    twins = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    twins[1].load_state_dict(twins[0].state_dict())
    new: Any = published_generator(twins, plan(_0="cp(4)", _1="cp(4)"), seed=0, linear_fault=True)
    assert not torch.allclose(new[0][0].weight, new[1][0].weight)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (dict(_2="tucker2(2, 2)"), r"2: the published recipe is cp .* got tucker2\(2, 2\)"),
        (dict(_1="cp(2)"), "1: the published recipe is cp .* for a Unflatten"),
        (dict(_9="cp(2)"), "no layer '9'"),
        (dict(_0="svd(7)"), r"0: rank \(7,\) does not fit"),
    ],
)
def test_a_plan_that_the_recipe_does_not_know_is_refused(choices, message):
    with pytest.raises(PlanError, match=message):
        published_factors(net(), plan(**choices), seed=0, linear_fault=True)


def test_a_weight_of_nan_is_refused_with_its_name():
    generator = net()
    generator[2].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="2: a weight is NaN"):
        published_factors(generator, plan(_2="cp(2)"), seed=0, linear_fault=True)
