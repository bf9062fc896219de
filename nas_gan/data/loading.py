"""Data sets by name, as uint8 images with or without labels."""

from __future__ import annotations

import gzip
import logging
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas_gan.data.files import (
    WHITE,
    ImageFiles,
    Inspected,
    inspect_images,
    list_images,
    parse_colour,
)
from nas_gan.data.images import (
    ArrayImages,
    FileImages,
    Fit,
    Images,
    Labels,
    Size,
    image_labels,
    sides,
    to_grey,
    to_square,
)
from nas_gan.data.packaged import PACKAGES, load_packaged, packaged_path
from nas_gan.errors import InvalidValueError, MissingDataError, named, unknown_name
from nas_gan.progress import Progress, no_progress
from nas_gan.reading import open_file
from nas_gan.remote.fetching import local_copy

logger = logging.getLogger(__name__)

# Ten times the largest file of the MNIST family, unpacked.
MAX_IDX_BYTES = 512 << 20

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
    "crossfire",
    "noto-emoji",
    "openclipart",
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
    if magic != 2051 or min(n, rows, columns) < 1 or len(data) != 16 + n * rows * columns:
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
    if magic != 2049 or n < 1 or len(data) != 8 + n:
        raise MissingDataError(f"{path}: not an IDX label file, or cut short; get it again")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=8).astype(np.int64))


def _read_gzip(path: Path) -> bytes:
    try:
        with open_file(path) as packed, gzip.open(packed) as file:
            data = file.read(MAX_IDX_BYTES + 1)
    except InvalidValueError as error:
        raise MissingDataError(str(error)) from error
    except (OSError, EOFError, zlib.error) as error:
        raise MissingDataError(
            f"{path}: not a readable gzip file ({error}); get it again"
        ) from error
    if len(data) > MAX_IDX_BYTES:
        raise MissingDataError(f"{path}: unpacks to over {MAX_IDX_BYTES:,} bytes; get it again")
    return data


def load_dataset(
    name: str,
    *,
    size: Size,
    root: Path | None = None,
    channels: int = 3,
    fit: Fit = "crop",
    background: str = WHITE,
    labelled: bool = False,
    classes: int | None = None,
    progress: Progress = no_progress,
) -> Images:
    """The training images of a data set by name, in one size.

    Nothing is downloaded. Whatever is left out of a folder (files that cannot be read, hidden ones,
    those without the suffix of an image) is counted and named in a warning.

    Args:
        name: one of `DATASETS`.
        size: height and width in pixels, one number for a square.
        root: the root folder of torchvision; for `folder` the folder of images itself, whose
            subfolders are the classes; a folder that is looked into before the places of a package.
            It may be an address, whose files are copied first. By default NAS_GAN_DATA or `data`.
        channels: 3 for colour, 1 for grey.
        fit: how an image file becomes a square.
        background: colour that the transparent pixels of image files are laid over, by its name or
            as `#rrggbb`.
        labelled: whether labels are needed.
        classes: how many classes there must be if labels are needed; None for any number.
        progress: shows a bar while the files of a folder are looked at.

    Returns:
        The data set: `images[indices]` is uint8 `(n, channels, h, w)`.

    Raises:
        InvalidValueError: the name is not in `DATASETS`, the background is no colour, or the data
            set does not have the labels that are needed: it has none, another number of classes, a
            class without a readable image, or images beside its classes.
        MissingDataError: the files are missing; the message names every place that was searched.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    root = local_copy(root or Path(os.environ.get("NAS_GAN_DATA", "data")))
    parse_colour(background)
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
        found = list_images(root)
        if labelled:
            _check_class_folders(found, classes)
        images = _folder(found, size, channels, fit, background, labelled, progress)
    elif name == "openclipart":
        found = list_images(packaged_path(name, root))
        images = _folder(found, size, channels, fit, background, labelled, progress, name=name)
    elif name in PACKAGES:
        images = load_packaged(
            name,
            packaged_path(name, root),
            size,
            channels=channels,
            fit=fit,
            background=background,
            progress=progress,
        )
    else:
        images = _torchvision(name, root, size, channels, fit, progress)
    if labelled:
        _check_classes(images, classes)
    return images


def _check_classes(images: Images, wanted: int | None) -> None:
    labels = image_labels(images)
    if labels is None:
        raise InvalidValueError(
            f"{images.name} has no labels; use fashion_mnist, mnist, cifar10, cifar100, or a "
            "folder with a subfolder for each class"
        )
    if wanted is not None and labels.n_classes != wanted:
        raise InvalidValueError(
            f"{images.name} has {labels.n_classes} classes; n_classes is {wanted}"
        )


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


def _check_class_folders(found: ImageFiles, wanted: int | None) -> None:
    """What the paths tell of the classes, before any file is opened."""
    root, classes = found.root, [_class_of(found.root, file) for file in found.files]
    beside = [file.name for file, of in zip(found.files, classes, strict=True) if of is None]
    names = sorted({of for of in classes if of is not None})
    if beside and names:
        raise InvalidValueError(
            f"{root} has {len(beside)} images beside the folders of its classes ({named(beside)}); "
            f"move each into one of {named(names)}, or out of {root}"
        )
    if names and wanted is not None and len(names) != wanted:
        raise InvalidValueError(
            f"{root} has {len(names)} classes, the folders {named(names)}; n_classes is {wanted}"
        )


def _class_of(root: Path, file: Path) -> str | None:
    """The subfolder of `root` that a file is in, which is its class; None if it is in none."""
    first, *rest = file.relative_to(root).parts
    return first if rest else None


def _folder(
    found: ImageFiles,
    size: Size,
    channels: int,
    fit: Fit,
    background: str,
    labelled: bool,
    progress: Progress,
    *,
    name: str | None = None,
) -> FileImages:
    root = found.root
    with progress(f"looking at {root.name}", len(found.files)) as advance:
        seen = inspect_images(found.files, max(sides(size)), advance)
    files = [file for file in found.files if seen[file].problem is None]
    _report_left_out(found, seen, len(files))
    if labelled:
        lost = {_class_of(root, file) for file in found.files}
        lost -= {_class_of(root, file) for file in files}
        for name in sorted(filter(None, lost)):
            file = next(file for file in found.files if _class_of(root, file) == name)
            raise InvalidValueError(
                f"class {name} of {root} has no readable image, as {file} ({seen[file].problem}); "
                "replace them, or remove the folder"
            )
    transparent = [file for file in files if seen[file].transparent]
    if transparent:
        logger.warning(
            "%d of %d images below %s have transparent pixels, which are laid over %s, the setting "
            "background: %s",
            *(len(transparent), len(files), root, background),
            named(file.name for file in transparent),
        )
    return FileImages(
        name or f"folder:{root.name}",
        files,
        size,
        channels=channels,
        fit=fit,
        background=background,
        labels=_folder_labels(root, files),
        skipped=[file for file in found.files if seen[file].problem is not None],
        digests=[seen[file].sha256 for file in files],
    )


def _report_left_out(found: ImageFiles, seen: Mapping[Path, Inspected], n_readable: int) -> None:
    """Say what of a folder is not used.

    Raises:
        MissingDataError: none of its images can be read.
    """
    if others := found.describe_left_out():
        logger.warning("left out below %s: %s", found.root, others)
    broken = [f"{file} ({look.problem})" for file, look in seen.items() if look.problem is not None]
    if not broken:
        return
    text = f"{len(broken)} of {len(seen)} images below {found.root} cannot be read"
    if not n_readable:
        raise MissingDataError(f"{text}: {named(broken)}; replace them")
    logger.warning("%s and are left out: %s", text, named(broken))


def _folder_labels(root: Path, files: Sequence[Path]) -> Labels | None:
    """The classes of files by subfolder of `root`, numbered by name; None if a file is in none."""
    names = [_class_of(root, file) for file in files]
    if None in names:
        return None
    classes = {name: number for number, name in enumerate(sorted(set(filter(None, names))))}
    return Labels.counted(torch.tensor([classes[name] for name in names if name is not None]))


def _torchvision(
    name: str, root: Path, size: Size, channels: int, fit: Fit, progress: Progress
) -> Images:
    from torchvision import datasets

    classes = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10"}
    try:
        if name == "celeba":
            celeba = datasets.CelebA(root, split="train")
            folder = Path(celeba.root) / celeba.base_folder / "img_align_celeba"
            files = [folder / file for file in celeba.filename]
            return FileImages(name, files, size, channels=channels, fit=fit, progress=progress)
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


def synthetic_shapes(*, size: Size, n: int = 512, seed: int = 0, channels: int = 3) -> ArrayImages:
    """Bright discs of random position, radius and colour on black, for tests and smoke runs.

    Their ten classes are ranges of the radius.
    """
    rng = np.random.default_rng(seed)
    height, width = sides(size)
    rows, columns, least = np.arange(height) + 0.5, np.arange(width) + 0.5, min(height, width)
    centre = rng.uniform(0.3, 0.7, (n, 2, 1, 1)) * np.reshape([height, width], (2, 1, 1))
    radius = rng.uniform(0.1, 0.3, (n, 1, 1)) * least
    colour = rng.integers(64, 256, (n, 3, 1, 1))
    squared = (rows[:, None] - centre[:, 0]) ** 2 + (columns[None, :] - centre[:, 1]) ** 2
    inside = squared < radius**2
    images = torch.from_numpy((inside[:, None] * colour).astype(np.uint8))
    labels = torch.from_numpy(((radius.ravel() / least - 0.1) * 50).astype(np.int64))
    return ArrayImages(
        "synthetic", to_grey(images) if channels == 1 else images, Labels(labels, 10)
    )
