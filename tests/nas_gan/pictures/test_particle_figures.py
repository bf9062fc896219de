from typing import Any

import numpy as np

from nas_gan.pictures.particle_figures import film_strip, moving_pictures
from nas_gan.pictures.particles import Frame


def world(judged=True):
    still = np.array([[0.0, 0.0], [1.0, 1.0]])
    parts = np.full((4, 2), 0.5)
    return [Frame(s, judged, still + s, still - s, parts, 0 * parts) for s in (0, 1)]


def test_a_strip_has_a_row_for_each_world_and_a_column_for_each_moment():
    figure = film_strip({"one": world(), "two": world()}, [0, 1], reach=3.0)
    assert len(figure.axes) == 4
    real: Any
    fake: Any
    real, fake = figure.axes[3].lines
    assert real.get_xdata().tolist() == [1, 2]
    assert fake.get_xdata().tolist() == [-1, 0]
    assert figure.axes[1].get_title(loc="left") == "step 1, discriminator moves"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "attraction", "repulsion", "real", "generated",
    ]  # fmt: skip


def test_an_animation_has_a_picture_for_each_moment_that_differ():
    first, second = moving_pictures({"one": world()}, reach=3.0)
    assert first.shape == second.shape
    assert not np.array_equal(first, second)


def test_a_frame_of_an_animation_is_what_drawing_it_whole_gives():
    frames = [*world(), *reversed(world())]
    moving = list(moving_pictures({"one": frames, "two": frames[::-1]}, reach=3.0))
    for k, picture in enumerate(moving):
        alone = {"one": frames[k:], "two": frames[::-1][k:]}
        assert np.array_equal(picture, next(moving_pictures(alone, reach=3.0)))


def test_without_parts_there_are_no_arrows():
    frames = [Frame(0, False, np.zeros((2, 2)), np.ones((2, 2)))]
    figure = film_strip({"one": frames}, [0], reach=3.0)
    assert not figure.axes[0].collections
    assert figure.axes[0].get_title(loc="left") == "step 0"
