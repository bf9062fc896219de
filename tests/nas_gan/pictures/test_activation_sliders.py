import numpy as np
import pytest

from nas_gan.pictures.activation_sliders import panels, sliders_figure


@pytest.fixture(scope="module")
def figure():
    return sliders_figure((0.5, 2.0))


def choose(figure, label):
    """The slider that a choice of the menu puts up."""
    (menu,) = figure.layout.updatemenus
    (button,) = [button for button in menu.buttons if button.label == label]
    return button.args[1]["sliders"][0]


def test_a_slider_draws_the_curve_of_its_value(figure):
    x = np.array(figure.data[0].x)
    low, high = choose(figure, "bhaa (-1, 1): t1")["steps"]
    assert (low["label"], high["label"]) == ("0.5", "2")
    for step, t1 in ((low, 0.5), (high, 2.0)):
        # lambda 0.5 and t2 0.25, the middle of their starts.
        expected = 0.5 * (np.hypot(1 + x, 2 * t1) - np.hypot(1 - x, 0.5))
        np.testing.assert_allclose(step["args"][0]["y"][0], expected, atol=6e-4)


def test_the_slope_is_drawn_beside_it(figure):
    value, slope = choose(figure, "swish: beta")["steps"][1]["args"][0]["y"]
    x = np.array(figure.data[0].x)
    # The curves are rounded to three decimals, and a difference over two points is off by more.
    np.testing.assert_allclose(np.gradient(value, x)[1:-1], slope[1:-1], atol=0.02)


def test_every_learned_parameter_can_be_moved(figure):
    labels = [button.label for button in figure.layout.updatemenus[0].buttons]
    assert labels == [f"{panel.title}: {panel.parameter}" for panel in panels()]
    for name in ("pmish: beta", "mida: t", "mida_old: b", "bhsa (0, 1): slope", "dsilu (-1, 1): b"):
        assert name in labels
    assert not any(label.startswith("relu") for label in labels)
