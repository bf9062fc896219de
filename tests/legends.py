"""Whether the legends of a figure leave its curves free, for the tests of whoever draws."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def covered_curves(figure: Figure) -> list[str]:
    """The curves that run behind a legend, by the titles of their axes and their names."""
    FigureCanvasAgg(figure).draw()
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    boxes = [legend.get_window_extent() for legend in legends]
    found = []
    for axes in figure.axes:
        for line in axes.lines:
            points = axes.transData.transform(dense(np.asarray(line.get_xydata(), dtype=float)))
            seen = axes.bbox.contains
            if any(seen(*point) and box.contains(*point) for point in points for box in boxes):
                found.append(f"{axes.get_title(loc='left')}: {line.get_label()}")
    return found


def dense(points: np.ndarray, n: int = 20) -> np.ndarray:
    """The points of a line `(k, 2)`, and `n` on each of its segments."""
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 2:
        return points
    share = np.linspace(0, 1, n)[None, :, None]
    return (points[:-1, None] * (1 - share) + points[1:, None] * share).reshape(-1, 2)
