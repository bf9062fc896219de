from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ard.errors import BudgetError
from ard.search.budget import Budget


def test_a_plain_number_is_a_rise_whatever_the_dense_score() -> None:
    budget = Budget.parse("0.5")
    assert (budget.absolute(40.0), budget.absolute(446.0)) == (0.5, 0.5)


def test_a_percentage_is_a_share_of_the_dense_score() -> None:
    assert Budget.parse(" 5 % ").absolute(40.0) == pytest.approx(2.0, rel=1e-15)


@pytest.mark.parametrize("text", ["0", "0%", "1e-3", "1e3%", "+2", "200%"])
def test_zero_exponents_and_more_than_all_of_it_are_budgets(text: str) -> None:
    assert Budget.parse(text).absolute(10.0) >= 0


@pytest.mark.parametrize("text", ["-1", "-0.1%", "nan", "inf", "inf%", "abc", "", "%", "5%%"])
def test_anything_else_is_refused_with_what_was_asked_and_an_example(text: str) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget.parse(text)
    message = str(caught.value)
    assert repr(text) in message
    assert "0.5" in message
    assert "5%" in message
    assert "\n" not in message


def test_the_screen_line_shows_both_readings() -> None:
    line = Budget.parse("0.5").explain(dense=50.0, what="pixels")
    assert "a rise of 0.5 over 50" in line
    assert "1 % of the dense" in line
    assert "pixels" in line


def test_a_dense_score_of_zero_does_not_break_the_screen_line() -> None:
    assert "0.5" in Budget.parse("0.5").explain(dense=0.0, what="pixels")


@given(st.floats(0, 1e6), st.floats(1e-3, 1e4))
def test_both_notations_of_one_budget_agree(rise: float, dense: float) -> None:
    absolute = Budget.parse(repr(rise)).absolute(dense)
    relative = Budget.parse(f"{100 * rise / dense!r}%").absolute(dense)
    assert math.isclose(absolute, relative, rel_tol=1e-12, abs_tol=1e-300)


@pytest.mark.parametrize("dense", [0.0, -0.001])
def test_a_share_of_a_score_that_is_not_above_zero_is_refused(dense: float) -> None:
    with pytest.raises(BudgetError, match="give an absolute budget"):
        Budget.parse("5%").absolute(dense)
