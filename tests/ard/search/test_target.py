"""Targets are costs of a whole network, as shares, times or frame rates."""

import pytest

from ard.errors import BudgetError
from ard.search.target import Target


@pytest.mark.parametrize(
    ("text", "quantity", "dense", "limit", "batch"),
    [
        ("params=0.25", "params", 1000.0, 250.0, None),
        (" macs = 0.5 ", "macs", 10.0, 5.0, None),
        ("latency=0.4", "latency", 20.0, 8.0, None),
        ("latency=5ms", "latency", 20.0, 5.0, None),
        ("latency=1.5 s", "latency", 20.0, 1500.0, None),
        ("latency=250us", "latency", 20.0, 0.25, None),
        ("fps=60@1", "latency", 20.0, 1000 / 60, 1),
        ("fps=60", "latency", 20.0, 1000 / 60, 1),
        ("fps=640@64", "latency", 20.0, 100.0, 64),
    ],
)
def test_a_target_is_the_largest_cost_that_reaches_it(
    text: str, quantity: str, dense: float, limit: float, batch: int | None
) -> None:
    target = Target.parse(text)
    assert (target.quantity, target.batch) == (quantity, batch)
    assert target.limit(dense) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "one of params, macs, latency, fps"),
        ("0.25", "one of params, macs, latency, fps"),
        ("size=0.5", "one of params, macs, latency, fps"),
        ("params=", "'' is not a number"),
        ("params=small", "'small' is not a number"),
        ("params=0", "above 0 and below 1"),
        ("params=1", "above 0 and below 1"),
        ("macs=-0.5", "above 0 and below 1"),
        ("macs=nan", "'nan' is not a number"),
        ("latency=5", "needs a unit, as in latency=5ms"),
        ("latency=-2ms", "a time must be above 0"),
        ("latency=0", "above 0 and below 1"),
        ("latency=infms", "'inf' is not a number"),
        ("fps=0", "a frame rate must be above 0"),
        ("fps=60@", "behind @ comes the batch size"),
        ("fps=60@0", "behind @ comes the batch size"),
        ("fps=60@1.5", "behind @ comes the batch size"),
        ("fps=@1", "'' is not a number"),
    ],
)
def test_what_is_no_target_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BudgetError) as refused:
        Target.parse(text, "target")
    assert refused.value.setting == "target"
    assert reason in refused.value.message
    assert repr(text) in refused.value.message
