"""One budget is given, in the unit of the metric that is measured."""

import pytest

from ard.errors import BudgetError
from ard.session.config import budget_of
from nas_gan.errors import UsageError


@pytest.mark.parametrize(
    ("metric", "fid_budget", "quality_budget", "option", "rise"),
    [
        ("fid", "5%", None, "--fid-budget", 10.0),
        ("fid", None, "3", "--quality-budget", 3.0),
        ("kid", None, "5%", "--quality-budget", 10.0),
    ],
)
def test_the_budget_is_the_one_that_was_given(
    metric: str, fid_budget: str | None, quality_budget: str | None, option: str, rise: float
) -> None:
    budget, name = budget_of(metric, fid_budget, quality_budget)
    assert (budget.absolute(200.0), name) == (rise, option)


@pytest.mark.parametrize(
    ("metric", "fid_budget", "quality_budget", "setting"),
    [
        ("fid", None, None, "fid_budget"),
        ("fid", "5%", "5%", "quality_budget"),
        ("kid", "5%", None, "fid_budget"),
        ("mmd", "0.5", "1", "quality_budget"),
    ],
)
def test_no_budget_two_budgets_or_one_in_another_metric_is_a_wrong_use(
    metric: str, fid_budget: str | None, quality_budget: str | None, setting: str
) -> None:
    with pytest.raises(UsageError) as refused:
        budget_of(metric, fid_budget, quality_budget)
    assert refused.value.setting == setting


@pytest.mark.parametrize("text", ["", "five", "-1", "nan%"])
def test_a_budget_that_is_no_rise_is_refused_under_its_name(text: str) -> None:
    with pytest.raises(BudgetError) as refused:
        budget_of("kid", None, text)
    assert refused.value.setting == "quality_budget"
