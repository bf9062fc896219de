"""The charts of the page: power over time, and quality against latency."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from edge_bench import TimingPlan, benchmark
from edge_bench.charts import Axis, power_over_time, quality_against_latency
from edge_bench.frechet import Rise
from edge_bench.page import to_html
from edge_bench.power import PowerReading
from edge_bench.quality import QualityRow
from edge_bench.report import BenchReport

QUICK = TimingPlan(runs=8, warmup=0, duration_s=0, min_warmup_s=0, block=2, repeats=1)


@pytest.fixture
def report(make_bundle) -> BenchReport:
    bundles = [make_bundle("dense"), make_bundle("a <b> & c")]
    return benchmark(bundles, [1, 2], plan=QUICK, find_meter=lambda on_gpu: None)


def power(*series: tuple[float, float]) -> PowerReading:
    return PowerReading(6.0, 7.0, 3, 1.0, {"VDD_IN": 6.0}, ("VDD_IN",), "test", (), series)


def parts(text: str | None, kind: str) -> list[ElementTree.Element]:
    assert text is not None
    found = re.search(r"<svg.*</svg>", text, re.DOTALL)
    assert found
    figure = ElementTree.fromstring(found[0])  # noqa: S314  # it was made here
    return [part for part in figure.iter() if part.get("class") == kind]


def texts(text: str | None) -> list[str]:
    assert text is not None
    return re.findall(r"<text[^>]*>([^<]*)", text)


def test_an_axis_puts_values_between_its_ends():
    linear = Axis("a", 0.0, 10.0, 100.0, 200.0)
    assert [linear.at(value) for value in (0, 5, 10)] == [100, 150, 200]
    assert linear.ticks() == [0, 2, 4, 6, 8, 10]
    upward = Axis("b", 1.0, 100.0, 300.0, 100.0, log=True)
    assert [upward.at(value) for value in (1, 10, 100)] == pytest.approx([300, 200, 100])
    assert upward.ticks() == [1, 2, 5, 10, 20, 50, 100]


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0.0, 1e-9, False), (0.0086, 0.0098, True), (-3.0, 4.0, False), (1e-3, 1e9, True)],
)
def test_ticks_are_few_and_inside(low, high, log):
    ticks = Axis("a", low, high, 0, 1, log).ticks()
    assert 2 <= len(ticks) <= 14
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_power_is_a_line_for_each_row_and_one_for_idling(report):
    rows = [replace(row, power=power((0, 5), (1, 7), (2, 6))) for row in report.rows]
    chart = power_over_time(replace(report, rows=tuple(rows), idle=power((0, 3), (4, 3))))
    lines = parts(chart, "curve")
    assert len(lines) == 4 + 1
    points = [tuple(map(float, pair.split(","))) for pair in lines[0].get("points", "").split()]
    # Half of four seconds, and 7 W above 6 W above 5 W: smaller is further up.
    assert points[2][0] - points[0][0] == pytest.approx((880 - 76 - 24) / 2, abs=0.2)
    assert points[1][1] < points[2][1] < points[0][1]
    assert len({line.get("stroke") for line in lines}) == 5
    assert {"a &lt;b&gt; &amp; c, batch 1", "idle", "power, W"} <= set(texts(chart))


def test_a_single_sample_is_seen(report):
    alone = replace(report.rows[0], power=power((0.0, 5.0)))
    assert len(parts(power_over_time(replace(report, rows=(alone,))), "dot")) == 1


def test_quality_is_a_point_for_each_row_with_its_interval(report):
    quality = (
        QualityRow("dense", 20.0, None, 100, "features"),
        QualityRow("a <b> & c", 22.0, Rise(2.0, 1.0, 3.0), 100, "features"),
    )
    chart = quality_against_latency(replace(report, quality=quality))
    dots, bounds = parts(chart, "dot"), parts(chart, "bound")
    assert (len(dots), len(bounds), len(parts(chart, "spread"))) == (4, 2, 4)
    heights = [float(dot.get("cy", "")) for dot in dots]
    assert heights[0] == heights[2] > heights[1] == heights[3]
    # The rise and its interval: 21 to 23 around 22, with the dense at 20.
    ends = [float(bounds[0].get(name, "")) for name in ("y1", "y2")]
    assert sum(ends) / 2 == pytest.approx(heights[1], abs=0.11)
    assert ends[0] - ends[1] == pytest.approx(heights[0] - heights[1], abs=0.3)
    assert {"dense", "batch 1", "batch 2", "Fréchet distance"} <= set(texts(chart))


def test_a_single_point_is_seen_within_the_chart(report):
    quality = (QualityRow("dense", 0.0, None, 100, "features"),)
    rows = report.rows[:1]
    [dot] = parts(quality_against_latency(replace(report, rows=rows, quality=quality)), "dot")
    assert 76 < float(dot.get("cx", "")) < 880 - 24
    assert 14 < float(dot.get("cy", "")) < 360 - 52


def test_the_page_has_the_charts_that_there_is_something_for(report):
    assert "Power over time" not in to_html(report)
    assert "Quality against latency" not in to_html(report)
    rows = (replace(report.rows[0], power=power((0, 5), (1, 7))), *report.rows[1:])
    quality = (QualityRow("dense", 20.0, None, 100, "features"),)
    page = to_html(replace(report, rows=rows, quality=quality))
    assert page.count("<svg") == to_html(report).count("<svg") + 2
    body = page.removeprefix("<!DOCTYPE html>").replace('<meta charset="utf-8">', "")
    ElementTree.fromstring(body)  # noqa: S314
