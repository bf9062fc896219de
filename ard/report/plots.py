"""Figures of a compression: the plans that were tried, the sensitivities, and sample images.

Figures are made without pyplot, so no global state changes and no window opens. Colours are those
of Okabe and Ito, which colour-blind readers can tell apart; markers differ as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from ard.costs.objectives import objective_axis
from ard.factorization.method import Mark
from ard.factorization.methods import METHODS
from ard.measuring.score import Score
from ard.measuring.sensitivity import Row, SensitivityTable
from ard.plan import Factorization, RankPlan
from ard.report.values import CompressionReport, LayerRow, engineering, plain_number
from nas_gan.errors import InvalidValueError
from nas_gan.pictures.plot_style import BLUE, GREEN, INK, MUTED, VERMILION, apply_style

Images = npt.NDArray[Any] | Tensor


class DeltaScale(NamedTuple):
    """The scale of an axis of rises: `asinh(value / width)`, or linear if the width is 0.

    The axis is linear near 0, so that small rises keep their proportions, and logarithmic beyond
    `width`, so that one ruined layer does not squeeze all others together.
    """

    width: float
    ticks: tuple[float, ...]

    def forward(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Values to positions."""
        array = np.asarray(values, dtype=np.float64)
        return np.arcsinh(array / self.width) if self.width else array

    def inverse(self, positions: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Positions to values."""
        array = np.asarray(positions, dtype=np.float64)
        return np.sinh(array) * self.width if self.width else array


def delta_scale(values: Iterable[float], budget: float | None = None) -> DeltaScale:
    """A scale for `values`: linear if they are of similar size, else with the budget as width."""
    sizes = [abs(v) for v in values if math.isfinite(v) and v]
    if not sizes:
        return DeltaScale(0, ())
    top = max(sizes)
    width = budget or float(np.median(sizes))
    if top <= 6 * width:
        return DeltaScale(0, ())
    decades = range(math.floor(math.log10(width)), math.ceil(math.log10(top)) + 1)
    steps = (1, 3) if len(decades) <= 4 else (1,)
    candidates = [step * 10.0**decade for decade in decades for step in steps]
    positive = [v for v in candidates if v >= width / 3]  # smaller ones would crowd around 0
    return DeltaScale(width, (*(-v for v in reversed(positive)), 0.0, *positive))


def tick_text(value: float) -> str:
    """`+100`, `0`, `−0.3`."""
    return "0" if value == 0 else f"{value:+.6g}".replace("-", "−")


def is_drawable(score: Score) -> bool:
    """Whether a score is finite; that of a plan that ruins the generator may not be."""
    return all(map(math.isfinite, (score.rise, score.ci_low, score.ci_high)))


def pareto_axis(report: CompressionReport) -> str:
    """The label of the x axis: the objective, dense over compressed."""
    return f"{objective_axis(report.objective)}, dense / compressed"


def _draw_budget(axes: Axes, budget: float) -> None:
    """The budget as a line with its number, and what lies within it."""
    axes.axhline(budget, color=INK, linestyle=(0, (5, 3)), linewidth=1.4, zorder=1)
    axes.axhspan(axes.get_ylim()[0], budget, color=BLUE, alpha=0.05, zorder=0, linewidth=0)
    axes.text(
        0.995,
        budget,
        f"budget +{plain_number(budget)}",
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="bottom",
        color=INK,
        fontsize=10,
    )


def pareto_figure(report: CompressionReport) -> Figure:
    """Compression against rise for every measured plan, with the budget as a line."""
    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    trials = [t for t in report.trials if is_drawable(t.score)]
    saved = report.dense.cost / report.compressed.cost
    shown = [
        *(t.score for t in trials),
        *(e for e in (report.recovered, report.factorized) if is_drawable(e)),
    ]
    ends = [v for e in shown for v in (e.ci_low, e.ci_high)]
    apply_scale(axes, delta_scale(ends, report.scale), [*ends, 0.0, report.scale])

    axes.axhline(0, color=MUTED, linewidth=1, zorder=1)
    if report.budget is not None:
        _draw_budget(axes, report.budget)
    axes.plot([1], [0], "o", color=INK, markersize=9, label="dense generator", zorder=4)
    for within, colour, marker, label in (
        (True, BLUE, "o", "within the budget"),
        (False, VERMILION, "X", "over the budget"),
    ):
        group = [t for t in trials if t.within_budget == within]
        if group:
            x = [report.dense.cost / t.cost for t in group]
            _points(axes, x, [t.score for t in group], colour, marker, label)
    chosen = list(filter(report.is_saved, trials))
    for trial in chosen:
        axes.plot(
            [report.dense.cost / trial.cost],
            [trial.score.rise],
            "o",
            markersize=17,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.6,
            label="the chosen plan",
            zorder=5,
        )
    for score, marker, face, size, label in (
        (report.factorized, "v", "white", 9, "the same before recovery, held-out latents"),
        (report.recovered, "*", GREEN, 17, "the saved model, held-out latents"),
    ):
        if is_drawable(score):
            _points(axes, [saved], [score], GREEN, marker, label, face=face, size=size)

    if is_drawable(report.factorized) and is_drawable(report.recovered):
        ends = [report.factorized.rise, report.recovered.rise]
        axes.plot([saved, saved], ends, color=GREEN, linestyle=":", linewidth=1.3, zorder=2)
    axes.set_xlabel(pareto_axis(report), color=INK, fontsize=11)
    axes.set_ylabel(f"Δ{report.distance_in_features} against dense", color=INK, fontsize=11)
    axes.set_title("Whole plans that were tried", loc="left", color=INK, fontsize=13, pad=10)
    axes.margins(x=0.08)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    apply_style(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    return figure


def sensitivity_figure(
    table: SensitivityTable,
    layers: Sequence[LayerRow] = (),
    *,
    budget: float | None = None,
    plan: RankPlan | None = None,
    distance: str = "FD",
) -> Figure:
    """One small panel per layer: rise against the share of the layer's parameters that is kept.

    Activations, which have none to keep, are left out. All panels share both axes, so heights are
    comparable across layers. Hollow markers are estimates (see `ard.search.proxy`).

    Args:
        table: the sensitivities.
        layers: the dense sizes of the layers. Without them, panels show parameters instead of
            shares, each on an x axis of its own.
        budget: the allowed rise, drawn as a line.
        plan: a plan whose choices are circled.
        distance: the label of the metric.

    Raises:
        InvalidValueError: the table has no rows.
    """
    rows_of_layers = [row for row in table.rows if isinstance(row.choice, Factorization)]
    names = list(dict.fromkeys(row.layer for row in rows_of_layers))
    if not names:
        raise InvalidValueError("the sensitivity table has no rows; there is nothing to draw")
    dense = {layer.name: layer.params_dense for layer in layers}
    shares = all(name in dense for name in names)
    columns = min(len(names), 5 if len(names) > 12 else 4)
    n_rows = math.ceil(len(names) / columns)
    figure = Figure(
        figsize=(2.35 * columns + 0.9, 1.75 * n_rows + 1.3), layout="constrained", facecolor="white"
    )
    grid = figure.subplots(n_rows, columns, sharex=shares, sharey=True, squeeze=False)
    measured = [row for row in rows_of_layers if is_drawable(row.score)]
    values = [row.score.rise for row in measured]
    scale = delta_scale(values, budget)
    panels: list[Axes] = list(grid.flat)
    for axes, name in zip(panels, names, strict=False):
        apply_scale(axes, scale, [*values, 0.0, *([budget] if budget else [])])
        axes.axhline(0, color=MUTED, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        if budget is not None:
            axes.axhline(budget, color=INK, linestyle=(0, (1, 1.5)), linewidth=1.2, zorder=1)
        for method in METHODS.values():
            rows = [r for r in measured if r.layer == name and r.choice.method == method.name]
            _curve(axes, rows, dense[name] if shares else None, method.mark, plan)
        axes.set_title(_fit(name), fontsize=9, color=INK, loc="left", pad=4, parse_math=False)
        apply_style(axes, size=8)
        if shares:
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: engineering(value)))
    for axes in panels[len(names) :]:
        axes.remove()
    for axes in panels[max(0, len(names) - columns) : len(names)]:
        axes.tick_params(labelbottom=True)
    kept = "share of the layer's parameters kept" if shares else "parameters of the layer"
    figure.supxlabel(kept, fontsize=11, color=INK)
    figure.supylabel(f"Δ{distance} against dense", fontsize=11, color=INK)
    figure.legend(
        handles=_sensitivity_legend(measured, budget, plan),
        loc="outside upper left",
        ncols=6,
        frameon=False,
        fontsize=9.5,
        title="One layer factorized, all others dense",
        title_fontsize=13,
        alignment="left",
    )
    return figure


def samples_figure(
    dense: Images, compressed: Images, *, columns: int = 8, difference: bool = True
) -> Figure:
    """Pairs of images on the same latents, one above the other.

    Args:
        dense: images `(n, c, h, w)` in [-1, 1] of the dense generator, with 3 channels or 1.
        compressed: those of the compressed generator.
        columns: pairs per row.
        difference: add a row with the absolute difference, averaged over the channels; black is
            half the range from black to white.

    Raises:
        InvalidValueError: the shapes differ or are not those of images.
    """
    pictures = [_to_pixels(images) for images in (dense, compressed)]  # (n, h, w, 3) in [0, 1]
    first, second = pictures
    if first.shape != second.shape or first.ndim != 4 or not len(first):
        raise InvalidValueError(
            "samples must be pairs of (n, 3 or 1, h, w) images; got "
            f"{tuple(dense.shape)} dense and {tuple(compressed.shape)} compressed ones"
        )
    labels = ["dense", "compressed"]
    if difference:
        labels.append("difference")
        gap = np.abs(first - second).mean(axis=3, keepdims=True)  # (n, h, w, 1)
        pictures.append(np.repeat(1 - np.clip(2 * gap, 0, 1), 3, axis=3))
    mosaic, middles = _mosaic(pictures, min(columns, len(first)))  # (H, W, 3)

    height, width, _ = mosaic.shape
    picture_width, margin, header = 8.2, 1.1, 0.5  # inches
    picture_height = picture_width * height / width
    total = (picture_width + margin + 0.1, picture_height + header + 0.1)
    figure = Figure(figsize=total, facecolor="white")
    box = (
        margin / total[0],
        0.1 / total[1],
        picture_width / total[0],
        picture_height / total[1],
    )
    axes = figure.add_axes(box)
    axes.imshow(mosaic, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for i, middle in enumerate(middles):
        label = labels[i % len(labels)]
        axes.text(-0.01 * width, middle, label, ha="right", va="center", fontsize=11, color=INK)
    note = "; difference: white is none, black half of the range" if difference else ""
    figure.text(
        margin / total[0],
        1 - 0.18 / total[1],
        f"The same latents through both generators{note}",
        fontsize=11.5,
        color=INK,
        va="top",
    )
    return figure


def apply_scale(axes: Axes, scale: DeltaScale, values: Sequence[float]) -> None:
    """Set the scale and the limits of the y axis, with a margin around all `values`."""
    if scale.width:
        axes.set_yscale("function", functions=(scale.forward, scale.inverse))
        axes.yaxis.set_major_locator(FixedLocator(scale.ticks))
        axes.yaxis.set_minor_locator(NullLocator())
    low, high = scale.forward([min(values), max(values)])
    air = 0.07 * (high - low) or 1.0
    bottom, top = scale.inverse([low - air, high + air])
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))


def _points(
    axes: Axes,
    x: Sequence[float],
    scores: Sequence[Score],
    colour: str,
    marker: str,
    label: str,
    *,
    face: str | None = None,
    size: float = 9,
) -> None:
    """Markers with the interval of each score as an error bar."""
    y = [e.rise for e in scores]
    # An interval need not contain its point: a bootstrap may be skewed.
    below = [max(0.0, e.rise - e.ci_low) for e in scores]
    above = [max(0.0, e.ci_high - e.rise) for e in scores]
    axes.errorbar(
        x,
        y,
        yerr=(below, above),
        fmt=marker,
        color=colour,
        markersize=size,
        markerfacecolor=face or colour,
        markeredgecolor=colour if face else "white",
        markeredgewidth=1.4 if face else 0.8,
        elinewidth=1.4,
        capsize=3.5,
        label=label,
        zorder=3,
    )


def _curve(
    axes: Axes,
    rows: Sequence[Row],
    dense_params: int | None,
    mark: Mark,
    plan: RankPlan | None,
) -> None:
    """One method in one panel, with its choices connected in order of size."""
    if not rows:
        return
    rows = sorted(rows, key=lambda row: row.params)
    x = [row.params / (dense_params or 1) for row in rows]
    y = [row.score.rise for row in rows]
    low = [row.score.ci_low for row in rows]
    high = [row.score.ci_high for row in rows]
    axes.vlines(x, low, high, color=mark.colour, linewidth=1, alpha=0.55, zorder=2)
    axes.plot(
        x,
        y,
        marker=mark.marker,
        color=mark.colour,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        linewidth=1.3,
        zorder=3,
    )
    estimated = [i for i, row in enumerate(rows) if not row.score.measured]
    axes.plot(
        [x[i] for i in estimated],
        [y[i] for i in estimated],
        linestyle="none",
        marker=mark.marker,
        markersize=4.5,
        markerfacecolor="white",
        markeredgecolor=mark.colour,
        zorder=3,
    )
    for row, position in zip(rows, x, strict=True):
        if plan is not None and plan.get(row.layer) == row.choice:
            axes.plot(
                [position],
                [row.score.rise],
                "o",
                markersize=11,
                markerfacecolor="none",
                markeredgecolor=INK,
                markeredgewidth=1.3,
                zorder=4,
            )


def _sensitivity_legend(
    rows: Sequence[Row], budget: float | None, plan: RankPlan | None
) -> list[Line2D]:
    used = {row.choice.method for row in rows}
    handles = [
        Line2D([], [], color=mark.colour, marker=mark.marker, markersize=6, label=method.name)
        for method in METHODS.values()
        if method.name in used and (mark := method.mark)
    ]
    if any(not row.score.measured for row in rows):
        hollow = Line2D([], [], linestyle="none", marker="o", markersize=6, label="estimated")
        hollow.set(markerfacecolor="white", markeredgecolor=MUTED)
        handles.append(hollow)
    if plan is not None:
        ring = Line2D([], [], linestyle="none", marker="o", markersize=10, label="chosen")
        ring.set(markerfacecolor="none", markeredgecolor=INK)
        handles.append(ring)
    if budget is not None:
        label = f"whole budget, +{plain_number(budget)}"
        handles.append(Line2D([], [], color=INK, linestyle=(0, (1, 1.5)), label=label))
    return handles


def _fit(name: str, length: int = 25) -> str:
    """The end of a module path, which distinguishes layers better than its start."""
    return name if len(name) <= length else "…" + name[1 - length :]


def _to_pixels(images: Images) -> npt.NDArray[np.float64]:
    """`(n, 3 or 1, h, w)` in [-1, 1] to `(n, h, w, 3)` in [0, 1]; empty for any other shape."""
    if isinstance(images, Tensor):
        images = images.detach().cpu().numpy()
    pixels = np.clip((np.asarray(images, dtype=np.float64) + 1) / 2, 0, 1)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        return pixels[:0]
    return np.repeat(pixels.transpose(0, 2, 3, 1), 3 // pixels.shape[1], axis=3)


def _mosaic(
    pictures: Sequence[npt.NDArray[np.float64]], columns: int
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """Rows of all pictures in turn, in blocks of `columns` images, and the middle of each row."""
    n, height, width, _ = pictures[0].shape
    gap, block_gap = max(1, height // 16), max(3, height // 4)
    blocks = math.ceil(n / columns)
    block_height = len(pictures) * (height + gap) - gap + block_gap
    size = (blocks * block_height - block_gap, columns * (width + gap) - gap, 3)
    mosaic = np.ones(size)  # (H, W, 3), white
    middles = []
    for block in range(blocks):
        for i, images in enumerate(pictures):
            top = block * block_height + i * (height + gap)
            middles.append(top + (height - 1) / 2)
            for column, image in enumerate(images[block * columns : (block + 1) * columns]):
                left = column * (width + gap)
                mosaic[top : top + height, left : left + width] = image
    return mosaic, middles
