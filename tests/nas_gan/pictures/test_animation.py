import numpy as np
import pytest
from PIL import Image

from nas_gan.errors import InvalidValueError
from nas_gan.pictures.animation import save_animation


def test_a_gif_holds_the_frames_for_their_time_and_repeats(tmp_path):
    frames = [np.full((4, 6, 3), level, np.uint8) for level in (0, 128, 255)]
    save_animation(frames, tmp_path / "a.gif", fps=10)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (getattr(gif, "n_frames", 1), gif.size, gif.info["loop"]) == (3, (6, 4), 0)
        for number, frame in enumerate(frames):
            gif.seek(number)
            assert gif.info["duration"] == 100
            np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), frame)


@pytest.mark.parametrize(
    ("name", "n", "fps", "message"),
    [("a.png", 1, 10, "is a .gif file"), ("a.gif", 0, 10, "one frame"), ("a.gif", 1, 0, "fps")],
)
def test_what_is_no_animation_is_refused_and_leaves_no_file(tmp_path, name, n, fps, message):
    with pytest.raises(InvalidValueError, match=message):
        save_animation([np.zeros((2, 2, 3), np.uint8)] * n, tmp_path / name, fps=fps)
    assert list(tmp_path.iterdir()) == []
