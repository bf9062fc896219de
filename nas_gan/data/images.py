"""Images as values: in memory or as files, and how a file becomes a square of uint8."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_gan.errors import MissingDataError, unknown_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# How an image file becomes a square: cropped at its centre, stretched, or the middle 64 x 64 of
# what covers 72 x 88 pixels, which of aligned CelebA (178 x 218) is the face.
Fit = Literal["crop", "stretch", "crop-72x88"]
_COVER, _KEPT = (72, 88), 64
# A warning names so many broken files; all of them are in `FileImages.skipped`.
NAMED = 5
# Of what is grey from red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


class Images(Protocol):
    """A data set: `images[indices]` is uint8 `(n, c, h, w)`, `digest` tells its content.

    Those that know classes also have `labels`, int64 `(len(images),)`, and `n_classes`; others
    have None and 0.
    """

    name: str
    digest: str

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor: ...


class ArrayImages:
    """Images that fit in memory, uint8 `(n, c, h, w)`."""

    def __init__(self, name: str, images: Tensor, labels: Tensor | None = None) -> None:
        self.name, self.images = name, images
        self.labels, self.n_classes = labels, _count(labels)
        self.digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()

    @classmethod
    def labelled(cls, name: str, images: Tensor, labels: Tensor, n_classes: int) -> ArrayImages:
        """Images of so many classes, of which some may have no image."""
        made = cls(name, images, labels)
        made.n_classes = n_classes
        return made

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.images[indices]


class FileImages:
    """Image files read when they are asked for, made square and resized.

    Attributes:
        labels: the number of each file's class, or None.
        skipped: the files that were left out since they cannot be read.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        size: int,
        *,
        channels: int = 3,
        fit: Fit = "crop",
        labels: Tensor | None = None,
        skipped: Sequence[Path] = (),
    ) -> None:
        self.name, self.files, self.size = name, list(files), size
        self.channels, self.fit = channels, fit
        self.labels, self.n_classes = labels, _count(labels)
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


def _count(labels: Tensor | None) -> int:
    return 0 if labels is None else int(labels.max()) + 1


def read_image(path: Path, size: int, *, channels: int = 3, fit: Fit = "crop") -> Tensor:
    """One image file as uint8 `(channels, size, size)`.

    `crop` scales it to cover the square and cuts the centre out; `stretch` lets it lose its
    proportions. `crop-72x88` scales it to cover 72 x 88 pixels and cuts out the centre of 64 x 64
    (MMD-GAN with repulsive loss, ICLR 2019); of another size, the same part of the image.

    Raises:
        MissingDataError: the file is not an image that Pillow reads.
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
    """How the images that a checkpoint was trained on became squares; `crop` where it says nothing.

    Raises:
        InvalidValueError: it says something unknown.
    """
    fit = provenance.get("fit", "crop")
    if fit not in get_args(Fit):
        raise unknown_name("fit of the checkpoint", str(fit), get_args(Fit))
    return cast("Fit", fit)


def _covered(size: int) -> tuple[int, int]:
    """Width and height of what `crop-72x88` cuts a square of `size` pixels out of."""
    width, height = (round(size * side / _KEPT) for side in _COVER)
    return width, height


def broken_images(files: Sequence[Path], size: int) -> dict[Path, str]:
    """The files among `files` that Pillow cannot read to their end, and what it says of each.

    A JPEG file is decoded no larger than it takes for `size` pixels.
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

    Padding 28 px to 32 px keeps the strokes as they are; any other change of size interpolates.
    Grey is repeated where colour is wanted, colour becomes its luminance where grey is.
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
