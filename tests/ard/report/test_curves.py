from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
from contracts import scored
from legends import covered_curves
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ard.report.curves import COLOURS, MARKERS, Curve, curves_figure
from nas_gan.errors import InvalidValueError

GOOD = Curve("ours", ((4.0, scored(3)), (2.0, scored(1)), (3.0, scored(2))))
ROUGH = Curve("uniform", ((2.0, scored(4)), (3.0, scored(math.nan))), dashed=True)


def drawn(figure: Figure) -> list[list[tuple[float, float]]]:
    """The points of every line of the data; a cap of a bar has some of its own."""
    [axes] = figure.axes
    lines = [np.column_stack([*line.get_data()]) for line in axes.lines]
    return [[(float(x), float(y)) for x, y in points] for points in lines if len(points) != 2]


def names(figure: Figure) -> list[str]:
    [legend] = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_the_legend_covers_no_curve_wherever_the_curves_are() -> None:
    everywhere = [
        Curve(f"curve {k}", tuple((1.0 + x, scored((x * (k + 1)) % 7)) for x in range(8)))
        for k in range(6)
    ]
    assert covered_curves(curves_figure(everywhere)) == []


def test_points_are_joined_from_mild_to_harsh() -> None:
    assert [(2, 1), (3, 2), (4, 3)] in drawn(curves_figure([GOOD]))


def test_a_bar_spans_the_interval_also_where_it_does_not_hold_its_point() -> None:
    skewed = Curve("skewed", ((2.0, scored(1, half=0.5)), (3.0, scored(5, half=-1))))
    [axes] = curves_figure([skewed]).axes
    [bars] = axes.collections
    assert isinstance(bars, LineCollection)
    ends = [sorted(float(y) for _, y in segment) for segment in bars.get_segments()]
    assert ends == [pytest.approx([0.5, 1.5]), pytest.approx([5, 5])]


def test_points_without_a_finite_score_are_left_out() -> None:
    figure = curves_figure([GOOD, ROUGH])
    assert names(figure) == ["ours", "uniform"]
    assert [(2, 4)] in drawn(figure)


def test_a_curve_without_a_point_has_no_line_and_no_name() -> None:
    assert names(curves_figure([GOOD, Curve("empty", ())])) == ["ours"]


@pytest.mark.parametrize(
    "curves", [[], [Curve("empty", ())], [Curve("nan", ((1, scored(math.nan)),))]]
)
def test_nothing_to_draw_is_an_error(curves: list[Curve]) -> None:
    with pytest.raises(InvalidValueError, match="no curve has a finite point"):
        curves_figure(curves)


def test_axes_say_what_they_show() -> None:
    [axes] = curves_figure([GOOD], distance="FID", axis="MACs", title="All of it").axes
    assert axes.get_xlabel() == "MACs, dense / compressed"
    assert axes.get_ylabel() == "ΔFID against dense"
    assert axes.get_title(loc="left") == "All of it"
    assert axes.xaxis.get_major_formatter()(2.5, 0) == "2.5×"


def test_more_curves_than_colours_differ_by_name_only() -> None:
    curves = [Curve(f"c{i}", ((float(i + 1), scored(i)),)) for i in range(len(COLOURS) + 2)]
    assert names(curves_figure(curves)) == [curve.name for curve in curves]
    assert len(COLOURS) == len(MARKERS) == len(set(COLOURS))


def test_rises_of_many_magnitudes_are_drawn() -> None:
    wide = Curve("wide", tuple((float(i), scored(10.0**i)) for i in range(1, 6)))
    with BytesIO() as file:
        curves_figure([wide]).savefig(file, format="png", dpi=50)
        assert file.getvalue().startswith(b"\x89PNG")
