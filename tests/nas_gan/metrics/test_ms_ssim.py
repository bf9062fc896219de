from __future__ import annotations

import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.ms_ssim import draw_pairs, similarity


def grey(*levels: int) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)


def test_equal_images_are_as_alike_as_can_be():
    pytest.importorskip("pytorch_msssim")
    result = similarity(grey(90, 90, 90), pairs=3)
    assert result.mean == pytest.approx(1)
    assert (result.within, result.pairs, result.n, result.size) == ("all", 3, 3, 256)


def test_flat_images_differ_by_their_brightness_at_the_last_scale():
    pytest.importorskip("pytorch_msssim")
    # Contrast and structure agree at every scale; the luminance term has the weight 0.1333.
    a, b, c1 = 50, 200, (0.01 * 255) ** 2
    expected = ((2 * a * b + c1) / (a * a + b * b + c1)) ** 0.1333
    # The variance of a flat image, E[x²] - E[x]², leaves rounding of float32 beside C2 = 58.
    assert similarity(grey(a, b), pairs=2).mean == pytest.approx(expected, rel=1e-3)


def test_pairs_within_a_class_are_of_one_class():
    labels = torch.tensor([0, 1, 0, 1, 2, 0])
    pairs = draw_pairs(6, labels, 50, 0)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert torch.equal(labels[pairs[:, 0]], labels[pairs[:, 1]])
    assert set(labels[pairs[:, 0]].tolist()) == {0, 1}  # of class 2 there is only one


def test_a_generator_of_one_image_a_class_is_seen_within_classes_only():
    pytest.importorskip("pytorch_msssim")
    images, labels = grey(20, 20, 220, 220), torch.tensor([0, 0, 1, 1])
    assert similarity(images, labels, pairs=4).mean == pytest.approx(1)
    assert similarity(images, pairs=4).mean < 0.99


def test_a_single_image_is_refused():
    with pytest.raises(InvalidValueError, match="give none"):
        draw_pairs(1, None, 5, 0)
    with pytest.raises(InvalidValueError, match="of one class"):
        draw_pairs(2, torch.tensor([0, 1]), 5, 0)
