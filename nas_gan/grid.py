"""Many images as one picture."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.files import atomic_path


def grid_image(images: Tensor, columns: int = 8) -> Tensor:
    """`(n, 3, h, w)` images in [-1, 1] as one `(3, H, W)` picture in [0, 1], row by row."""
    from torchvision.utils import make_grid

    return make_grid(images, nrow=columns, normalize=True, value_range=(-1, 1), padding=1)


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Write `grid_image` as a picture, whole or not at all.

    Raises:
        InvalidValueError: the suffix names no picture format that is written without loss.
    """
    from torchvision.utils import save_image

    if path.suffix.lower() not in (".png", ".bmp", ".ppm"):
        raise InvalidValueError(f"{path}: a grid is a .png file; change its suffix")
    with atomic_path(path) as temporary:
        save_image(grid_image(images, columns), temporary)
