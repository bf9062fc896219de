"""A reference that was given by its path: statistics, features, or images to take them from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nas_gan.data.files import content_digests
from nas_gan.errors import InvalidValueError, MissingDataError, named
from nas_gan.files import sha256
from nas_gan.metrics.collecting import choose_rows
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.sources import FolderSource, ImageSource, array_names, open_images
from nas_gan.npz import open_npz
from nas_gan.progress import Progress, no_progress
from nas_gan.remote.fetching import local_copy

logger = logging.getLogger(__name__)

HOLDS = "a folder of images, or an .npz file of images, of features, or of mu and sigma"
# What `--reference` may be besides a path.
NAMED = ("auto", "dense")
_BATCH = 64


@dataclass(frozen=True, eq=False)
class GivenReference:
    """What lies at a path.

    Attributes:
        name: the path as it was given.
        path: of the file or folder on this machine.
        images: what to take features of; None for a file of statistics or features.
        arrays: names of the arrays in the file, if it is one of statistics or features.
    """

    name: str
    path: Path
    images: ImageSource | None
    arrays: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """Identifies the bytes of the file, or of all images of the folder in their order."""
        if not isinstance(self.images, FolderSource):
            return sha256(self.path)
        return hashlib.sha256("\n".join(content_digests(self.images.files)).encode()).hexdigest()


def open_given(name: str) -> GivenReference:
    """What lies at the path that a user gave as the reference.

    Raises:
        MissingDataError: there is nothing, or a folder without images.
        InvalidValueError: it is neither a folder nor an `.npz` file of one of these.
    """
    path = local_copy(Path(name))
    if path.is_dir():
        return GivenReference(name, path, FolderSource(path))
    if not path.exists():
        raise MissingDataError(f"{path}: no such file or folder; give {HOLDS}")
    other = f"{path}: neither a folder nor an .npz file; give {HOLDS}, and unpack an archive"
    try:
        arrays = frozenset(array_names(path))
    except InvalidValueError as error:
        raise error if path.suffix == ".npz" else InvalidValueError(other) from error
    if arrays & {"mu", "sigma", "sigma_triu", "features"}:
        return GivenReference(name, path, None, arrays)
    if path.suffix != ".npz":  # any zip file has members, and a checkpoint is one
        raise InvalidValueError(other)
    return GivenReference(name, path, open_images(path), arrays)


def features_of_images(
    given: GivenReference,
    extractor: FeatureExtractor,
    progress: Progress = no_progress,
    most: int | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Features of the images of a reference, a batch `(b, dim)` at a time and in order.

    Args:
        given: the reference.
        extractor: the network that looks at the images, each at its own size.
        progress: shows a bar.
        most: look at a random subset of so many, the same in every run, if there are more.

    Raises:
        MissingDataError: no image can be read.
        InvalidValueError: fewer than two can.
    """
    source = given.images
    assert source is not None
    n = len(source)
    chosen = np.zeros(n, dtype=bool)
    chosen[choose_rows(n, n if most is None else most, 0)] = True
    found = 0
    with progress("reference", int(chosen.sum())) as advance:
        for batch in source.batches(_BATCH):
            images = batch.images[torch.from_numpy(chosen[batch.rows])]
            if len(images):
                yield np.asarray(extractor(images), dtype=np.float32)
                found += len(images)
                advance(len(images))
    if source.skipped:
        logger.warning(
            "%d of %d images of the reference cannot be read and are left out: %s",
            *(len(source.skipped), n, named(source.skipped)),
        )
    if found < 2:
        raise InvalidValueError(
            f"{given.name} holds {found} image that can be read; a reference needs two or more",
            setting="reference",
        )


def load_features(path: Path, extractor: FeatureExtractor) -> npt.NDArray[np.float32]:
    """The features `(n, dim)` in the array `features` of an `.npz` file, one row per image.

    Raises:
        InvalidValueError: there is no such array, it is of another feature space, or not finite.
    """
    with open_npz(path, "reference features") as file:
        if "features" not in file.files:
            raise InvalidValueError(
                f"{path}: single images are needed, as an array `features` with a row for each, "
                f"or as images; found {', '.join(sorted(file.files)) or 'nothing'}"
            )
        features = np.asarray(file["features"], dtype=np.float32)
    if features.ndim != 2 or features.shape[1] != extractor.dim or len(features) < 2:
        raise InvalidValueError(
            f"{path}: features of shape {features.shape}; {extractor.name} has {extractor.dim} "
            "per image, and two images or more are needed"
        )
    if not np.isfinite(features).all():
        raise InvalidValueError(f"{path}: the features hold a NaN or an infinity")
    return features
