from __future__ import annotations

import numpy as np
import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.precision_recall import precision_recall

pytest.importorskip("torch_fidelity")


def on_a_line(*positions: float) -> np.ndarray:
    return np.array(positions, np.float32)[:, None]


def test_images_on_a_line_worked_out_by_hand():
    # One neighbour. Real 0, 1, 10, 11 reach 1 far; generated 0.5, 1.5 reach 1, 30 and 31 reach 1.
    real, generated = on_a_line(0, 1, 10, 11), on_a_line(0.5, 1.5, 30, 31)
    result = precision_recall(generated, real, neighbours=1)
    assert result.precision == 0.5  # 0.5 and 1.5 are near 0 or 1; 30 and 31 near nothing
    assert result.recall == 0.5  # 0 and 1 are near 0.5; 10 and 11 near nothing
    assert (result.neighbours, result.n, result.n_reference) == (1, 4, 4)


def test_a_generator_of_one_good_image_is_precise_and_recalls_little():
    real = on_a_line(*range(20))
    collapsed = on_a_line(*(10 + 1e-3 * np.arange(20)))
    result = precision_recall(collapsed, real)
    assert result.precision == 1
    assert result.recall == pytest.approx(0.05)  # 10 alone is within reach


def test_no_more_images_than_neighbours_are_refused():
    with pytest.raises(InvalidValueError, match="at least 4 images on each side; got 3 and 9"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
