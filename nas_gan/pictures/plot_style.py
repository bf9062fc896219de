"""The style of figures: quiet axes and colours that colour-blind readers can distinguish.

Figures are made without pyplot, so that no global state changes and no window opens. The colours
are those of Okabe and Ito.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas_gan.files import atomic_path
from nas_gan.pictures.animation import Pixels

INK, MUTED, GRID = "#1f2430", "#667085", "#e4e7ec"
BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE)
DPI = 150
GIF_DPI = 80


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, width and height in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def apply_style(axes: Axes, size: float = 10) -> None:
    """Quiet axes: a light grid, no frame on top and right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=size, length=0, labelcolor=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_path(path) as temporary:
        # Without the version of matplotlib, equal figures are equal files.
        figure.savefig(temporary, dpi=DPI, metadata={"Software": None})


def figure_pixels(figure: Figure) -> Pixels:
    """A figure as bytes `(h, w, 3)`, for a frame of an animation."""
    figure.set_dpi(GIF_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas_pixels(canvas)


def canvas_pixels(canvas: FigureCanvasAgg) -> Pixels:
    """What has been drawn, as bytes `(h, w, 3)`."""
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
