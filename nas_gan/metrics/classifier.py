"""A small classifier of a data set, to check whether conditional images show the class asked for.

It is trained on demand, for Fashion-MNIST in less than a minute on a CPU, and kept in the user's
cache folder under the digest of its data. The accuracy of conditional images is comparable among
generators judged by the same classifier; the classifier's own accuracy on held-out images is what
a perfect generator would reach.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_gan.cache import caching, is_cached
from nas_gan.data.batches import to_float
from nas_gan.data.images import Images, Labels, image_labels
from nas_gan.errors import CheckpointError, InvalidValueError
from nas_gan.metrics.sampling import generate_uint8
from nas_gan.networks.conditional import labels_of
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.seeds import folded
from nas_gan.weights.files import load_torch, save_torch
from nas_gan.weights.fitting import load_weights

# As the network with which such accuracies were published (two convolutions, two linear layers,
# dropout), but with strides instead of pooling, which is ten times as fast on a CPU.
WIDTHS = (32, 64, 128)
EPOCHS = 3
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
# One image in this many is held out for the classifier's own accuracy.
HELD_OUT = 10
# Largest number of images that are used, so that an epoch takes seconds.
MAX_IMAGES = 60_000
_FORMAT = "nas-gan-classifier-1"


class ImageClassifier(nn.Module):
    """`(n, c, h, w)` images in [-1, 1] to `(n, n_classes)` logits.

    Attributes:
        image_shape: `(c, h, w)`, h and w at least 4.
        n_classes: number of classes.
        accuracy: the share of held-out images that it classifies correctly, 0 to 1.
    """

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 4 or n_classes < 2:
            raise InvalidValueError(
                f"a classifier needs images of at least 4 px and 2 classes; got {height} x {width} "
                f"and {n_classes}"
            )
        self.image_shape, self.n_classes, self.accuracy = image_shape, n_classes, 0.0
        first, second, hidden = WIDTHS
        # Each convolution halves the image, rounded up.
        positions = -(-height // 4) * -(-width // 4)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, first, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(second * positions, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, n_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


def train_classifier(
    images: Images,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    on_update: Callable[[int], None] = lambda n: None,
) -> ImageClassifier:
    """Train a classifier on a labelled data set; it is returned in evaluation mode.

    The same data and seed give the same classifier; torch's global generator is left unchanged.
    `on_update(n)` is called after n more updates, of which there are `n_updates` in all.

    Raises:
        InvalidValueError: the data set has no labels, or too few images to hold any out.
    """
    known = _labels(images)
    labels = known.values
    order = np.random.default_rng(seed).permutation(len(labels))[:MAX_IMAGES]
    held_out, used = order[::HELD_OUT], np.delete(order, np.s_[::HELD_OUT])
    if not len(used):
        raise InvalidValueError(
            f"{images.name} has {len(labels)} images, which is too few to train on"
        )
    batch_size = min(BATCH_SIZE, len(used))
    per_epoch = len(used) // batch_size
    channels, height, width = images[torch.zeros(1, dtype=torch.long)].shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(folded(seed))  # weights and dropout
        classifier = ImageClassifier((channels, height, width), known.n_classes)
        optimizer = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=epochs * per_epoch + 1
        )
        for epoch in range(epochs):
            shuffled = np.random.default_rng([seed, epoch]).permutation(used)
            for start in range(0, per_epoch * batch_size, batch_size):
                chosen = torch.from_numpy(shuffled[start : start + batch_size])
                logits = classifier(to_float(images[chosen]))
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(logits, labels[chosen]).backward()
                optimizer.step()
                schedule.step()
                on_update(1)
    classifier.eval()
    right = sum(
        _n_right(classifier, to_float(images[chosen]), labels[chosen])
        for chosen in torch.from_numpy(held_out).split(BATCH_SIZE)
    )
    classifier.accuracy = right / len(held_out)
    return classifier


def n_updates(images: Images, epochs: int = EPOCHS) -> int:
    """Number of updates with which `train_classifier` trains on a data set."""
    n = min(len(images), MAX_IMAGES)
    n_used = n - -(-n // HELD_OUT)
    return epochs * (n_used // max(1, min(BATCH_SIZE, n_used)))


def find_classifier(
    images: Images,
    *,
    cache: Path | None,
    seed: int = 0,
    on_update: Callable[[int], None] = lambda n: None,
) -> ImageClassifier:
    """The classifier of a labelled data set, from the folder `cache` or newly trained.

    A file in the cache that is damaged or belongs to other data is replaced.

    Raises:
        InvalidValueError: the data set has no labels.
    """
    labels = _labels(images).values
    content = hashlib.sha256(f"{images.digest} {seed}".encode() + labels.numpy().tobytes())
    digest = content.hexdigest()
    path = None if cache is None else cache / f"classifier-{digest[:16]}.pt"
    if path is not None and is_cached(path):
        try:
            return _load(path, digest)
        except (CheckpointError, OSError):
            pass
    classifier = train_classifier(images, seed=seed, on_update=on_update)
    if path is not None:
        content_of = {
            "format": _FORMAT,
            "digest": digest,
            "image_shape": list(classifier.image_shape),
            "n_classes": classifier.n_classes,
            "accuracy": classifier.accuracy,
            "weights": classifier.state_dict(),
        }
        with caching(path):
            save_torch(content_of, path)
    return classifier


def _load(path: Path, digest: str) -> ImageClassifier:
    content = load_torch(path)
    try:
        if (content["format"], content["digest"]) != (_FORMAT, digest):
            raise CheckpointError(f"{path}: a classifier of other data; remove it")
        channels, height, width = content["image_shape"]
        classifier = ImageClassifier((channels, height, width), content["n_classes"])
        classifier.accuracy = float(content["accuracy"])
        load_weights(classifier, content["weights"])
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a classifier; remove it") from error
    return classifier.eval()


def class_accuracy(
    generator: nn.Module,
    classifier: ImageClassifier,
    n: int,
    seed: int,
    *,
    batch_size: int = 64,
    device: str = "cpu",
) -> float:
    """The share of `n` images that the classifier assigns to the class asked for, 0 to 1.

    Noise and labels are the latent bank of `seed`. The generator must be on `device`; the
    classifier sees the images as bytes, on the CPU.

    Raises:
        InvalidValueError: the generator does not have the classes or the image shape of the
            classifier.
    """
    interface = interface_of(generator)
    n_classes = interface.n_classes
    if n_classes != classifier.n_classes:
        raise InvalidValueError(
            f"the classifier has {classifier.n_classes} classes and the generator has "
            f"{n_classes}; class accuracy is for conditional generators of the same data"
        )
    shape = interface.image_shape
    if shape != classifier.image_shape:
        raise InvalidValueError(
            f"the classifier takes images {classifier.image_shape}, the generator makes {shape}"
        )
    latents = latents_of(interface, n, seed)
    asked = labels_of(latents, n_classes).split(batch_size)
    drawn = generate_uint8(generator, latents, batch_size=batch_size, device=device)
    # The channel of grey images is repeated.
    right = sum(
        _n_right(classifier, to_float(images[:, : shape[0]]), labels)
        for images, labels in zip(drawn, asked, strict=True)
    )
    return right / n


@torch.no_grad()
def _n_right(classifier: ImageClassifier, images: Tensor, labels: Tensor) -> int:
    return int((classifier(images).argmax(dim=1) == labels).sum())


def _labels(images: Images) -> Labels:
    labels = image_labels(images)
    if labels is None:
        raise InvalidValueError(f"{images.name} has no labels to train a classifier with")
    return labels
