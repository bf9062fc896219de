"""Pictures of particles: worlds side by side, animated and as stills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas_gan.pictures.animation import Pixels
from nas_gan.pictures.particles import Frame
from nas_gan.pictures.plot_style import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    apply_style,
    canvas_pixels,
    figure_pixels,
    new_figure,
)

World = Sequence[Frame]
# Length of an arrow for a movement of 1, as a share of the reach of the axes.
ARROW = 1.1
PANEL = 3.3  # inches


def moving_pictures(worlds: Mapping[str, World], reach: float) -> Iterator[Pixels]:
    """Frames `(h, w, 3)` of worlds side by side, by title; all have the same number of frames.

    Axes go from `-reach` to `reach`.
    """
    figure = new_figure(PANEL * len(worlds), PANEL + 0.75)
    panels = figure.subplots(1, len(worlds), squeeze=False)[0]
    moments = zip(*worlds.values(), strict=True)
    first = next(moments)
    caption = figure.suptitle(_caption(first[0]), x=0.01, ha="left", fontsize=11, color=MUTED)
    moving = []
    for axes, title, frame in zip(panels, worlds, first, strict=True):
        prepare_axes(axes, reach)
        moving.append(draw_frame(axes, frame, reach))
        axes.set_title(title, loc="left", fontsize=11, color=INK)
    _legend(figure, panels[0], first[0])
    yield figure_pixels(figure)
    # The layout of the first frame is that of all, and so is what does not move: axes, titles and
    # legend take most of the time of drawing.
    figure.set_layout_engine("none")
    canvas = FigureCanvasAgg(figure)
    for artist in (caption, *chain.from_iterable(moving)):
        artist.set_visible(False)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    caption.set_visible(True)
    for moment in moments:
        canvas.restore_region(still)
        for axes, before, frame in zip(panels, moving, moment, strict=True):
            for artist in before:
                artist.remove()
            before[:] = draw_frame(axes, frame, reach)
            for artist in sorted(before, key=lambda each: each.get_zorder()):
                axes.draw_artist(artist)
        caption.set_text(_caption(moment[0]))
        figure.draw_artist(caption)
        yield canvas_pixels(canvas)


def film_strip(worlds: Mapping[str, World], moments: Sequence[int], reach: float) -> Figure:
    """Stills of worlds: a row per world, a column for each of `moments`, which index frames."""
    figure = new_figure(2.5 * len(moments) + 0.3, 2.5 * len(worlds) + 0.8)
    rows = figure.subplots(len(worlds), len(moments), squeeze=False, sharex=True, sharey=True)
    for row, (title, world) in zip(rows, worlds.items(), strict=True):
        row[0].set_ylabel(title, fontsize=11, color=INK)
        for axes, moment in zip(row, moments, strict=True):
            prepare_axes(axes, reach)
            draw_frame(axes, world[moment], reach)
    first = next(iter(worlds.values()))
    for axes, moment in zip(rows[0], moments, strict=True):
        axes.set_title(_caption(first[moment]), loc="left", fontsize=10, color=INK)
    _legend(figure, rows[0][0], first[moments[0]])
    return figure


def prepare_axes(axes: Axes, reach: float) -> None:
    """Square axes from `-reach` to `reach`."""
    apply_style(axes, size=8)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.spines[["left", "bottom"]].set_color(GRID)


def draw_frame(axes: Axes, frame: Frame, reach: float) -> list[Artist]:
    """One moment: real particles as discs, generated ones as crosses, movements as arrows."""
    drawn: list[Artist] = []
    if frame.pulls is not None and frame.pushes is not None:
        at = [*frame.real, *frame.fake]
        x, y = [p[0] for p in at], [p[1] for p in at]
        for parts, colour, label in (
            (frame.pulls, BLUE, "attraction"),
            (frame.pushes, ORANGE, "repulsion"),
        ):
            arrows = axes.quiver(
                x, y, ARROW * reach * parts[:, 0], ARROW * reach * parts[:, 1],
                angles="xy", scale_units="xy", scale=1, color=colour, width=0.007, label=label,
                zorder=2,
            )  # fmt: skip
            drawn.append(arrows)
    for points, marker, colour, label in (
        (frame.real, "o", INK, "real"),
        (frame.fake, "X", GREEN, "generated"),
    ):
        drawn += axes.plot(
            points[:, 0], points[:, 1], marker, color=colour, markersize=7,
            markeredgecolor="white", markeredgewidth=0.6, label=label, zorder=3,
        )  # fmt: skip
    return drawn


def _caption(frame: Frame) -> str:
    if frame.pulls is None:
        return f"step {frame.step}"
    return f"step {frame.step}, {'discriminator' if frame.judged else 'generator'} moves"


def _legend(figure: Figure, axes: Axes, frame: Frame) -> None:
    columns = 2 if frame.pulls is None else 4
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5
    )
