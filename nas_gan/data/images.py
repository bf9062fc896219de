"""Images in memory or in files, and the conversion of a file to a square of uint8."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_gan.data.files import WHITE, content_digests, parse_colour, read_picture
from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.progress import Progress, no_progress

if TYPE_CHECKING:
    from PIL import Image

# How an image file becomes a square: cropped at its centre, stretched, or scaled to cover 72 x 88
# pixels, of which the middle 64 x 64 are kept: the face, in aligned CelebA (178 x 218).
Fit = Literal["crop", "stretch", "crop-72x88"]
_COVER, _KEPT = (72, 88), 64
# Height and width of images in pixels; one number for a square.
Size = int | tuple[int, int]
# Weights of red, green and blue in the luminance (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


class Images(Protocol):
    """A data set: `images[indices]` is uint8 `(n, c, h, w)`, `digest` identifies its content.

    Labelled data sets also have `labels`, int64 `(len(images),)`, and `n_classes`; in others these
    are None and 0. `image_labels` reads both.
    """

    name: str

    @property
    def digest(self) -> str: ...

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
        size: Size,
        *,
        channels: int = 3,
        fit: Fit = "crop",
        background: str = WHITE,
        labels: Labels | None = None,
        skipped: Sequence[Path] = (),
        digests: Sequence[str] | None = None,
        progress: Progress = no_progress,
    ) -> None:
        """Nothing is read yet.

        Args:
            name: what the data set is called.
            files: the image files, in order.
            size: height and width in pixels.
            channels: 3 for colour, 1 for grey.
            fit: how an image becomes a square.
            background: what transparent pixels are laid over.
            labels: the class of each file.
            skipped: files that are left out.
            digests: the sha256 of each file's bytes, if they are known.
            progress: shows a bar while files are read for their digest.
        """
        self.name, self.files, self.size = name, list(files), size
        self.channels, self.fit, self.background = channels, fit, background
        self.labels = labels.values if labels else None
        self.n_classes = labels.n_classes if labels else 0
        self.skipped = tuple(skipped)
        self._digests, self._progress = digests, progress

    @cached_property
    def digest(self) -> str:
        """Identifies the bytes of all files in their order, their classes and how they are read.

        Neither names nor times are part of it: other pixels under the same names are other data,
        and a copy of the folder is the same. All files are read, and nothing is remembered of them,
        since their times can be set at will.
        """
        digests = self._digests
        if digests is None:
            with self._progress(f"reading {self.name}", len(self.files)) as advance:
                digests = content_digests(self.files, advance)
        how = f"{self.size} {self.channels} {self.fit} {self.background}"
        classes = b"" if self.labels is None else self.labels.numpy().tobytes()
        return hashlib.sha256("\n".join((how, *digests, "")).encode() + classes).hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Tensor) -> Tensor:
        read = partial(
            read_image,
            size=self.size,
            channels=self.channels,
            fit=self.fit,
            background=self.background,
        )
        return torch.stack([read(self.files[i]) for i in indices.tolist()])


def read_image(
    path: Path, size: Size, *, channels: int = 3, fit: Fit = "crop", background: str = WHITE
) -> Tensor:
    """One image file as uint8 `(channels, h, w)`; transparent pixels show the background.

    `crop` scales it to cover the size and cuts out the centre; `stretch` changes its proportions.
    `crop-72x88` scales it to cover 72 x 88 pixels and cuts out the middle 64 x 64 (MMD-GAN with
    repulsive loss, ICLR 2019), or the same part of the image at another size.

    Raises:
        MissingDataError: Pillow cannot read the file.
        InvalidValueError: the background is no colour.
    """
    picture = read_picture(path, channels=channels, background=parse_colour(background))
    return fitted(picture.pixels, size, fit)


def fitted(colours: Image.Image, size: Size, fit: Fit) -> Tensor:
    """A picture in colour or grey as uint8 `(channels, h, w)`, as `read_image` makes it.

    Raises:
        InvalidValueError: `crop-72x88`, which makes squares, is asked for another shape.
    """
    from PIL import Image, ImageOps

    if fit == "stretch":
        seen = colours.resize(sides(size)[::-1], Image.Resampling.LANCZOS)
    elif fit == "crop":
        seen = ImageOps.fit(colours, sides(size)[::-1], Image.Resampling.LANCZOS)
    elif not isinstance(size, int):
        height, width = size
        raise InvalidValueError(f"{fit} makes squares; asked for {height} x {width}", setting="fit")
    else:
        width, height = _covered(size)
        covering = ImageOps.fit(colours, (width, height), Image.Resampling.LANCZOS)
        left, top = (width - size) // 2, (height - size) // 2
        seen = covering.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(seen))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def recorded_fit(provenance: Mapping[str, Any]) -> Fit:
    """How the training images of a checkpoint were made square; `crop` if it does not say.

    Raises:
        InvalidValueError: the checkpoint names an unknown way.
    """
    fit = provenance.get("fit", "crop")
    if fit not in get_args(Fit):
        raise unknown_name("fit of the checkpoint", str(fit), get_args(Fit))
    return cast("Fit", fit)


def recorded_background(provenance: Mapping[str, Any]) -> str:
    """What the transparent pixels of a checkpoint's training images were laid over."""
    return str(provenance.get("background", WHITE))


def _covered(size: int) -> tuple[int, int]:
    """Width and height to which `crop-72x88` scales an image, for a square of `size` pixels."""
    width, height = (round(size * side / _KEPT) for side in _COVER)
    return width, height


def to_square(images: Tensor, size: Size, channels: int = 3) -> Tensor:
    """uint8 squares `(n, c, s, s)` to `(n, channels, h, w)`.

    What is no square is cut out of the middle of the larger of both squares. 28 px are padded to
    32 px, which keeps the strokes unchanged; other sizes are interpolated. Grey is repeated for
    three channels, and colour becomes its luminance for one.
    """
    if not isinstance(size, int) and size[0] != size[1]:
        largest, (height, width) = max(size), size
        whole = to_square(images, largest, channels)
        top, left = (largest - height) // 2, (largest - width) // 2
        return whole[:, :, top : top + height, left : left + width].contiguous()
    size, height = sides(size)[0], images.shape[-1]
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
