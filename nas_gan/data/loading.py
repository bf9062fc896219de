"""Data sets by name, as uint8 images with or without labels."""

from __future__ import annotations

import gzip
import logging
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas_gan.data.images import (
    IMAGE_SUFFIXES,
    NAMED,
    ArrayImages,
    FileImages,
    Fit,
    Images,
    Labels,
    broken_images,
    image_labels,
    to_grey,
    to_square,
)
from nas_gan.errors import InvalidValueError, MissingDataError, unknown_name

logger = logging.getLogger(__name__)

FASHION_MNIST_DIRS = (
    Path("/usr/share/datasets/fashion-mnist"),
    Path("/usr/share/dataset-fashion-mnist"),
)
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

    Nothing is downloaded. Files of a folder that cannot be read are left out, with a warning that
    names them.

    Args:
        name: one of `DATASETS`.
        size: height and width in pixels.
        root: the root folder of torchvision; for `folder` the folder of images itself, whose
            subfolders are the classes. By default NAS_GAN_DATA or `data`.
        channels: 3 for colour, 1 for grey.
        fit: how an image file becomes a square.
        labelled: whether labels are needed.

    Returns:
        The data set: `images[indices]` is uint8 `(n, channels, size, size)`.

    Raises:
        InvalidValueError: the name is not in `DATASETS`, or the data set has no labels although
            they are needed.
        MissingDataError: the files are missing; the message names every place that was searched.
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
            file = _fashion_mnist_file(root, "train-labels-idx1-ubyte.gz")
            labels = Labels.counted(read_idx_labels(file))
        images = ArrayImages(name, to_square(pixels, size, channels), labels)
    elif name == "folder":
        images = _folder(root, size, channels, fit)
    else:
        images = _torchvision(name, root, size, channels, fit)
    if labelled and image_labels(images) is None:
        raise InvalidValueError(
            f"{images.name} has no labels; use fashion_mnist, mnist, cifar10, cifar100, or a "
            "folder with a subfolder for each class"
        )
    return images


def _fashion_mnist_file(root: Path, file: str) -> Path:
    folders = (*FASHION_MNIST_DIRS, root, root / "FashionMNIST" / "raw")
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    looked = ", ".join(str(folder / file) for folder in folders)
    raise MissingDataError(
        f"Fashion-MNIST is not installed; looked for {looked}. "
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


def _folder_labels(root: Path, files: Sequence[Path]) -> Labels | None:
    """The classes of files by subfolder of `root`, numbered by name; None if a file is in none."""
    parts = [file.relative_to(root).parts for file in files]
    if any(len(part) == 1 for part in parts):
        return None
    classes = sorted({part[0] for part in parts})
    return Labels.counted(torch.tensor([classes.index(part[0]) for part in parts]))


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
            f"{name} is not in {root.resolve()}; set data_root or NAS_GAN_DATA to its folder, or "
            f'get it with: python -c "{command}"'
        ) from error
    if name == "mnist":
        pixels = data.data[:, None]
    else:
        pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2)
    labels = Labels.counted(torch.as_tensor(data.targets))
    return ArrayImages(name, to_square(pixels, size, channels), labels)


def synthetic_shapes(*, size: int, n: int = 512, seed: int = 0, channels: int = 3) -> ArrayImages:
    """Bright discs of random position, radius and colour on black, for tests and smoke runs.

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
    return ArrayImages(
        "synthetic", to_grey(images) if channels == 1 else images, Labels(labels, 10)
    )
