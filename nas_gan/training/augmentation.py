"""Differentiable augmentation of all that a discriminator sees (Zhao et al., NeurIPS 2020).

Real and generated images are changed alike, in the updates of both networks, and the generator's
gradient flows through the change. The discriminator of a small data set can then no longer learn
its images by heart, and the generator learns none of the changes.

Images are `(n, c, h, w)` in [-1, 1]. Every image is changed by a draw of its own from torch's
global generator, which is part of the state of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError, unknown_name

Change = Literal["color", "translation", "cutout"]

# Those of the paper: a shift by at most an eighth of a side, a hole of half a side.
SHIFT, HOLE = 1 / 8, 1 / 2


class Augmentation:
    """Applies changes, one after the other.

    Args:
        changes: `color` (brightness, saturation and contrast), `translation` and `cutout`, whose
            border and square are 0, a middle grey.

    Raises:
        InvalidValueError: a change is unknown or named twice.
    """

    def __init__(self, changes: Sequence[str]) -> None:
        for name in changes:
            if name not in get_args(Change):
                raise unknown_name("change of diffaugment", name, get_args(Change))
        if len(set(changes)) < len(changes):
            raise InvalidValueError(
                f"names a change twice; got {', '.join(changes)}", setting="diffaugment"
            )
        self.changes = tuple(changes)

    def __call__(self, images: Tensor) -> Tensor:
        """The changed images, with the shape and the type of `images`."""
        for name in self.changes:
            images = _CHANGES[name](images)
        return images


UNCHANGED = Augmentation(())


def recoloured(images: Tensor) -> Tensor:
    """Brightness shifted by up to 0.5, saturation scaled by 0 to 2, contrast by 0.5 to 1.5."""
    images = images + _uniform(images, -0.5, 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + _uniform(images, 0.0, 2.0) * (images - grey)
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    return level + _uniform(images, 0.5, 1.5) * (images - level)


def translated(images: Tensor) -> Tensor:
    """Each image shifted by whole pixels, at most an eighth of a side; the border is 0."""
    height, width = images.shape[2:]
    rows, y = _shifted(images, height)
    columns, x = _shifted(images, width)
    moved = images.gather(2, rows[:, None, :, None].expand(-1, images.shape[1], -1, width))
    moved = moved.gather(3, columns[:, None, None, :].expand_as(moved))
    return moved * y[:, None, :, None] * x[:, None, None, :]


def cut_out(images: Tensor) -> Tensor:
    """A square of half a side set to 0 in each image, its centre anywhere in it."""
    inside = [
        _near(images, size)[shape]
        for size, shape in zip(
            images.shape[2:],
            ((slice(None), None, slice(None), None), (slice(None), None, None, slice(None))),
            strict=True,
        )
    ]
    return images * ~(inside[0] & inside[1])


_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "color": recoloured,
    "translation": translated,
    "cutout": cut_out,
}


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """A number for each image, `(n, 1, 1, 1)`."""
    drawn = torch.rand(len(images), 1, 1, 1, dtype=images.dtype, device=images.device)
    return low + (high - low) * drawn


def _shifted(images: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where each row of a moved image comes from `(n, size)`, and whether it is one at all."""
    most = int(size * SHIFT + 0.5)
    shift = torch.randint(-most, most + 1, (len(images), 1), device=images.device)
    source = torch.arange(size, device=images.device) - shift
    return source.clamp(0, size - 1), (source == source.clamp(0, size - 1)).to(images.dtype)


def _near(images: Tensor, size: int) -> Tensor:
    """Which of `size` rows lie in the hole of each image, `(n, size)`."""
    hole = int(size * HOLE + 0.5)
    first = torch.randint(0, size + 1 - hole % 2, (len(images), 1), device=images.device)
    first = first - hole // 2
    rows = torch.arange(size, device=images.device)
    return (rows >= first) & (rows < first + hole)
