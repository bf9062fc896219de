"""Two charts of a benchmark's page: power over time, and quality against latency, as SVG.

Both have two linear or logarithmic axes with their names, a legend, and marks that are seen even if
there is one alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from edge_bench.quality import QualityRow
from edge_bench.report import BenchReport, BenchRow, name_of

WIDTH, HEIGHT = 880, 360
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 14, 52
LEGEND_LINE = 20
TICKS = 6
# Colours that are told apart without seeing colour well (Okabe and Ito), and the shapes of dots.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
IDLE = "#888888"


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high` in pixels from `start` to `end`, logarithmic if `log`."""

    name: str
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value is, in pixels."""
        low, high, place = self.low, self.high, value
        if self.log:
            low, high, place = math.log(low), math.log(high), math.log(place)
        return self.start + (place - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers between the ends."""
        if self.log and self.high / self.low >= 10:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 3 else (1,)
            found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            return [value for value in found if self.low <= value <= self.high]
        step = _round_step((self.high - self.low) / TICKS)
        start = math.ceil(self.low / step)
        return [round(n * step, 12) for n in range(start, math.floor(self.high / step + 1e-9) + 1)]


def _round_step(width: float) -> float:
    """The smallest of 1, 2, 5, 10, ... that is no less."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width * (1 - 1e-9))


def power_over_time(report: BenchReport) -> str | None:
    """A line of watts over seconds for each row, and one for idling; None without samples."""
    several = len({row.runner for row in report.rows}) > 1
    lines = [
        (name_of(row, several), row.power.series, COLOURS[place % len(COLOURS)])
        for place, row in enumerate(report.rows)
        if row.power is not None and row.power.series
    ]
    if report.idle is not None and report.idle.series:
        lines.append(("idle", report.idle.series, IDLE))
    if not lines:
        return None
    points = [point for _, series, _ in lines for point in series]
    most = max(moment for moment, _ in points)
    low, high = 0.0, max(power for _, power in points)
    low = min(low, *(power for _, power in points))
    x = Axis("seconds from the start of each", 0.0, most or 1.0, LEFT, WIDTH - RIGHT)
    y = _upward("power, W", low, high * 1.05 if high > low else low + 1.0)
    marks: list[str] = []
    for name, series, colour in lines:
        path = " ".join(f"{x.at(t):.1f},{y.at(watts):.1f}" for t, watts in series)
        title = f"<title>{escape(name)}</title>"
        marks.append(
            f'<polyline class="curve" points="{path}" fill="none" stroke="{colour}" '
            f'stroke-width="2">{title}</polyline>'
        )
        if len(series) == 1:
            marks.append(_dot(x.at(series[0][0]), y.at(series[0][1]), colour, name))
    note = "each model runs alone and without pause"
    return _chart(x, y, marks, [(name, colour) for name, _, colour in lines], note)


def quality_against_latency(report: BenchReport) -> str | None:
    """A point for each row: latency across, Fréchet distance up; None without qualities.

    The horizontal bar is from p50 to p95 of the times. The vertical one is the interval of the rise
    over the first bundle's distance, which has none itself.
    """
    qualities = {row.bundle: row for row in report.quality}
    rows = [row for row in report.rows if row.bundle in qualities]
    if not rows:
        return None
    bounds = {name: _interval(row, report.quality[0]) for name, row in qualities.items()}
    times = [us / 1e3 for row in rows for us in (row.latency.p50_us, row.latency.p95_us)]
    ends = [end for row in rows for end in bounds[row.bundle]]
    ends += [qualities[row.bundle].distance for row in rows]
    x = Axis(
        "latency of a batch, ms",
        min(times) / 1.15, max(times) * 1.15, LEFT, WIDTH - RIGHT, log=True,
    )  # fmt: skip
    margin = 0.12 * (max(ends) - min(ends)) or 0.1 * abs(max(ends)) or 1.0
    y = _upward("Fréchet distance", min(ends) - margin, max(ends) + margin)
    several = len({row.runner for row in rows}) > 1
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(qualities)}
    marks: list[str] = []
    for row in rows:
        marks += _point(row, qualities[row.bundle].distance, bounds[row.bundle], x, y,
                        colours[row.bundle], several)  # fmt: skip
    note = "upright: 95 % interval of the rise; level: times from p50 to p95"
    return _chart(x, y, marks, list(colours.items()), note)


def _interval(row: QualityRow, first: QualityRow) -> tuple[float, float]:
    if row.rise is None:
        return row.distance, row.distance
    return first.distance + row.rise.low, first.distance + row.rise.high


def _point(
    row: BenchRow,
    distance: float,
    bounds: tuple[float, float],
    x: Axis,
    y: Axis,
    colour: str,
    with_runner: bool,
) -> Iterator[str]:
    across, up = x.at(row.latency.p50_us / 1e3), y.at(distance)
    far = x.at(row.latency.p95_us / 1e3)
    yield _bar(across, up, far, up, colour, "spread")
    if bounds[0] != bounds[1]:
        yield _bar(across, y.at(bounds[0]), across, y.at(bounds[1]), colour, "bound")
        for end in bounds:
            yield _bar(across - 5, y.at(end), across + 5, y.at(end), colour, "end")
    yield _dot(across, up, colour, name_of(row, with_runner))
    text = f"batch {row.batch}" + (f", {row.runner}" if with_runner else "")
    beyond = across > WIDTH - RIGHT - 150  # it would leave the chart
    anchor, shift = ("end", -9) if beyond else ("start", 9)
    yield (
        f'<text x="{across + shift:.1f}" y="{up - 8:.1f}" text-anchor="{anchor}">{escape(text)}'
        "</text>"
    )


def _upward(name: str, low: float, high: float) -> Axis:
    return Axis(name, low, high, HEIGHT - BOTTOM, TOP)


def _bar(x1: float, y1: float, x2: float, y2: float, colour: str, kind: str) -> str:
    return (
        f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="2"/>'
    )


def _dot(x: float, y: float, colour: str, name: str) -> str:
    return (
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}">'
        f"<title>{escape(name)}</title></circle>"
    )


def _chart(
    x: Axis, y: Axis, marks: Sequence[str], legend: Sequence[tuple[str, str]], note: str
) -> str:
    """A figure of these marks, with grid lines, names of the axes, and a legend below."""
    height = HEIGHT + LEGEND_LINE * len(legend)
    parts = [f'<figure><svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">']
    for value in x.ticks():
        at = x.at(value)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
        )
    for value in y.ticks():
        at = y.at(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" '
        f'y2="{HEIGHT - BOTTOM}"/>',
        f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{escape(x.name)}</text>",
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.name)}</text>",
        *marks,
    ]
    for place, (name, colour) in enumerate(legend):
        at = HEIGHT + place * LEGEND_LINE
        parts.append(
            f'<rect class="key" x="{LEFT}" y="{at}" width="14" height="12" fill="{colour}"/>'
            f'<text x="{LEFT + 22}" y="{at + 11}">{escape(name)}</text>'
        )
    return "\n".join([*parts, f"</svg><figcaption>{escape(note)}</figcaption></figure>"])
