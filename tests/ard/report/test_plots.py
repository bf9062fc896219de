from __future__ import annotations

import math
from dataclasses import replace
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ard.measuring.sensitivity import SensitivityTable
from ard.report.plots import delta_scale, pareto_figure, samples_figure, sensitivity_figure
from nas_gan.errors import InvalidValueError
from nas_gan.pictures.plot_style import save_figure


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


def points(figure: Figure) -> set[tuple[float, float]]:
    lines: list[Any] = [line for axes in figure.axes for line in axes.lines]
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in lines
        for x, y in zip(*line.get_data(), strict=True)
    }


def test_every_trial_is_in_the_pareto_picture(report):
    figure = pareto_figure(report)
    drawn = points(figure)
    for trial in report.trials:
        ratio = round(1_230_000 / trial.params, 6)
        assert (ratio, round(trial.score.rise, 6)) in drawn
    assert (1, 0) in drawn
    assert (3, 12.5) in drawn


def test_the_pareto_picture_names_the_features_and_the_budget(report):
    shown = texts(pareto_figure(report))
    assert "ΔFD (efficientnet-lite0@96) against dense" in shown
    assert "budget +22.3" in shown


def test_the_pareto_picture_measures_what_was_minimised(report):
    trials = tuple(replace(trial, cost=trial.macs) for trial in report.trials)
    dense, small = (replace(t, cost=t.macs) for t in (report.dense, report.compressed))
    by_macs = replace(report, objective="macs", trials=trials, dense=dense, compressed=small)
    figure = pareto_figure(by_macs)
    assert (2.4, 12.5) in points(figure)
    assert "MACs, dense / compressed" in texts(figure)


def test_without_a_budget_no_line_is_drawn_for_one(report):
    free = replace(report, budget=None)
    for figure, drawn in ((pareto_figure(report), True), (pareto_figure(free), False)):
        assert any(text.startswith("budget +") for text in texts(figure)) == drawn


def test_a_budget_of_which_nothing_was_tried_can_be_drawn(report):
    figure = pareto_figure(replace(report, trials=(), budget=0.0))
    save_figure_to_memory(figure)
    # The ends of the lines, the dense generator and the saved model; no plan that was tried.
    assert {x for x, _ in points(figure)} == {0, 1, 3}
    assert "budget +0" in texts(figure)


def test_a_score_that_is_not_finite_is_left_out(report):
    ruined = replace(report.trials[1].score, rise=math.nan)
    trials = (report.trials[0], replace(report.trials[1], score=ruined))
    figure = pareto_figure(replace(report, trials=trials))
    assert not any(math.isnan(y) for _, y in points(figure))
    save_figure_to_memory(figure)


def save_figure_to_memory(figure: Figure) -> None:
    figure.savefig(BytesIO(), format="png", dpi=50)


def test_each_layer_has_its_panel_in_order(report):
    figure = sensitivity_figure(report.table, report.layers, budget=22.3, plan=report.plan)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [layer.name for layer in report.layers]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_a_panel_shows_the_kept_share_of_its_layer(report):
    figure = sensitivity_figure(report.table, report.layers)
    row = report.table.rows[0]
    drawn: list[Any] = list(figure.axes[0].lines)
    [line] = [line for line in drawn if len(line.get_xdata()) == 4]
    share, rise = line.get_xdata()[0], line.get_ydata()[0]
    assert share == row.params / report.layers[0].params_dense
    assert rise == row.score.rise


def test_a_table_alone_shows_parameters(report):
    figure = sensitivity_figure(SensitivityTable(report.table.dense, report.table.rows[:4]))
    assert "parameters of the layer" in texts(figure)
    save_figure_to_memory(figure)


def test_a_layer_name_is_not_read_as_mathematics(report):
    odd = replace(report.table.rows[0], layer=r"$\frac{_broken$")
    figure = sensitivity_figure(SensitivityTable(report.table.dense, (odd,)))
    save_figure_to_memory(figure)  # as mathematics it would be an error
    assert odd.layer in texts(figure)


def test_an_empty_table_is_refused(report):
    with pytest.raises(InvalidValueError, match="no row"):
        sensitivity_figure(SensitivityTable(report.table.dense, ()))


@pytest.mark.parametrize("width_values", [(0.1, -0.2, 500.0), (3.0, 4.0), (), (0.0,)])
def test_a_scale_is_undone_by_its_inverse_and_keeps_0(width_values):
    scale = delta_scale(width_values)
    values = np.array([-300.0, -1.0, 0.0, 0.25, 1e4])
    np.testing.assert_allclose(scale.inverse(scale.forward(values)), values, rtol=1e-12)
    assert scale.forward([0.0])[0] == 0


def test_values_of_one_magnitude_are_drawn_on_a_linear_axis():
    assert delta_scale([1.0, 2.0, 5.0], budget=1.0).width == 0
    assert delta_scale([1.0, 2.0, 500.0], budget=1.0).width == 1.0


def test_black_samples_stay_black_and_their_difference_white():
    black = torch.full((3, 3, 8, 8), -1.0)
    image: Any = samples_figure(black, black, columns=2).axes[0].images[0]
    mosaic = image.get_array()  # (H, W, 3): dense, compressed, difference, twice
    assert mosaic.shape[1] == 2 * 8 + 1
    assert mosaic[:8, :8].max() == 0
    assert mosaic[9:17, :8].max() == 0
    assert mosaic[18:26, :8].min() == 1


def test_samples_may_be_arrays_and_differ_by_half_of_the_range_at_most_in_black():
    dense, small = np.full((1, 3, 8, 8), -1.0), np.full((1, 3, 8, 8), 0.0)
    image: Any = samples_figure(dense, small).axes[0].images[0]
    assert image.get_array()[18:26].max() == 0


def test_grey_samples_are_drawn_as_those_of_three_equal_colours():
    grey = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)
    first, second = (
        np.asarray(samples_figure(images, -images).axes[0].images[0].get_array())
        for images in (grey, grey.expand(-1, 3, -1, -1))
    )
    np.testing.assert_array_equal(first, second)


def test_without_the_difference_there_are_two_rows():
    figure = samples_figure(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), difference=False)
    image: Any = figure.axes[0].images[0]
    assert image.get_array().shape[0] == 2 * 8 + 1
    assert "difference" not in texts(figure)


@pytest.mark.parametrize(
    "shapes",
    [((2, 3, 8, 8), (3, 3, 8, 8)), ((2, 2, 8, 8), (2, 2, 8, 8)), ((0, 3, 8, 8), (0, 3, 8, 8))],
    ids=["numbers differ", "two colours", "none"],
)
def test_samples_that_are_not_pairs_are_refused(shapes):
    first, second = map(torch.zeros, shapes)
    with pytest.raises(InvalidValueError, match="pairs of"):
        samples_figure(first, second)


def test_equal_figures_are_equal_files_and_no_label_is_cut_off(report, tmp_path):
    for name in ("a.png", "b.png"):
        save_figure(pareto_figure(report), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]
    figure = pareto_figure(report)
    figure.draw_without_rendering()
    for text in (figure.axes[0].xaxis.label, figure.axes[0].yaxis.label, figure.axes[0].title):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
