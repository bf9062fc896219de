"""Inputs of networks that take images: a folder of them, or an array in a file.

A search must not judge its outcome on the inputs that it looked at, so inputs are dealt into three
disjoint parts, in an order that depends on their number alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_gan.data.files import content_digests, image_size, list_images, read_picture
from nas_gan.errors import InvalidValueError, MissingDataError, UnreadableError
from nas_gan.networks.interface import Part
from nas_gan.reading import map_npy

PARTS: tuple[Part, ...] = ("search", "held_out", "reference")
# Two of each part are the least with which anything can be scored.
LEAST = 2 * len(PARTS)


class StoredInputs:
    """Inputs that are read when they are needed.

    Attributes:
        name: where they come from.
        digest: identifies their content.
        shape: the shape of one input.
        as_they_are: whether they are passed on as they are; otherwise they are bytes.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        n: int,
        read: Callable[[int], Tensor],
        *,
        as_they_are: bool,
    ) -> None:
        if n < LEAST:
            raise InvalidValueError(
                f"{name} has {n} inputs; {LEAST} are the least: a search looks at some of them, "
                "and others judge its outcome",
                setting="inputs",
            )
        self.name, self.digest, self.as_they_are = name, digest, as_they_are
        self._read = read
        order = np.random.default_rng(0).permutation(n)
        self._rows = {part: order[i :: len(PARTS)] for i, part in enumerate(PARTS)}
        self.shape = tuple(self._read(0).shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredInputs:
        return self  # it never changes

    def __eq__(self, other: object) -> bool:
        ours = (self.digest, self.shape)
        return isinstance(other, StoredInputs) and ours == (other.digest, other.shape)

    def __hash__(self) -> int:
        return hash(self.digest)

    def count(self, part: Part) -> int:
        """Inputs in a part: a third of all."""
        return len(self._rows[part])

    def take(self, n: int, seed: int, part: Part) -> Tensor:
        """At most `n` inputs `(n, *shape)` of a part, none of them twice."""
        rows = np.random.default_rng([seed]).permutation(self._rows[part])[:n]
        return torch.stack([self._read(int(row)) for row in rows])

    def draw(self, n: int, rng: np.random.Generator) -> Tensor:
        """`n` random inputs `(n, *shape)` of the search's part."""
        rows = rng.choice(self._rows["search"], n)
        return torch.stack([self._read(int(row)) for row in rows])


def open_inputs(path: Path, *, channels: int, size: tuple[int, int] | None) -> StoredInputs:
    """The inputs in a folder of images or in an `.npy` file.

    Args:
        path: a folder of images; or an `.npy` file of bytes `(n, h, w, c)` or `(n, c, h, w)`, which
            are images, or of floats `(n, ...)`, which are passed on as they are.
        channels: 3 for colour, 1 for grey.
        size: height and width to which every image is scaled and cropped; None if they are of one
            size already.

    Raises:
        MissingDataError: there is no such path, or it holds no images.
        InvalidValueError: the images are of several sizes, or the file holds something else.
    """
    if path.is_dir():
        return _from_folder(path, channels, size)
    if not path.exists():
        raise MissingDataError(
            f"{path}: no such folder or file; give a folder of images or an .npy file",
            setting="inputs",
        )
    if path.suffix == ".npy":
        return _from_array(path, size)
    raise InvalidValueError(
        f"{path} is neither a folder of images nor an .npy file", setting="inputs"
    )


def _from_folder(path: Path, channels: int, size: tuple[int, int] | None) -> StoredInputs:
    from PIL import Image, ImageOps

    files = list_images(path).files
    if size is None:
        sizes = Counter(image_size(file) for file in files)
        if len(sizes) > 1:
            shown = ", ".join(f"{n} of {h}x{w}" for (h, w), n in sizes.most_common(4))
            raise InvalidValueError(
                f"is needed, as 256x256: {path} has images of {len(sizes)} sizes ({shown}), and a "
                "batch has one",
                setting="input_size",
            )
    colour = "RGB" if channels == 3 else "L"

    def read(row: int) -> Tensor:
        picture = read_picture(files[row], channels=channels).pixels.convert(colour)
        if size is not None and picture.size != size[::-1]:
            picture = ImageOps.fit(picture, size[::-1], Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(picture))
        return pixels.permute(2, 0, 1) if channels == 3 else pixels[None]

    listing = "\n".join((str(size), colour, *content_digests(files)))
    digest = hashlib.sha256(listing.encode()).hexdigest()
    return StoredInputs(str(path), digest, len(files), read, as_they_are=False)


def _from_array(path: Path, size: tuple[int, int] | None) -> StoredInputs:
    if size is not None:
        raise InvalidValueError(
            f"is for images of a folder; those of {path} have one size", setting="input_size"
        )
    try:
        array = map_npy(path)
    except UnreadableError as error:
        raise InvalidValueError(f"{path}: not an .npy file ({error})", setting="inputs") from error
    if array.ndim < 2 or 0 in array.shape:
        raise InvalidValueError(
            f"{path}: an array (n, ...) is expected, found {array.shape}", setting="inputs"
        )
    if array.dtype == np.uint8:
        if array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
            array = array.transpose(0, 3, 1, 2)
    elif array.dtype.kind != "f":
        raise InvalidValueError(
            f"{path}: {array.dtype}; bytes are images, and floats are passed as they are",
            setting="inputs",
        )
    elif not np.isfinite(array).all():
        raise InvalidValueError(f"{path}: holds a NaN or an infinity", setting="inputs")
    as_they_are = array.dtype != np.uint8
    kind = np.float32 if as_they_are else np.uint8

    def read(row: int) -> Tensor:
        return torch.from_numpy(np.array(array[row], dtype=kind))

    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return StoredInputs(str(path), digest, len(array), read, as_they_are=as_they_are)
