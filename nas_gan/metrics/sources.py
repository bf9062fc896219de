"""Sources of images to measure, a batch at a time: generators, data sets and files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nas_gan.data.files import list_images, read_picture
from nas_gan.data.images import Images
from nas_gan.errors import InvalidValueError, MissingDataError, named
from nas_gan.metrics.protocol import to_uint8
from nas_gan.metrics.sampling import generate_uint8
from nas_gan.networks.conditional import labels_of
from nas_gan.networks.interface import n_classes_of
from nas_gan.networks.latents import StreamedLatents
from nas_gan.npz import open_npz

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageBatch:
    """uint8 images `(b, 3, h, w)`, their rows in the source, and their labels if they have any."""

    rows: npt.NDArray[np.intp]
    images: Tensor
    labels: Tensor | None = None


class ImageSource(Protocol):
    """Images in a fixed order; `len` includes those that turn out to be unreadable.

    `skipped` names each image that the last pass could not read, with the reason.
    """

    name: str
    skipped: list[str]

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """All images in order; those of one batch have one size."""
        ...


class GeneratedSource:
    """The images that a generator draws from latents `(n, input_width)`, with their labels."""

    def __init__(
        self,
        name: str,
        generator: nn.Module,
        latents: Tensor | StreamedLatents,
        *,
        device: str = "cpu",
        quantize: Callable[[Tensor], Tensor] = to_uint8,
    ) -> None:
        self.name, self.generator, self.latents = name, generator, latents
        self.device, self.quantize = device, quantize
        self.n_classes = n_classes_of(generator)
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return len(self.latents)

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """Images of the latents in order.

        Raises:
            DivergedError: an image holds a NaN or an infinity.
        """
        return self.batches_of(0, len(self), batch_size)

    def batches_of(self, start: int, stop: int, batch_size: int) -> Iterator[ImageBatch]:
        """Images of the rows from `start` to `stop`, as `batches` if `start` begins a batch."""
        batches = generate_uint8(
            self.generator,
            self.latents if (start, stop) == (0, len(self)) else self.latents[start:stop],
            batch_size=batch_size,
            device=self.device,
            quantize=self.quantize,
        )
        for images in batches:
            end = start + len(images)
            labels = None
            if self.n_classes:
                labels = labels_of(self.latents[start:end], self.n_classes)
            yield ImageBatch(np.arange(start, end), images, labels)
            start = end


class DatasetSource:
    """Some rows of a data set, in order; all of them by default."""

    def __init__(self, images: Images, rows: npt.NDArray[np.intp] | None = None) -> None:
        self.name, self.images = images.name, images
        self.chosen = np.arange(len(images)) if rows is None else rows
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """Images of the chosen rows."""
        for start in range(0, len(self), batch_size):
            rows = np.arange(start, min(start + batch_size, len(self)))
            yield ImageBatch(rows, self.images[torch.from_numpy(self.chosen[rows])])


class FolderSource:
    """Image files below a folder, each at its own size. Unreadable ones are skipped and named.

    Transparency is dropped and the orientation in EXIF data is not applied, as in pytorch-fid and
    clean-fid. Other than there, more than 8 bits are scaled down instead of clipped.

    Raises:
        MissingDataError: there are no image files.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        found = list_images(folder)
        if others := found.describe_left_out():
            logger.warning("left out below %s: %s", folder, others)
        self.files = found.files
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """Images at the size of their files; a new size starts a new batch.

        Raises:
            MissingDataError: none of the files can be read.
        """
        self.skipped = []
        transparent: list[str] = []
        rows: list[int] = []
        images: list[Tensor] = []
        for row, file in enumerate(self.files):
            try:
                picture = read_picture(file)
            except MissingDataError as error:
                self.skipped.append(str(error))
                continue
            if picture.transparent:
                transparent.append(file.name)
            image = torch.from_numpy(np.array(picture.pixels)).permute(2, 0, 1)
            if images and (len(images) == batch_size or image.shape != images[0].shape):
                yield ImageBatch(np.array(rows), torch.stack(images))
                rows, images = [], []
            rows.append(row)
            images.append(image)
        if images:
            yield ImageBatch(np.array(rows), torch.stack(images))
        if len(self.skipped) == len(self.files):
            raise MissingDataError(f"no readable image below {self.name}; {self.skipped[0]}")
        if transparent:
            logger.warning(
                "%d of %d images below %s have transparent pixels; the transparency is dropped, as "
                "pytorch-fid does: %s",
                *(len(transparent), len(self), self.name, named(transparent)),
            )


class ArraySource:
    """The uint8 images of an `.npz` file, `(n, h, w, c)` or `(n, c, h, w)` with c 1 or 3.

    The array is called `images` or `arr_0`, or is the only one. It is held in memory.

    Raises:
        MissingDataError: there is no such file.
        InvalidValueError: it does not hold such an array.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.images = as_nchw(_read_array(path), path)
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """The images in order; grey ones repeated to three channels."""
        for start in range(0, len(self), batch_size):
            images = torch.from_numpy(self.images[start : start + batch_size].copy())
            rows = np.arange(start, start + len(images))
            yield ImageBatch(rows, images.expand(-1, 3, -1, -1))


def array_names(path: Path) -> list[str]:
    """Names of the arrays in an `.npz` file.

    Raises:
        MissingDataError: there is no such file.
        InvalidValueError: it is not an `.npz` file.
    """
    with open_npz(path, "arrays") as file:
        return list(file.files)


def _read_array(path: Path) -> npt.NDArray[np.uint8]:
    with open_npz(path, "images") as file:
        names = file.files
        named = [name for name in ("images", "arr_0") if name in names]
        if not named and len(names) != 1:
            raise InvalidValueError(
                f"{path}: holds {', '.join(names) or 'nothing'}; name the array of images `images`"
            )
        name = named[0] if named else names[0]
        array = file[name]
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise InvalidValueError(f"{path}: {name} is {array.dtype}; images are uint8, 0..255")
    return array


def as_nchw(array: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.uint8]:
    """Images `(n, h, w, c)` or `(n, c, h, w)` as `(n, c, h, w)`.

    Raises:
        InvalidValueError: the shape is neither, or both.
    """
    last = array.ndim == 4 and array.shape[3] in (1, 3)
    first = array.ndim == 4 and array.shape[1] in (1, 3)
    if last == first or 0 in array.shape:
        raise InvalidValueError(
            f"{path}: an array of shape {array.shape} is {'either of' if last else 'neither'} "
            "(n, h, w, c) and (n, c, h, w) with c 1 or 3"
        )
    return array if first else array.transpose(0, 3, 1, 2)


def open_images(path: Path) -> ImageSource | None:
    """The images in a folder or an `.npz` file; None if the path is neither."""
    if path.is_dir():
        return FolderSource(path)
    if path.suffix == ".npz":
        return ArraySource(path)
    return None
