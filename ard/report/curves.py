"""A figure of compression against rise, with several ways of choosing ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ard.measuring.score import Score
from ard.report.plots import apply_scale, delta_scale, is_drawable
from nas_gan.errors import InvalidValueError
from nas_gan.pictures.plot_style import CYCLE, INK, MUTED, apply_style

COLOURS = (*CYCLE, MUTED)
MARKERS = ("o", "s", "^", "D", "v", "X")


@dataclass(frozen=True)
class Curve:
    """Named points `(dense over compressed, score)`."""

    name: str
    points: tuple[tuple[float, Score], ...]
    dashed: bool = False


def curves_figure(
    curves: Sequence[Curve], *, distance: str = "FD", axis: str = "parameters", title: str = ""
) -> Figure:
    """One line per curve, with the 95 % interval of each point as an error bar.

    Raises:
        InvalidValueError: no curve has a finite point.
    """
    shown = [
        (curve, sorted((p for p in curve.points if is_drawable(p[1])), key=lambda p: p[0]))
        for curve in curves
    ]
    values = [v for _, points in shown for _, e in points for v in (e.ci_low, e.ci_high)]
    if not values:
        raise InvalidValueError("no curve has a finite point; there is nothing to draw")
    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    apply_scale(axes, delta_scale(values), [*values, 0.0])
    axes.axhline(0, color=MUTED, linewidth=1, zorder=1)
    for number, (curve, points) in enumerate(shown):
        if not points:
            continue
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        x = [ratio for ratio, _ in points]
        y = [e.rise for _, e in points]
        # An interval need not contain its point: a bootstrap may be skewed.
        below = [max(0.0, e.rise - e.ci_low) for _, e in points]
        above = [max(0.0, e.ci_high - e.rise) for _, e in points]
        axes.errorbar(
            x,
            y,
            yerr=(below, above),
            fmt=marker,
            linestyle=(0, (4, 2)) if curve.dashed else "-",
            color=colour,
            markersize=6,
            markerfacecolor="white" if curve.dashed else colour,
            markeredgecolor=colour,
            linewidth=1.6,
            elinewidth=1,
            capsize=2.5,
            label=curve.name,
        )
    axes.set_xlabel(f"{axis}, dense / compressed", color=INK, fontsize=11)
    axes.set_ylabel(f"Δ{distance} against dense", color=INK, fontsize=11)
    axes.set_title(title, loc="left", color=INK, fontsize=13, pad=10)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    apply_style(axes)
    # Below the axes: wherever it is best inside, it may cover the point that is looked for.
    named = sum(bool(points) for _, points in shown)
    figure.legend(loc="outside lower center", ncols=min(named, 4), frameon=False, fontsize=10)
    return figure
