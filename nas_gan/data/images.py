"""Images in memory or in files, and the conversion of a file to a square of uint8."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_gan.errors import MissingDataError, unknown_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# How an image file becomes a square: cropped at its centre, stretched, or scaled to cover 72 x 88
# pixels, of which the middle 64 x 64 are kept: the face, in aligned CelebA (178 x 218).
Fit = Literal["crop", "stretch", "crop-72x88"]
_COVER, _KEPT = (72, 88), 64
# Largest number of broken files that a warning names; `FileImages.skipped` has all of them.
NAMED = 5
# Weights of red, green and blue in the luminance (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


class Images(Protocol):
    """A data set: `images[indices]` is uint8 `(n, c, h, w)`, `digest` identifies its content.

    Labelled data sets also have `labels`, int64 `(len(images),)`, and `n_classes`; in others these
    are None and 0. `image_labels` reads both.
    """

    name: str
    digest: str

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor: ...


class LabelledImages(Images, Protocol):
    """A data set that knows classes."""

    labels: Tensor
    n_classes: int


@dataclass(frozen=True)
class Labels:
    """The class of each image of a data set.

    Attributes:
        values: int64 `(n,)`, 0 to `n_classes - 1`.
        n_classes: number of classes, including those that no image has.
    """

    values: Tensor
    n_classes: int

    @classmethod
    def counted(cls, values: Tensor) -> Labels:
        """Labels of which the largest is the last class."""
        return cls(values, int(values.max()) + 1)


def image_labels(images: Images) -> Labels | None:
    """The classes of a data set, or None if it knows none."""
    values: Tensor | None = getattr(images, "labels", None)
    return None if values is None else Labels(values, cast("LabelledImages", images).n_classes)


class ArrayImages:
    """Images that fit in memory, uint8 `(n, c, h, w)`."""

    def __init__(self, name: str, images: Tensor, labels: Labels | None = None) -> None:
        self.name, self.images = name, images
        self.labels = labels.values if labels else None
        self.n_classes = labels.n_classes if labels else 0
        self.digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.images[indices]


class FileImages:
    """Image files that are read on demand, made square and resized.

    Attributes:
        labels: the class of each file as a number, or None.
        skipped: files that are left out because they cannot be read.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        size: int,
        *,
        channels: int = 3,
        fit: Fit = "crop",
        labels: Labels | None = None,
        skipped: Sequence[Path] = (),
    ) -> None:
        self.name, self.files, self.size = name, list(files), size
        self.channels, self.fit = channels, fit
        self.labels = labels.values if labels else None
        self.n_classes = labels.n_classes if labels else 0
        self.skipped = tuple(skipped)
        listing = "\n".join(f"{file.name} {file.stat().st_size}" for file in self.files)
        how = "" if (channels, fit) == (3, "crop") else f" {channels} {fit}"
        self.digest = hashlib.sha256(f"{size}{how}\n{listing}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Tensor) -> Tensor:
        files = (self.files[i] for i in indices.tolist())
        return torch.stack(
            [read_image(file, self.size, channels=self.channels, fit=self.fit) for file in files]
        )


def read_image(path: Path, size: int, *, channels: int = 3, fit: Fit = "crop") -> Tensor:
    """One image file as uint8 `(channels, size, size)`.

    `crop` scales it to cover the square and cuts out the centre; `stretch` changes its proportions.
    `crop-72x88` scales it to cover 72 x 88 pixels and cuts out the middle 64 x 64 (MMD-GAN with
    repulsive loss, ICLR 2019), or the same part of the image at another size.

    Raises:
        MissingDataError: Pillow cannot read the file.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            colours = image.convert("RGB" if channels == 3 else "L")
            if fit == "stretch":
                square = colours.resize((size, size), Image.Resampling.LANCZOS)
            else:
                width, height = _covered(size) if fit == "crop-72x88" else (size, size)
                covering = ImageOps.fit(colours, (width, height), Image.Resampling.LANCZOS)
                left, top = (width - size) // 2, (height - size) // 2
                square = covering.crop((left, top, left + size, top + size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MissingDataError(
            f"{path}: not a readable image ({error}); remove or replace it"
        ) from error
    pixels = torch.from_numpy(np.array(square))
    return pixels.permute(2, 0, 1) if channels == 3 else pixels[None]


def recorded_fit(provenance: Mapping[str, Any]) -> Fit:
    """How the training images of a checkpoint were made square; `crop` if it does not say.

    Raises:
        InvalidValueError: the checkpoint names an unknown way.
    """
    fit = provenance.get("fit", "crop")
    if fit not in get_args(Fit):
        raise unknown_name("fit of the checkpoint", str(fit), get_args(Fit))
    return cast("Fit", fit)


def _covered(size: int) -> tuple[int, int]:
    """Width and height to which `crop-72x88` scales an image, for a square of `size` pixels."""
    width, height = (round(size * side / _KEPT) for side in _COVER)
    return width, height


def broken_images(files: Sequence[Path], size: int) -> dict[Path, str]:
    """The files that Pillow cannot read completely, each with the reason.

    A JPEG file is only decoded at the resolution that `size` pixels need.
    """
    from PIL import Image

    def problem(file: Path) -> str | None:
        try:
            with Image.open(file) as image:
                image.draft("RGB", (size, size))
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return str(error).replace(f" {str(file)!r}", "")
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the interpreter lock
        found = zip(files, pool.map(problem, files), strict=True)
        return {file: reason for file, reason in found if reason is not None}


def to_square(images: Tensor, size: int, channels: int = 3) -> Tensor:
    """uint8 `(n, c, h, w)` to `(n, channels, size, size)`.

    28 px are padded to 32 px, which keeps the strokes unchanged; other sizes are interpolated. Grey
    is repeated for three channels, and colour becomes its luminance for one.
    """
    height = images.shape[-1]
    if height == 28 and size == 32:
        images = F.pad(images, (2, 2, 2, 2))
    elif height != size:
        resized = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        images = resized.round().clamp(0, 255).to(torch.uint8)
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1).contiguous()
    return to_grey(images) if channels == 1 else images


def to_grey(images: Tensor) -> Tensor:
    """The luminance of uint8 colour images, `(n, 3, h, w)` to `(n, 1, h, w)`."""
    luminance = torch.einsum("nchw,c->nhw", images.float(), torch.tensor(LUMA))
    return luminance.round().clamp(0, 255).to(torch.uint8)[:, None]
