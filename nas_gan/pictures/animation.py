"""Animated pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas_gan.errors import InvalidValueError
from nas_gan.files import atomic_path

Pixels = npt.NDArray[np.uint8]


def check_animation_path(path: Path) -> None:
    """Refuse a file name that is not that of an animation.

    Raises:
        InvalidValueError: the suffix is not .gif.
    """
    if path.suffix.lower() != ".gif":
        raise InvalidValueError(f"{path}: an animation is a .gif file; change its suffix")


def save_animation(frames: Iterable[Pixels], path: Path, *, fps: float = 12.0) -> None:
    """Write `(h, w, 3)` pictures as a GIF that repeats forever, atomically.

    A GIF counts time in hundredths of a second, to which the duration of a frame is rounded.

    Raises:
        InvalidValueError: there is no frame, `fps` is not in (0, 50], or the suffix is not .gif.
    """
    from PIL import Image

    check_animation_path(path)
    if not 0 < fps <= 50:
        raise InvalidValueError(f"must be above 0 and at most 50; got {fps}", setting="fps")
    # Dithering would flicker from frame to frame.
    pictures: list[Any] = [
        Image.fromarray(frame).quantize(method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        for frame in frames
    ]
    if not pictures:
        raise InvalidValueError(f"{path}: an animation needs at least one frame")
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary,
            save_all=True,
            append_images=pictures[1:],
            duration=10 * round(100 / fps),
            loop=0,
            optimize=False,
        )
