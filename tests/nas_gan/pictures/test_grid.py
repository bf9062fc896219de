import numpy as np
import pytest
import torch
from PIL import Image

from nas_gan.errors import InvalidValueError
from nas_gan.pictures.grid import grid_image, grid_pixels, save_grid


def test_a_grid_is_row_by_row_with_a_pixel_between():
    images = torch.stack([torch.full((3, 2, 2), level) for level in (-1.0, 0.0, 1.0)])
    picture = grid_image(images, columns=2)
    assert picture.shape == (3, 7, 7)  # two rows and columns of 2 px, three lines of 1 px
    assert [picture[0, 1, 1], picture[0, 1, 4], picture[0, 4, 1]] == [0, 0.5, 1]


def test_the_bytes_of_a_grid_are_those_of_its_file(tmp_path, rng):
    images = torch.rand(3, 3, 4, 4, generator=rng) * 2 - 1
    save_grid(images, tmp_path / "a.png", columns=2)
    with Image.open(tmp_path / "a.png") as picture:
        assert (grid_pixels(images, columns=2) == np.asarray(picture)).all()


def test_a_grid_needs_the_suffix_of_a_picture(tmp_path):
    with pytest.raises(InvalidValueError, match=r"grid\.xyz: a grid is a \.png file"):
        save_grid(torch.zeros(1, 3, 2, 2), tmp_path / "grid.xyz")
    assert list(tmp_path.iterdir()) == []
