from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from contracts import scored

from ard.measuring.score import from_record, metric_of_rise, score_columns, to_record


def test_a_record_names_its_metric_by_its_keys_and_comes_back_whole() -> None:
    score = replace(scored(0.1 + 0.2), metric="kid")
    record = to_record(score)
    assert {"kid", "delta_kid"} <= record.keys()
    assert from_record(record) == score


def test_an_estimate_is_a_record_of_no_samples() -> None:
    estimate = replace(scored(1.0), n_images=0, measured=False)
    assert to_record(estimate)["n_samples"] == 0
    assert from_record(to_record(estimate)) == estimate


@pytest.mark.parametrize("missing", ["fid", "delta_fid", "ci_low", "ci_high", "n_samples"])
def test_a_record_that_lacks_a_value_is_refused(missing: str) -> None:
    record: dict[str, Any] = to_record(scored(1.0))
    del record[missing]
    with pytest.raises((KeyError, ValueError)):
        from_record(record)


def test_a_record_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="a score has no 'colour'"):
        from_record({**to_record(scored(1.0)), "colour": "red"})


@pytest.mark.parametrize("name", ["FID", "a b", "", "1st", "delta,fid", "../fid"])
def test_a_metric_that_could_not_be_a_column_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a metric"):
        replace(scored(0.0), metric=name)


def test_the_metric_of_a_table_is_that_of_its_rise() -> None:
    assert metric_of_rise(score_columns("mmd")) == "mmd"
    assert metric_of_rise(("layer", "rank", "fid")) is None
