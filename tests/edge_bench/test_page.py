from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edge_bench import TimingPlan, benchmark
from edge_bench.__main__ import main
from edge_bench.page import BINS, LEFT, RIGHT, WIDTH, Scale, distributions, histogram, to_html
from edge_bench.page import ratios as draw_ratios
from edge_bench.report import BenchReport
from edge_bench.statistics import Ratio, summarize

QUICK = TimingPlan(runs=8, warmup=0, duration_s=0, min_warmup_s=0, block=2, repeats=1)


@pytest.fixture
def report(make_bundle) -> BenchReport:
    bundles = [make_bundle("dense"), make_bundle("a <b> & c")]
    return benchmark(
        bundles, [1, 2], plan=QUICK, runner=["onnxruntime", "tensorrt"],
        find_meter=lambda on_gpu: None,
    )  # fmt: skip


def svg(text: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", text, re.DOTALL)
    assert found
    return ElementTree.fromstring(found[0])  # noqa: S314  # it was made here


def of_class(figure: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [part for part in figure.iter() if part.get("class") == name]


def test_a_scale_is_logarithmic_between_its_ends():
    scale = Scale(1.0, 100.0)
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    assert [scale.x(v) for v in (1, 10, 100)] == pytest.approx([LEFT, middle, WIDTH - RIGHT])
    assert (scale.x(0.1), scale.x(1e9)) == (LEFT, WIDTH - RIGHT)


def test_a_histogram_holds_the_share_of_the_times_that_the_scale_shows(report):
    times = (1000.0, 1000.0, 10_000.0, 10_000_000.0)
    row = replace(report.rows[0], samples_us=(times[:2], times[2:]))
    shares = histogram(row, Scale(1.0, 100.0))
    assert shares.sum() == 0.75  # one is beyond the scale
    assert (shares[0], shares[BINS // 2]) == (0.5, 0.25)


def test_the_marks_of_a_row_are_where_its_percentiles_are(report):
    times = np.geomspace(1000, 4000, 201)
    rounds = (tuple(times[:100]), tuple(times[100:]))
    row = replace(
        report.rows[0], latency=summarize(times), samples_us=rounds, rounds_by_process=(1, 1)
    )
    figure = svg(distributions([row]))
    p50, p99 = row.latency.p50_us, row.latency.p99_us
    # The scale ends at p99, and a geometric row has its median in the middle.
    expected = LEFT + (WIDTH - LEFT - RIGHT) * math.log(p50 / 1000) / math.log(p99 / 1000)
    [median] = of_class(figure, "median")
    assert float(median.get("x1", "")) == pytest.approx(expected, abs=0.06)
    tails = [float(part.get("x1", "")) for part in of_class(figure, "tail")]
    assert tails[1] == pytest.approx(WIDTH - RIGHT, abs=0.06)
    dots = [float(part.get("cx", "")) for part in of_class(figure, "process")]
    assert len(dots) == 2
    assert dots[0] < expected < dots[1]


def test_equal_times_are_drawn_too(report):
    row = replace(
        report.rows[0], latency=summarize(np.full(4, 5.0)), samples_us=((5.0,) * 4,),
        rounds_by_process=(1,),
    )  # fmt: skip
    assert len(of_class(svg(distributions([row])), "bar")) == 1
    same = replace(report.rows[1], speedup=Ratio(1.0, 1.0, 1.0, 0.95, 1.0))
    assert len(of_class(svg(draw_ratios([same])), "interval")) == 1


def test_a_busy_machine_is_grey(report):
    rows = [
        replace(report.rows[1], verdict=verdict, speedup=Ratio(2.0, 1.5, 2.5, 0.95, 2.0))
        for verdict in ("faster", "busy")
    ]
    figure = svg(draw_ratios(rows))
    assert len(of_class(figure, "interval")) == len(of_class(figure, "interval busy")) == 1


def test_the_page_is_whole_and_loads_nothing(report):
    page = to_html(report)
    assert page.startswith("<!DOCTYPE html>")
    assert re.findall(r"(?:src|href|url|@import|https?:)[=(:/]", page) == []
    assert "<b>" not in page
    assert "a &lt;b&gt; &amp; c" in page
    assert page.count("<svg") == page.count("</svg>") == 3  # two batch sizes, and the ratios
    body = page.removeprefix("<!DOCTYPE html>").replace('<meta charset="utf-8">', "")
    ElementTree.fromstring(body)  # noqa: S314
    assert "tensorrt: not measured" in page


def test_one_bundle_alone_has_no_figure_of_ratios(make_bundle):
    alone = benchmark([make_bundle()], [1], plan=QUICK, find_meter=lambda on_gpu: None)
    assert to_html(alone).count("<svg") == 1


def test_the_command_writes_it(make_model, tmp_path: Path, capsys):
    out = tmp_path / "new" / "report.html"
    given = [str(make_model()), "--out", str(tmp_path), "--repeats", "1", "--batch", "1"]
    given += ["--runs", "4", "--duration", "0"]
    assert main([*given, "--html", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert main([*given, "--html", str(out), "--markdown", str(out)]) == 1
    assert capsys.readouterr().err.startswith("error: --html is the file of the table")
