import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ard.errors import RankError
from ard.factorization import methods
from ard.factorization.method import Covariances, Factor
from ard.factorization.methods import COMPETITORS, METHODS, register

SHAPE = (6, 5, 3, 4)  # what no method but `svd` refuses


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_kernels_have_the_shapes_and_sizes_that_the_factors_say(method):
    shape = SHAPE if method.fits(SHAPE, 2) else (6, 5, 1, 1)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rank = tuple(max(1, r // 2) for r in method.max_rank(shape))
    kernels = method.factorize(weight, rank, Covariances())
    assert [k.numel() for k in kernels] == list(method.factor_sizes(rank, shape))
    for kernel, factor in zip(kernels, method.factors, strict=True):
        assert kernel.dtype == torch.float64
        assert kernel.shape[2] == (shape[2] if factor.rows else 1)
        assert kernel.shape[3] == (shape[3] if factor.columns else 1)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_unfoldings_have_the_largest_ranks(method):
    if method.unfoldings is None:
        assert method.name == "cp"
        return
    shape = SHAPE if method.fits(SHAPE, 2) else (6, 5, 1, 1)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = tuple(min(matrix.shape) for matrix in method.unfoldings(weight))
    assert found == method.max_rank(shape)


def test_every_method_has_a_mark_of_its_own():
    marks = [method.mark for method in METHODS.values()]
    for field in ("colour", "marker", "symbol"):
        assert len({getattr(mark, field) for mark in marks}) == len(marks)


def test_the_competitors_are_methods():
    assert set(COMPETITORS) <= set(METHODS)


TUCKER2 = METHODS["tucker2"]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([Factor("c_in", "r_in"), Factor("r_out", "c_out", "both")], "do not fit together"),
        ([Factor("c_in", "r_in"), Factor("r_in", "r_out", "both")], "end at r_out"),
        ([Factor("c_in", "r_in", "both"), Factor("r_in", "c_out")], "instead of the ranks"),
        ([Factor("c_in", "r_in"), Factor("r_in", "r_out"), Factor("r_out", "c_out")], "must move"),
        (
            [
                Factor("c_in", "r_in", "columns"),
                Factor("r_in", "r_out", "rows"),
                Factor("r_out", "c_out"),
            ],
            "along the rows and then along the columns",
        ),
        ([Factor("c_in", "r_in", "both", depthwise=True)], "each for itself"),
    ],
)
def test_factors_that_make_no_layer_are_refused(factors, message):
    with pytest.raises(RankError, match=f"'tucker2' .*{message}"):
        replace(TUCKER2, factors=tuple(factors))


def test_a_name_belongs_to_one_method():
    register(TUCKER2)  # again, which changes nothing
    with pytest.raises(RankError, match="'tucker2' already"):
        register(replace(TUCKER2, max_weights=1))
    with pytest.raises(RankError, match="one word; got 'two words'"):
        register(replace(TUCKER2, name="two words"))
    assert METHODS["tucker2"] is TUCKER2


def test_the_room_knows_of_nothing_of_ours_but_errors():
    for path in Path(methods.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
                ours = [n for n in names if n.split(".")[0] in ("ard", "nas_gan", "export")]
                assert all(n == "ard.errors" or n.startswith("ard.factorization.") for n in ours)
