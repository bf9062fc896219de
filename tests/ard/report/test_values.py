from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ard.coverage import Coverage
from ard.report.values import (
    CompressionReport,
    DeliveredPrecision,
    Reached,
    TimedRow,
    answers,
    before_after,
    budget_note,
    engineering,
    plain_number,
    to_json,
    to_text,
)


def inception(report: CompressionReport) -> CompressionReport:
    return replace(report, extractor="inception-v3", comparable=True)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        (950, "", "950"),
        (1_234_567, "", "1.23 M"),
        (45_600_000, "", "45.6 M"),
        (2_900_000, "B", "2.90 MB"),
        (999_999, "", "1.00 M"),
        (123_456, "", "123 k"),
        (7.2e9, "", "7.20 G"),
        (12, "B", "12 B"),
    ],
)
def test_numbers_are_in_engineering_form(value, unit, text):
    assert engineering(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0005, "0.0005"), (22.3, "22.3"), (446.04, "446"), (12345.6, "12346")],
)
def test_a_budget_is_never_written_with_an_exponent(value, text):
    assert plain_number(value) == text


def test_the_json_is_strict_and_holds_the_totals(report):
    data = json.loads(to_json(report))
    json.dumps(data, allow_nan=False)
    assert data["dense"]["params"] == 1_230_000
    assert data["compression"] == 3.0
    assert data["recovered"]["delta_fid"] == 12.5
    assert data["trials"][0]["plan"] == data["plan"] == {n: str(c) for n, c in report.plan.items()}


def test_the_table_holds_every_row_of_the_brief(report):
    rows = {name: cells for name, *cells in before_after(report)}
    assert rows["params"] == ["1.23 M", "410 k", "3.00×"]
    assert rows["MACs per image"] == ["45.6 M", "19.0 M", "2.40×"]
    assert rows["size"] == ["4.92 MB", "1.64 MB", "3.00×"]
    assert rows["ΔFD"] == ["0", "+12.5 [+8.9, +16.1]", ""]
    latency = rows["latency, batch 64 (onnxruntime-cpu)"]
    assert latency == ["212 ms", "88.3 ms", "2.40× [2.31, 2.48]"]


def test_the_first_lines_are_what_was_asked_for(report):
    quality, speed, size = to_text(report, 120).splitlines()[:3]
    assert quality.split(maxsplit=1) == ["quality", budget_note(report)]
    assert speed.split(maxsplit=1)[1].endswith("2.40× [2.31, 2.48] at batch 64")
    assert size.split()[:4] == ["size", "3.00×", "fewer", "parameters,"]
    rows = tuple(replace(row, busy="other programs took 40 %") for row in report.latency)
    assert "busy" in to_text(replace(report, latency=rows), 160).splitlines()[1]
    not_timed = to_text(replace(report, latency=()))
    assert not_timed.splitlines()[1].split(maxsplit=1) == ["speed", "not measured"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_text_keeps_its_width(report, width):
    lines = to_text(report, width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


def test_a_distance_in_other_features_is_never_called_fid(report):
    text = to_text(report)
    assert "FD (efficientnet-lite0@96)" in text
    assert "FID" not in text


def test_inception_features_are_called_fid(report):
    text = to_text(inception(report))
    assert "\nFID " in text
    assert "\nΔFID " in text
    assert "not comparable" not in text


def test_the_budget_is_given_absolute_and_in_percent(report):
    spent = "ΔFD +12.5 [+8.9, +16.1] of +22.3 allowed"
    assert budget_note(report) == f"{spent}, 5 % of the dense FD: met"


@pytest.mark.parametrize(
    ("text", "share"),
    [("5%", "5 %"), ("5 %", "5 %"), ("0.5%", "0.5 %"), ("22.3", "4.46 %"), ("2.23e1", "4.46 %")],
)
def test_a_share_that_was_asked_for_is_repeated_and_any_other_computed(report, text, share):
    # On held-out latents the dense generator scores otherwise than on those of the search.
    found = replace(report, budget_text=text, dense_score=500.0)
    assert f" allowed, {share} of the dense FD" in budget_note(found)


def test_a_missed_budget_is_said_and_shows_by_how_little(report):
    near = replace(report.recovered, ci_high=22.34)
    note = budget_note(replace(report, recovered=near, budget_met=False))
    assert note.endswith("NOT met (95 % upper end +22.34)")


def test_decimals_follow_the_width_of_the_interval(report):
    sharp = replace(report.recovered, value=6.1234, rise=0.0312, ci_low=0.0301, ci_high=0.0323)
    rows = {name: cells for name, *cells in before_after(replace(report, recovered=sharp))}
    assert rows["ΔFD"][1] == "+0.0312 [+0.0301, +0.0323]"


def test_a_drop_that_rounds_to_nothing_has_no_minus(report):
    tiny = replace(report.recovered, rise=-0.001)
    rows = {name: cells for name, *cells in before_after(replace(report, recovered=tiny))}
    assert rows["ΔFD"][1].startswith("+0.0 ")


def test_without_a_bench_there_is_no_latency_row(report):
    assert "latency" not in to_text(replace(report, latency=()))


def test_markup_in_names_is_shown_as_it_is(report):
    row = TimedRow("[bold]x|y*[/bold]", 1, 2.0, 1.0, 2.0, 1.9, 2.1)
    hostile = replace(report, latency=(row,))
    assert "[bold]x|y*[/bold]" in to_text(hostile, 120)


def test_another_metric_is_named_everywhere_and_keeps_its_own_keys(report):
    def kid(score):
        return replace(score, metric="kid")

    trials = tuple(replace(trial, score=kid(trial.score)) for trial in report.trials)
    other = replace(
        inception(report),
        metric="kid",
        trials=trials,
        factorized=kid(report.factorized),
        recovered=kid(report.recovered),
    )
    assert "\nΔKID " in to_text(other)
    assert "FID" not in to_text(other)
    data = json.loads(to_json(other))
    assert data["recovered"]["delta_kid"] == 12.5
    assert data["kid_dense"] == 446.0
    assert "fid_dense" not in data


def test_the_coverage_is_a_note_and_in_the_json(report):
    sentence = "99 % of the parameters are in layers that this tool can factorize"
    assert f"\ncoverage   {sentence}" in to_text(report, 120)
    found = json.loads(to_json(report))["coverage"]
    assert found["rest"] == [{"kind": "BatchNorm2d", "modules": 1, "params": 10_000}]
    assert found["share"] == pytest.approx(122 / 123)


def test_a_low_coverage_is_a_warning_in_the_last_lines(report):
    low = replace(report, coverage=Coverage.of(10, [("Conv2DMod", 90)]))
    last = to_text(low, 200).splitlines()[-1]
    assert last.startswith("warning    10 % of the parameters are in layers that this tool")
    assert last.endswith("the rest: Conv2DMod (1 layer, 90)")


def in_int8(report: CompressionReport, **changes: Any) -> CompressionReport:
    """The report of a bundle in int8, which adds 2 to the 12.5 of the ranks."""
    more = replace(report.recovered, rise=2.0, ci_low=1.0, ci_high=3.0)
    both = replace(report.recovered, rise=14.5, ci_low=11.0, ci_high=18.0)
    found = DeliveredPrecision("auto", "int8", 7, "onnxruntime 1.31.1", more, both, missed=False)
    return replace(report, precision=replace(found, **changes))


def test_the_precision_and_its_rises_are_in_the_notes_and_in_the_json(report):
    text = " ".join(to_text(in_int8(report)).split())
    assert "precision int8 in 7 nodes; ΔFD +2.0 [+1.0, +3.0] over fp32; in all +14.5" in text
    data = json.loads(to_json(in_int8(report)))["precision"]
    assert (data["precision"], data["total"]["delta_fid"]) == ("int8", 14.5)
    assert json.loads(to_json(report))["precision"] is None
    assert "precision" not in to_text(report)


def test_a_precision_that_was_missed_is_named(report):
    missed = in_int8(
        report, wanted="int8", precision="fp32", int8_nodes=0, rise=None, total=None, missed=True
    )
    text = " ".join(to_text(missed).split())
    assert "int8 does not hold the budget with these ranks; the bundle is fp32 (onnx" in text


REACHED = Reached("fps=60@4", "latency", 66.7, 90.0, 60.0, "measured at batch 4", reached=True)


def test_without_a_budget_the_report_says_what_the_target_took(report):
    free = replace(report, budget=None, budget_text="", target=REACHED)
    (first, target), (second, quality), *_ = answers(free)
    assert (first, second) == ("target", "quality")
    assert target == (
        "fps=60@4: 60 of at most 66.7 ms, measured at batch 4, "
        "0.667 of the dense network's: reached"
    )
    assert quality.endswith("spent for the target")
    assert free.met
    assert json.loads(to_json(free))["budget"] is None


def test_a_target_that_was_missed_is_said_with_the_nearest_beyond_the_budget(report):
    counts = replace(
        REACHED, text="params=0.2", quantity="params", limit=200_000, dense=1_000_000,
        cost=300_000, how="counted", reached=False, beyond="at-target/ holds another",
    )  # fmt: skip
    missed = replace(report, target=counts)
    assert missed.budget_met
    assert not missed.met
    [(_, note), *_] = answers(missed)
    assert note == (
        "params=0.2: 300 k of at most 200 k params, counted, 0.3 of the dense network's: "
        "NOT reached; at-target/ holds another"
    )
