from __future__ import annotations

import pytest

from ard.costs.alignment import parse_rank_multiple, rank_multiple
from ard.layers import LayerProfile
from nas_gan.errors import InvalidValueError

LAYER = LayerProfile("c", "conv2d", (256, 256, 3, 3), positions=64)


@pytest.mark.parametrize(
    ("precision", "multiple"), [("fp32", 1), ("fp16", 8), ("int8", 32), ("auto", 8)]
)
def test_every_rank_of_a_grid_fills_the_vectors_of_its_precision(
    precision: str, multiple: int
) -> None:
    assert rank_multiple(precision) == multiple
    for method in LAYER.methods():
        grid = LAYER.rank_grid(method, (0.5, 0.3, 0.1), parse_rank_multiple("auto", precision))
        assert grid
        assert all(rank % multiple == 0 for choice in grid for rank in choice.rank)


def test_a_number_overrules_the_precision() -> None:
    assert parse_rank_multiple("16", "int8") == 16


@pytest.mark.parametrize("text", ["0", "-8", "8.0", "", "many", "9" * 9])
def test_what_is_no_multiple_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="neither auto nor a whole number"):
        parse_rank_multiple(text, "fp16")


def test_an_unknown_precision_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidValueError, match=r"did you mean fp16\?"):
        rank_multiple("fp61")
