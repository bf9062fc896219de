"""Batches of images: shuffled in [-1, 1] for training, or in order for evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas_gan.data.images import Images, image_labels
from nas_gan.errors import InvalidValueError

# Separates the random stream of mirrored images from that of an epoch's order.
_FLIP_STREAM = 1


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


class ShuffledBatches:
    """`batches(index)` is `(batch_size, c, h, w)` in [-1, 1]; each epoch is a fresh permutation.

    A batch only depends on the seed and the index, so that a run can be resumed. Images that do not
    fill the last batch of an epoch are left out of it. With `flip` each image is mirrored with a
    probability of one half.

    Raises:
        InvalidValueError: the data set is smaller than one batch.
    """

    def __init__(self, images: Images, batch_size: int, seed: int, *, flip: bool = False) -> None:
        if len(images) < batch_size:
            raise InvalidValueError(
                f"{images.name} has {len(images)} images, fewer than one batch of {batch_size}"
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
        """The rows of the images in batch `index`, `(batch_size,)`."""
        epoch, position = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
            self._order = torch.from_numpy(order)
            self._epoch = epoch
        start = position * self.batch_size
        return self._order[start : start + self.batch_size]


class LabelledBatches:
    """`batches(index)` is a pair: images as from `ShuffledBatches`, and one-hot labels.

    Raises:
        InvalidValueError: the data set has no labels, or not `n_classes` of them.
    """

    def __init__(self, batches: ShuffledBatches, n_classes: int) -> None:
        labels = image_labels(batches.images)
        if labels is None:
            raise InvalidValueError(
                f"{batches.images.name} has no labels, which a conditional GAN needs"
            )
        if labels.n_classes != n_classes:
            raise InvalidValueError(
                f"{batches.images.name} has {labels.n_classes} classes; n_classes is {n_classes}"
            )
        self.batches, self.n_classes, self.labels = batches, n_classes, labels.values

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        labels = self.labels[self.batches.indices(index)]
        return self.batches(index), F.one_hot(labels, self.n_classes).float()


def iterate_uint8(images: Images, batch_size: int = 256) -> Iterator[Tensor]:
    """All images in order, uint8 `(b, 3, h, w)`; grey is repeated."""
    for start in range(0, len(images), batch_size):
        batch = images[torch.arange(start, min(start + batch_size, len(images)))]
        yield batch.expand(-1, 3, -1, -1)
