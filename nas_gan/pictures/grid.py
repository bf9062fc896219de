"""Many images as one picture."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.files import atomic_path
from nas_gan.pictures.animation import Pixels


def grid_image(images: Tensor, columns: int = 8) -> Tensor:
    """`(n, c, h, w)` images in [-1, 1] as one `(3, H, W)` picture in [0, 1], row by row.

    They are separated by one black pixel; c is 1 or 3.
    """
    from torchvision.utils import make_grid

    return make_grid(images, nrow=columns, normalize=True, value_range=(-1, 1), padding=1)


def grid_pixels(images: Tensor, columns: int = 8) -> Pixels:
    """`grid_image` as bytes `(H, W, 3)`, rounded as `save_grid` rounds them."""
    picture = grid_image(images, columns).mul(255).add(0.5).clamp(0, 255).to(torch.uint8)
    pixels: Pixels = picture.permute(1, 2, 0).cpu().numpy()
    return pixels


def check_grid_path(path: Path) -> None:
    """Refuse a file name that is not that of a picture.

    Raises:
        InvalidValueError: the suffix is not that of a lossless picture format.
    """
    if path.suffix.lower() not in (".png", ".bmp", ".ppm"):
        raise InvalidValueError(f"{path}: a grid is a .png file; change its suffix")


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Write `grid_image` to a picture file, atomically.

    Raises:
        InvalidValueError: the suffix is not that of a lossless picture format.
    """
    from torchvision.utils import save_image

    check_grid_path(path)
    with atomic_path(path) as temporary:
        save_image(grid_image(images, columns), temporary)
