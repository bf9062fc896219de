"""Data sets as uint8 images, and as shuffled batches in [-1, 1], with labels or without."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError, MissingDataError, unknown_name

logger = logging.getLogger(__name__)

FASHION_MNIST_DIRS = (
    Path("/usr/share/datasets/fashion-mnist"),
    Path("/usr/share/dataset-fashion-mnist"),
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
DATASETS = (
    "fashion_mnist",
    "mnist",
    "cifar10",
    "cifar100",
    "stl10",
    "celeba",
    "folder",
    "synthetic",
)
# How an image file becomes a square: cropped at its centre, stretched, or the middle 64 x 64 of
# what covers 72 x 88 pixels, which of aligned CelebA (178 x 218) is the face.
Fit = Literal["crop", "stretch", "crop-72x88"]
_COVER, _KEPT = (72, 88), 64
# A warning names so many broken files; all of them are in `FileImages.skipped`.
NAMED = 5
# Of what is grey from red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
# Tells the stream of a batch's mirrored images from that of an epoch's order.
_FLIP_STREAM = 1


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

    def __init__(
        self, name: str, images: Tensor, labels: Tensor | None = None, n_classes: int = 0
    ) -> None:
        self.name, self.images = name, images
        self.labels, self.n_classes = labels, n_classes or _count(labels)
        self.digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()

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


def read_idx_images(path: Path) -> Tensor:
    """A gzipped IDX file of the MNIST family as uint8 `(n, 1, h, w)`.

    Raises:
        MissingDataError: the file is not gzip, not IDX, or damaged.
    """
    data = _read_gzip(path)
    magic, n, rows, columns = struct.unpack(">4i", data[:16].ljust(16, b"\0"))
    if magic != 2051 or len(data) != 16 + n * rows * columns:
        raise MissingDataError(f"{path}: not an IDX image file, or cut short; get it again")
    pixels = np.frombuffer(data, dtype=np.uint8, offset=16).reshape(n, 1, rows, columns)
    return torch.from_numpy(pixels.copy())


def read_idx_labels(path: Path) -> Tensor:
    """A gzipped IDX file of labels of the MNIST family as int64 `(n,)`.

    Raises:
        MissingDataError: the file is not gzip, not IDX, or damaged.
    """
    data = _read_gzip(path)
    magic, n = struct.unpack(">2i", data[:8].ljust(8, b"\0"))
    if magic != 2049 or len(data) != 8 + n:
        raise MissingDataError(f"{path}: not an IDX label file, or cut short; get it again")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=8).astype(np.int64))


def _read_gzip(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise MissingDataError(
            f"{path}: not a readable gzip file ({error}); get it again"
        ) from error


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


def load_dataset(
    name: str,
    *,
    size: int,
    root: Path | None = None,
    channels: int = 3,
    fit: Fit = "crop",
    labelled: bool = False,
) -> Images:
    """The training images of a data set by name, square, `size` pixels wide.

    `root` is a torchvision root folder, for `folder` the folder of images itself, where the
    folders right below it are its classes. Nothing is downloaded. Files of a folder that cannot be
    read are left out and named in a warning.

    Raises:
        InvalidValueError: the name is not in `DATASETS`, or labels are asked for and it has none.
        MissingDataError: the files are not there; the message names every place looked at.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    root = root or Path(os.environ.get("NAS_GAN_DATA", "data"))
    if name == "synthetic":
        images: Images = synthetic_shapes(size=size, channels=channels)
    elif name == "fashion_mnist":
        pixels = read_idx_images(_fashion_mnist_file(root, "train-images-idx3-ubyte.gz"))
        labels = None
        if labelled:
            labels = read_idx_labels(_fashion_mnist_file(root, "train-labels-idx1-ubyte.gz"))
        images = ArrayImages(name, to_square(pixels, size, channels), labels)
    elif name == "folder":
        images = _folder(root, size, channels, fit)
    else:
        images = _torchvision(name, root, size, channels, fit)
    if labelled and getattr(images, "labels", None) is None:
        raise InvalidValueError(
            f"{images.name} has no labels; take fashion_mnist, mnist, cifar10, cifar100, or a "
            "folder with a folder for each class"
        )
    return images


def _fashion_mnist_file(root: Path, file: str) -> Path:
    folders = (*FASHION_MNIST_DIRS, root, root / "FashionMNIST" / "raw")
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    looked = ", ".join(str(folder / file) for folder in folders)
    raise MissingDataError(
        f"Fashion-MNIST is not on this machine; looked for {looked}. "
        "Get it with: apt-get install dataset-fashion-mnist"
    )


def _folder(root: Path, size: int, channels: int, fit: Fit) -> FileImages:
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise MissingDataError(f"no {', '.join(IMAGE_SUFFIXES)} files below {root}")
    broken = broken_images(found, size)
    files = [file for file in found if file not in broken]
    if broken:
        named = [f"{file} ({reason})" for file, reason in list(broken.items())[:NAMED]]
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        text = f"{len(broken)} of {len(found)} images below {root} cannot be read"
        if not files:
            raise MissingDataError(f"{text}: {', '.join(named)}{more}; replace them")
        logger.warning("%s and are left out: %s%s", text, ", ".join(named), more)
    return FileImages(
        f"folder:{root.name}",
        files,
        size,
        channels=channels,
        fit=fit,
        labels=_folder_labels(root, files),
        skipped=list(broken),
    )


def _folder_labels(root: Path, files: Sequence[Path]) -> Tensor | None:
    """The classes of files that all lie in folders below `root`, numbered in order of name."""
    parts = [file.relative_to(root).parts for file in files]
    if any(len(part) == 1 for part in parts):
        return None
    classes = sorted({part[0] for part in parts})
    return torch.tensor([classes.index(part[0]) for part in parts])


def _torchvision(name: str, root: Path, size: int, channels: int, fit: Fit) -> Images:
    from torchvision import datasets

    classes = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10"}
    try:
        if name == "celeba":
            celeba = datasets.CelebA(root, split="train")
            folder = Path(celeba.root) / celeba.base_folder / "img_align_celeba"
            files = [folder / file for file in celeba.filename]
            return FileImages(name, files, size, channels=channels, fit=fit)
        if name == "stl10":  # most of it has no labels
            stl = datasets.STL10(root, split="train+unlabeled")
            return ArrayImages(name, to_square(torch.from_numpy(stl.data), size, channels))
        data = getattr(datasets, classes[name])(root, train=True)
    except (RuntimeError, FileNotFoundError) as error:
        cls = classes.get(name, "CelebA")
        command = f"from torchvision.datasets import {cls}; {cls}({str(root)!r}, download=True)"
        raise MissingDataError(
            f"{name} is not in {root.resolve()} (set --data-root or NAS_GAN_DATA). "
            f'Get it with: python -c "{command}"'
        ) from error
    if name == "mnist":
        pixels = data.data[:, None]
    else:
        pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2)
    return ArrayImages(name, to_square(pixels, size, channels), torch.as_tensor(data.targets))


def synthetic_shapes(*, size: int, n: int = 512, seed: int = 0, channels: int = 3) -> ArrayImages:
    """Bright discs of random place, radius and colour on black: data for tests and smoke runs.

    Their ten classes are ranges of the radius.
    """
    rng = np.random.default_rng(seed)
    grid = np.arange(size) + 0.5
    centre = rng.uniform(0.3, 0.7, (n, 2, 1, 1)) * size
    radius = rng.uniform(0.1, 0.3, (n, 1, 1)) * size
    colour = rng.integers(64, 256, (n, 3, 1, 1))
    inside = (grid[:, None] - centre[:, 0]) ** 2 + (grid[None, :] - centre[:, 1]) ** 2 < radius**2
    images = torch.from_numpy((inside[:, None] * colour).astype(np.uint8))
    labels = torch.from_numpy(((radius.ravel() / size - 0.1) * 50).astype(np.int64))
    return ArrayImages("synthetic", to_grey(images) if channels == 1 else images, labels, 10)


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


class ShuffledBatches:
    """`batches(index)` is `(batch_size, c, h, w)` in [-1, 1]; each epoch is a fresh permutation.

    A batch depends on nothing but the seed and the index, so a run resumes where it stopped. The
    images that do not fill a last batch sit that epoch out. With `flip` every image is mirrored
    half of the time.

    Raises:
        InvalidValueError: the data set is smaller than one batch.
    """

    def __init__(self, images: Images, batch_size: int, seed: int, *, flip: bool = False) -> None:
        if len(images) < batch_size:
            raise InvalidValueError(
                f"{images.name} has {len(images)} images, less than one batch of {batch_size}"
            )
        self.images, self.batch_size, self.seed, self.flip = images, batch_size, seed, flip
        self.per_epoch = len(images) // batch_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def __call__(self, index: int) -> Tensor:
        batch = to_float(self.images[self.indices(index)])
        if not self.flip:
            return batch
        rng = np.random.default_rng([self.seed, index, _FLIP_STREAM])
        mirrored = torch.from_numpy(rng.random(len(batch)) < 0.5)[:, None, None, None]
        return torch.where(mirrored, batch.flip(3), batch)

    def indices(self, index: int) -> Tensor:
        """Which images batch `index` holds, `(batch_size,)`."""
        epoch, position = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
            self._order = torch.from_numpy(order)
            self._epoch = epoch
        start = position * self.batch_size
        return self._order[start : start + self.batch_size]


class LabelledBatches:
    """`batches(index)` is a pair: images as `ShuffledBatches` has them, and one-hot labels.

    Raises:
        InvalidValueError: the data set has no labels, or not `n_classes` of them.
    """

    def __init__(self, batches: ShuffledBatches, n_classes: int) -> None:
        labels: Tensor | None = getattr(batches.images, "labels", None)
        if labels is None:
            raise InvalidValueError(
                f"{batches.images.name} has no labels, which a conditional GAN needs"
            )
        found = int(getattr(batches.images, "n_classes", 0))
        if found != n_classes:
            raise InvalidValueError(
                f"{batches.images.name} has {found} classes; n_classes is {n_classes}"
            )
        self.batches, self.n_classes, self.labels = batches, n_classes, labels

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        labels = self.labels[self.batches.indices(index)]
        return self.batches(index), F.one_hot(labels, self.n_classes).float()


def iterate_uint8(images: Images, batch_size: int = 256) -> Iterator[Tensor]:
    """All images in order, uint8 `(b, 3, h, w)`; grey is repeated."""
    for start in range(0, len(images), batch_size):
        batch = images[torch.arange(start, min(start + batch_size, len(images)))]
        yield batch.expand(-1, 3, -1, -1)
