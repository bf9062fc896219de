"""Data sets as uint8 images, and as shuffled batches in [-1, 1]."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError, MissingDataError

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


class Images(Protocol):
    """A data set: `images[indices]` is uint8 `(n, 3, h, w)`, `digest` tells its content."""

    name: str
    digest: str

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor: ...


class ArrayImages:
    """Images that fit in memory, uint8 `(n, 3, h, w)`."""

    def __init__(self, name: str, images: Tensor) -> None:
        self.name, self.images = name, images
        self.digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.images[indices]


class FileImages:
    """Image files read when they are asked for, resized to cover a square and centre-cropped."""

    def __init__(self, name: str, files: list[Path], size: int) -> None:
        self.name, self.files, self.size = name, files, size
        listing = "\n".join(f"{file.name} {file.stat().st_size}" for file in files)
        self.digest = hashlib.sha256(f"{size}\n{listing}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.stack([read_image(self.files[i], self.size) for i in indices.tolist()])


def read_image(path: Path, size: int) -> Tensor:
    """One image file as uint8 `(3, size, size)`: scaled to cover the square, then centre-cropped.

    Raises:
        MissingDataError: the file is not an image that Pillow reads.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MissingDataError(
            f"{path}: not a readable image ({error}); remove or replace it"
        ) from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def read_idx_images(path: Path) -> Tensor:
    """A gzipped IDX file of the MNIST family as uint8 `(n, 1, h, w)`.

    Raises:
        MissingDataError: the file is not gzip, not IDX, or damaged.
    """
    try:
        with gzip.open(path) as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise MissingDataError(
            f"{path}: not a readable gzip file ({error}); get it again"
        ) from error
    magic, n, rows, columns = struct.unpack(">4i", data[:16].ljust(16, b"\0"))
    if magic != 2051 or len(data) != 16 + n * rows * columns:
        raise MissingDataError(f"{path}: not an IDX image file, or cut short; get it again")
    pixels = np.frombuffer(data, dtype=np.uint8, offset=16).reshape(n, 1, rows, columns)
    return torch.from_numpy(pixels.copy())


def to_square(images: Tensor, size: int) -> Tensor:
    """uint8 `(n, c, h, w)` to `(n, 3, size, size)`: grey repeated, 28 px padded, others resized.

    Padding 28 px to 32 px keeps the strokes as they are; any other change of size interpolates.
    """
    height = images.shape[-1]
    if height == 28 and size == 32:
        images = F.pad(images, (2, 2, 2, 2))
    elif height != size:
        resized = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        images = resized.round().clamp(0, 255).to(torch.uint8)
    return images.expand(-1, 3, -1, -1).contiguous() if images.shape[1] == 1 else images


def load_dataset(name: str, *, size: int, root: Path | None = None) -> Images:
    """The training images of a data set by name, square, `size` pixels wide.

    `root` is a torchvision root folder, for `folder` the folder of images itself. Nothing is
    downloaded.

    Raises:
        InvalidValueError: the name is not in `DATASETS`.
        MissingDataError: the files are not there; the message names every place looked at.
    """
    if name not in DATASETS:
        raise InvalidValueError(
            f"data set {name!r} is not known; choose one of {', '.join(DATASETS)}"
        )
    root = root or Path(os.environ.get("NAS_GAN_DATA", "data"))
    if name == "synthetic":
        return synthetic_shapes(size=size)
    if name == "fashion_mnist":
        return ArrayImages(name, to_square(read_idx_images(_fashion_mnist_file(root)), size))
    if name == "folder":
        return _folder(root, size)
    return _torchvision(name, root, size)


def _fashion_mnist_file(root: Path) -> Path:
    file = "train-images-idx3-ubyte.gz"
    folders = (*FASHION_MNIST_DIRS, root, root / "FashionMNIST" / "raw")
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    looked = ", ".join(str(folder / file) for folder in folders)
    raise MissingDataError(
        f"Fashion-MNIST is not on this machine; looked for {looked}. "
        "Get it with: apt-get install dataset-fashion-mnist"
    )


def _folder(root: Path, size: int) -> FileImages:
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise MissingDataError(f"no {', '.join(IMAGE_SUFFIXES)} files below {root}")
    return FileImages(f"folder:{root.name}", files, size)


def _torchvision(name: str, root: Path, size: int) -> Images:
    from torchvision import datasets

    makers = {
        "mnist": lambda: datasets.MNIST(root, train=True).data[:, None],
        "cifar10": lambda: torch.from_numpy(datasets.CIFAR10(root, train=True).data).permute(
            0, 3, 1, 2
        ),
        "cifar100": lambda: torch.from_numpy(datasets.CIFAR100(root, train=True).data).permute(
            0, 3, 1, 2
        ),
        "stl10": lambda: torch.from_numpy(datasets.STL10(root, split="train+unlabeled").data),
    }
    try:
        if name == "celeba":
            celeba = datasets.CelebA(root, split="train")
            folder = Path(celeba.root) / celeba.base_folder / "img_align_celeba"
            return FileImages(name, [folder / file for file in celeba.filename], size)
        return ArrayImages(name, to_square(makers[name](), size))
    except (RuntimeError, FileNotFoundError) as error:
        classes = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10"}
        cls = classes.get(name, "CelebA")
        command = f"from torchvision.datasets import {cls}; {cls}({str(root)!r}, download=True)"
        raise MissingDataError(
            f"{name} is not in {root.resolve()} (set --data-root or NAS_GAN_DATA). "
            f'Get it with: python -c "{command}"'
        ) from error


def synthetic_shapes(*, size: int, n: int = 512, seed: int = 0) -> ArrayImages:
    """Bright discs of random place, radius and colour on black: data for tests and smoke runs."""
    rng = np.random.default_rng(seed)
    grid = np.arange(size) + 0.5
    centre = rng.uniform(0.3, 0.7, (n, 2, 1, 1)) * size
    radius = rng.uniform(0.1, 0.3, (n, 1, 1)) * size
    colour = rng.integers(64, 256, (n, 3, 1, 1))
    inside = (grid[:, None] - centre[:, 0]) ** 2 + (grid[None, :] - centre[:, 1]) ** 2 < radius**2
    return ArrayImages("synthetic", torch.from_numpy((inside[:, None] * colour).astype(np.uint8)))


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


class ShuffledBatches:
    """`batches(index)` is `(batch_size, 3, h, w)` in [-1, 1]; each epoch is a fresh permutation.

    A batch depends on nothing but the seed and the index, so a run resumes where it stopped. The
    images that do not fill a last batch sit that epoch out.

    Raises:
        InvalidValueError: the data set is smaller than one batch.
    """

    def __init__(self, images: Images, batch_size: int, seed: int) -> None:
        if len(images) < batch_size:
            raise InvalidValueError(
                f"{images.name} has {len(images)} images, less than one batch of {batch_size}"
            )
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.per_epoch = len(images) // batch_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def __call__(self, index: int) -> Tensor:
        epoch, position = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
            self._order = torch.from_numpy(order)
            self._epoch = epoch
        start = position * self.batch_size
        return to_float(self.images[self._order[start : start + self.batch_size]])


def iterate_uint8(images: Images, batch_size: int = 256) -> Iterator[Tensor]:
    """All images in order, uint8 `(b, 3, h, w)`."""
    for start in range(0, len(images), batch_size):
        yield images[torch.arange(start, min(start + batch_size, len(images)))]
