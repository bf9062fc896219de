from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ard.coverage import Coverage
from ard.plan import RankPlan
from ard.report.page import to_html
from ard.report.values import CompressionReport, Reached, before_after

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
HOSTILE = "\"><script data-evil>evil()</script><img data-evil src=x onerror=evil()>&amp;' </style>"
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
     if (path := shutil.which(name))),
    None,
)  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.text += data


def hostile(report: CompressionReport) -> CompressionReport:
    """Every string that could come from a file holds an attack, the first layer's name too."""
    old = report.layers[0].name
    rows = tuple(replace(r, layer=HOSTILE) if r.layer == old else r for r in report.table.rows)
    plan = RankPlan({HOSTILE if n == old else n: choice for n, choice in report.plan.items()})
    layer = replace(report.layers[0], name=HOSTILE, choice=HOSTILE)
    return replace(
        report,
        checkpoint=HOSTILE,
        dataset=HOSTILE,
        reference=HOSTILE,
        objective=HOSTILE,
        budget_text=HOSTILE,
        extractor=HOSTILE,
        plan=plan,
        layers=(layer, *report.layers[1:]),
        skipped=((HOSTILE, HOSTILE),),
        table=replace(report.table, rows=rows),
        trials=(replace(report.trials[0], plan=plan), *report.trials[1:]),
        latency=(replace(report.latency[0], runtime=HOSTILE),),
        timings={HOSTILE: 1.0},
        environment={HOSTILE: HOSTILE},
    )


@pytest.fixture(scope="module")
def html(report: CompressionReport) -> str:
    return to_html(report, samples_png=PNG)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "base")]
    policy = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert "default-src 'none'" in policy[0]


def test_plotly_is_inside_once(html, page):
    assert html.count("plotly.js v") == 1
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3  # the library, two charts


def test_the_before_after_table_equals_that_of_the_report(report, page):
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for row in before_after(report):
        for cell in row:
            assert cell in text


def test_the_headline_numbers_are_those_of_the_report(html, report):
    values = re.findall(r'<div class="value[^"]*">([^<]*)<', html)
    assert values == ["3.00×", "2.40×", "2.10×", "+12.5"]
    assert "95 % interval [+8.9, +16.1], allowed +22.3" in html
    assert "within the budget" in html


def test_a_missed_budget_is_said_at_the_top(report):
    html = to_html(replace(report, budget_met=False), samples_png=None)
    assert '<span class="badge bad">over the budget</span>' in html


@pytest.mark.parametrize("budget", [None, 22.3])
@pytest.mark.parametrize("reached", [True, False])
def test_a_target_is_said_at_the_top_with_what_became_of_it(report, budget, reached):
    target = Reached(HOSTILE, "params", 2e5, 1e6, 1.9e5, "counted", reached)
    page = Page(to_html(replace(report, budget=budget, target=target), samples_png=None))
    assert ("target reached" if reached else "target missed") in page.text
    assert ("NOT reached" in page.text) != reached
    assert ("allowed +22.3" in page.text) == (budget is not None)
    assert HOSTILE in page.text
    assert not any("data-evil" in attrs for _, attrs in page.tags)


def test_every_layer_has_its_row_and_every_skipped_one_its_reason(report, page):
    for layer in report.layers:
        assert layer.name in page.text
        assert layer.choice in page.text
    for name, reason in report.skipped:
        assert name in page.text
        assert reason in page.text


def test_the_samples_are_inside(page):
    [source] = [a["src"] for tag, a in page.tags if tag == "img"]
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG


def test_parts_without_content_are_left_out(report):
    bare = replace(report, latency=(), skipped=(), timings={}, trials=())
    text = Page(to_html(bare, samples_png=None)).text
    for title in ("Samples", "Layers left out", "Time spent", "faster"):
        assert title not in text


def test_a_distance_in_other_features_is_never_called_fid(html, page):
    words = " ".join(page.text.split()).replace("comparable with a published FID", "")
    assert "FID" not in words
    assert "FID" not in "".join(re.findall(r"Plotly\.newPlot\((.*?)</script>", html, re.DOTALL))


def test_strings_from_files_cannot_become_markup(report):
    page = Page(to_html(hostile(report), samples_png=None))
    assert not [attributes for _, attributes in page.tags if "data-evil" in attributes]
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    assert HOSTILE in page.text


MEASURE = """<!doctype html><body><script>
window.onload = () => {
  const frames = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, root = page.documentElement;
    return [page.querySelectorAll(".main-svg").length > 1,
            page.querySelectorAll(".scatterlayer .point").length,
            root.scrollWidth - root.clientWidth,
            page.querySelectorAll("[data-evil]").length + page.querySelectorAll("a").length,
            page.querySelector("#chart-sensitivity .ytick text").textContent].join("|");
  });
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = frames.join("\\n");
  document.body.append(result);
};
</script>
<iframe src="report.html" style="width:1280px;height:900px"></iframe>
<iframe src="report.html" style="width:420px;height:900px"></iframe>
"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH")
def test_a_browser_draws_the_charts_without_overflow_or_injection(report, tmp_path):
    (tmp_path / "report.html").write_text(to_html(hostile(report), samples_png=PNG))
    (tmp_path / "measure.html").write_text(MEASURE)
    dom = dump_dom(tmp_path / "measure.html", tmp_path / "profile")
    [found] = re.findall(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
    measured = len(report.table.rows)
    for line in unescape(found).splitlines():
        drawn, points, overflow, injected, *name = line.split("|")
        assert drawn == "true"
        assert int(points) >= measured + len(report.trials)
        assert int(overflow) <= 0
        assert injected == "0"
        assert "|".join(name) == HOSTILE


def dump_dom(page: Path, profile: Path) -> str:
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-dev-shm-usage", "--allow-file-access-from-files",
        "--virtual-time-budget=5000", f"--user-data-dir={profile}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    # A browser that finds no home directory it can write to does not start.
    environment = {**os.environ, "HOME": str(profile.parent)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=True, env=environment
    )
    return done.stdout


def test_the_coverage_is_below_the_table_and_a_warning_if_it_is_low(report):
    sentence = "of the parameters are in layers that this tool can factorize"
    assert f"99 % {sentence}" in to_html(report, samples_png=None)
    low = replace(report, coverage=Coverage.of(10, [("<b>", 90)]))
    html = to_html(low, samples_png=None)
    assert f"Warning: 10 % {sentence}; the rest: &lt;b&gt; (1 layer, 90)." in html
