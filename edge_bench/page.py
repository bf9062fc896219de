"""A benchmark as one HTML file: table, times, ratios, quality against latency, power over time.

The figures are SVG inside the file; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from edge_bench.charts import power_over_time, quality_against_latency
from edge_bench.ratios import BUSY
from edge_bench.report import BenchReport, BenchRow, columns_of, name_of, notes_of

WIDTH, LEFT, RIGHT = 880, 250, 40
LANE, AXIS = 46, 34
BINS = 80
TICKS = 6
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em;
  color: #222; background: #fff; }
table { border-collapse: collapse; } th, td { padding: .2em .8em; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr { border-bottom: 1px solid #ddd; }
svg { max-width: 100%; height: auto; } text { font: 12px system-ui, sans-serif; fill: #222; }
.bar { fill: #7aa6d8; } .median { stroke: #b3261e; stroke-width: 2; }
.tail { stroke: #666; stroke-dasharray: 3 3; } .axis { stroke: #999; } .process { fill: #222; }
.grid { stroke: #e4e4e4; } .interval { stroke: #1f5fa8; stroke-width: 3; } .busy { stroke: #aaa; }
"""


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis from `low` to `high`, above 0, as wide as a figure leaves.

    A busy machine makes some runs a hundred times as long as the others.
    """

    low: float
    high: float

    def x(self, value: float) -> float:
        """Where a value is, in pixels; values beyond an end are at that end."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)


def to_html(report: BenchReport) -> str:
    """The page of a report."""
    device = report.device
    machine = ", ".join(filter(None, [device.model, device.cpu, device.gpu, device.nvpmodel]))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Benchmark</title>',
        f"<style>{STYLE}</style></head><body>",
        "<h1>Benchmark</h1>",
        f"<p>{escape(machine or device.machine)}; {escape(report.created)}</p>",
        *_table(report),
        "<ul>",
        *(f"<li>{escape(note)}</li>" for note in notes_of(report)),
        "</ul>",
    ]
    for batch in dict.fromkeys(row.batch for row in report.rows):
        rows = [row for row in report.rows if row.batch == batch]
        parts += [f"<h2>Times at batch {batch}</h2>", distributions(rows)]
    compared = [row for row in report.rows if row.speedup is not None]
    if compared:
        first = escape(report.bundles[0].name)
        parts += [f"<h2>Speed against {first}</h2>", ratios(compared)]
    for title, chart in (
        ("Quality against latency", quality_against_latency(report)),
        ("Power over time, each model alone", power_over_time(report)),
    ):
        if chart is not None:
            parts += [f"<h2>{title}</h2>", chart]
    return "\n".join([*parts, "</body></html>", ""])


def distributions(rows: Sequence[BenchRow]) -> str:
    """A histogram of the times of each row, as SVG; times beyond the longest p99 are cut off.

    Lines mark the median, p95 and p99, and dots the median of each process.
    """
    low = min(row.latency.min_us for row in rows) / 1e3
    high = max(row.latency.p99_us for row in rows) / 1e3
    scale = Scale(low, high if high > low else low * 1.1)
    lanes = [part for lane, row in enumerate(rows) for part in _lane(row, lane, scale)]
    note = "red: median; dashed: p95 and p99; dots: median of each process"
    return _figure(len(rows), [*lanes, *_axis(scale, len(rows), "ms")], note)


def ratios(rows: Sequence[BenchRow]) -> str:
    """The ratio of each row with its interval, and a line where both are equally fast, as SVG."""
    found = [row.speedup for row in rows if row.speedup is not None]
    low = min(1.0, *(ratio.low for ratio in found))
    high = max(1.0, *(ratio.high for ratio in found))
    margin = max((high / low) ** 0.05, 1.02)
    scale = Scale(low / margin, high * margin)
    one, bottom = scale.x(1.0), len(rows) * LANE
    parts = [f'<line class="tail" x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{bottom}"/>']
    for lane, (row, ratio) in enumerate(zip(rows, found, strict=True)):
        y = (lane + 0.5) * LANE
        kind = "interval busy" if row.verdict == BUSY else "interval"
        parts += [
            _label(f"{name_of(row, True)}: {ratio.value:.2f}×", y),
            f'<line class="{kind}" x1="{scale.x(ratio.low):.1f}" x2="{scale.x(ratio.high):.1f}" '
            f'y1="{y}" y2="{y}"/>',
            f'<circle class="process" cx="{scale.x(ratio.value):.1f}" cy="{y}" r="4"/>',
        ]
    note = "bars: 95 % interval; grey: the machine was busy, which leaves no verdict"
    return _figure(len(rows), [*parts, *_axis(scale, len(rows), "×")], note)


def histogram(row: BenchRow, scale: Scale) -> NDArray[np.float64]:
    """The share of the row's times in each of `BINS` parts of the scale, equally wide there."""
    ms = np.concatenate([np.asarray(block) for block in row.samples_us]) / 1e3
    counts, _ = np.histogram(np.log(ms), BINS, range=(math.log(scale.low), math.log(scale.high)))
    shares: NDArray[np.float64] = counts / ms.size
    return shares


def _lane(row: BenchRow, lane: int, scale: Scale) -> Iterator[str]:
    base, height = (lane + 1) * LANE - 6, LANE - 12
    yield _label(name_of(row, True), base - height / 2)
    shares = histogram(row, scale)
    tallest = float(shares.max()) or 1.0
    wide = (WIDTH - LEFT - RIGHT) / BINS
    for place, share in enumerate(shares.tolist()):
        if share > 0:
            tall = share / tallest * height
            yield (
                f'<rect class="bar" x="{LEFT + place * wide:.1f}" y="{base - tall:.1f}" '
                f'width="{wide:.2f}" height="{tall:.1f}"/>'
            )
    for kind, us in (
        ("tail", row.latency.p95_us),
        ("tail", row.latency.p99_us),
        ("median", row.latency.p50_us),
    ):
        x = scale.x(us / 1e3)
        yield (f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{base - height}" y2="{base}"/>')
    rounds = iter(row.samples_us)
    for count in row.rounds_by_process:
        us = float(np.median([time for _ in range(count) for time in next(rounds)]))
        yield f'<circle class="process" cx="{scale.x(us / 1e3):.1f}" cy="{base + 3}" r="2"/>'


def _axis(scale: Scale, lanes: int, unit: str) -> Iterator[str]:
    y = lanes * LANE + 4
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
    for value in np.geomspace(scale.low, scale.high, TICKS).tolist():
        yield (
            f'<text x="{scale.x(value):.1f}" y="{y + 16}" text-anchor="middle">'
            f"{value:.3g} {unit}</text>"
        )


def _label(text: str, y: float) -> str:
    shown = text if len(text) <= 38 else text[:37] + "…"
    return f'<text x="0" y="{y + 4:.1f}">{escape(shown)}<title>{escape(text)}</title></text>'


def _figure(lanes: int, parts: Sequence[str], note: str) -> str:
    height = lanes * LANE + AXIS
    return "\n".join(
        [
            f'<figure><svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
            *parts,
            f"</svg><figcaption>{escape(note)}</figcaption></figure>",
        ]
    )


def _table(report: BenchReport) -> Iterator[str]:
    columns = columns_of(report)
    yield "<table><tr>" + "".join(f"<th>{escape(c.title)}</th>" for c in columns) + "</tr>"
    for cells in zip(*(column.cells for column in columns), strict=True):
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table>"
