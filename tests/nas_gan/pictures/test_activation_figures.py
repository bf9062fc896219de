from typing import Any

import numpy as np
import pytest
import torch
from legends import covered_curves
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import ACTIVATIONS, OUTPUT_ACTIVATIONS, PMish, make_activation
from nas_gan.pictures.activation_figures import (
    SWEEPS,
    betas_figure,
    derivatives,
    families_figure,
    landscape,
    landscape_figure,
    outputs_figure,
    pmish_figure,
)
from nas_gan.pictures.plot_style import figure_pixels, save_figure


@pytest.mark.parametrize("draw", [pmish_figure, families_figure, outputs_figure])
def test_no_legend_covers_a_curve(draw):
    assert covered_curves(draw()) == []


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_derivatives_are_those_of_calculus():
    x = np.linspace(-2, 2, 9)
    found = derivatives(lambda t: t**3, x)
    np.testing.assert_allclose(found.value, x**3)
    np.testing.assert_allclose(found.first, 3 * x**2)
    np.testing.assert_allclose(found.second, 6 * x)


def test_a_straight_line_has_no_second_derivative():
    assert derivatives(lambda t: 2 * t, [0.0, 1.0]).second.tolist() == [0, 0]


def test_pmish_is_drawn_with_the_published_values():
    curves: list[Any] = list(pmish_figure().axes[0].lines)
    assert [line.get_label() for line in curves] == ["β = 0.5", "β = 1", "β = 2", "β = 5"]
    # The value at x = -1 as the paper's formula gives it.
    published = (-0.738946, -0.303401, -0.063379, -0.001343)
    for line, value in zip(curves, published, strict=True):
        assert np.interp(-1, line.get_xdata(), line.get_ydata()) == pytest.approx(value, abs=1e-6)


def test_every_activation_has_its_panel_and_its_parameter_is_one_that_it_has():
    assert titles(families_figure()) == list(ACTIVATIONS)
    shown = {title.partition(" ")[0] for title in titles(outputs_figure())}
    assert shown == set(OUTPUT_ACTIVATIONS)
    for name in set(SWEEPS) & set(ACTIVATIONS):
        assert hasattr(make_activation(name), SWEEPS[name][0])


def test_the_bars_are_the_learned_betas_of_every_site(tiny_generator):
    sites = [m for m in tiny_generator.modules() if isinstance(m, PMish)]
    with torch.no_grad():
        for number, site in enumerate(sites):
            site.beta.fill_(number / 10)
    bars: Any
    histogram: Any
    bars, histogram = betas_figure(tiny_generator).axes
    heights = [patch.get_height() for patch in bars.patches]
    np.testing.assert_allclose(heights, np.arange(len(sites)) / 10, atol=1e-6)
    assert len(histogram.patches) == 8
    assert sum(patch.get_height() for patch in histogram.patches) == len(sites)
    labels = [label.get_text() for label in bars.get_xticklabels()]
    assert {"cell1 up0", "cell2 c4", "to_rgb"} <= set(labels)
    assert len(set(labels)) == len(sites)


def test_a_parameter_with_many_values_is_drawn_as_mean_and_range():
    net: Any = nn.Sequential(make_activation("swish", shape=(3,)))
    with torch.no_grad():
        net[0].beta.copy_(torch.tensor([1.0, 2.0, 6.0]))
    bars: Any = betas_figure(net).axes[0]
    assert [patch.get_height() for patch in bars.patches] == [3.0]
    [line] = bars.collections[0].get_segments()
    assert line[:, 1].tolist() == [1.0, 6.0]


def test_a_net_without_learned_activations_is_refused():
    with pytest.raises(InvalidValueError, match=r"a\.pt: no activation has parameters"):
        betas_figure(nn.Sequential(nn.ReLU()), "a.pt")


def test_a_net_without_a_bend_is_a_plane():
    heights = landscape(nn.Identity(), np.linspace(-1, 1, 5))
    np.testing.assert_allclose(np.diff(heights, 2, axis=0), 0, atol=1e-4)  # float32
    np.testing.assert_allclose(np.diff(heights, 2, axis=1), 0, atol=1e-4)
    assert np.abs(np.diff(landscape(nn.ReLU(), np.linspace(-1, 1, 5)), 2)).max() > 1e-2


def test_figures_become_files_and_frames(tmp_path):
    figure = landscape_figure([("relu", {}), ("pmish", {"beta": 5.0})])
    assert titles(figure) == ["relu", "pmish, beta 5"]
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    pixels = figure_pixels(figure)
    assert pixels.dtype == np.uint8
    assert pixels.shape[1] / pixels.shape[0] == pytest.approx(5.8 / 3.6, abs=0.02)
