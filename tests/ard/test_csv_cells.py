from __future__ import annotations

import pytest

from ard.csv_cells import (
    at_line,
    header,
    number_cell,
    numbered_rows,
    require_columns,
    text_cell,
    whole_cell,
    whole_cells,
)
from ard.errors import TableError


def test_cells_are_what_their_columns_need() -> None:
    [(line, cells)] = numbered_rows("name,n,x,rank\n a ,7,-1e-3,64x32\n")
    assert line == 2
    assert text_cell(cells, "name") == "a"
    assert whole_cell(cells, "n") == 7
    assert number_cell(cells, "x") == -0.001
    assert whole_cells(cells, "rank") == (64, 32)


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "1e3", "٣", "9" * 19, ""])
def test_a_whole_number_is_counted_in_plain_digits_from_1_on(text: str) -> None:
    with pytest.raises(ValueError, match="n is"):
        whole_cell({"n": text}, "n")
    with pytest.raises(ValueError, match="n is"):
        whole_cells({"n": f"8x{text}" if text else ""}, "n")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1,5", "one", " ", None])
def test_a_number_is_finite(text: str | None) -> None:
    with pytest.raises(ValueError, match="x is"):
        number_cell({"x": text}, "x")


def test_an_error_knows_its_line() -> None:
    with pytest.raises(TableError, match="line 7: n is empty"), at_line(7):
        whole_cell({}, "n")


def test_a_missing_column_is_named_with_all_that_are_needed() -> None:
    assert header("a,b\n1,2\n") == ("a", "b")
    with pytest.raises(TableError, match="no column 'c'; it needs a, c"):
        require_columns("a,b\n", ("a", "c"))


def test_text_that_is_no_csv_is_refused_with_its_line() -> None:
    with pytest.raises(TableError, match="line 1: not the header"):
        header("x" * 200_000)
    with pytest.raises(TableError, match="not a row of a CSV table"):
        list(numbered_rows("a\n" + "x" * 200_000))
