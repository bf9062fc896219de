"""What is measured of a generator along the way: its FID, its class score, its classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nas_gan.data.images import Images
from nas_gan.errors import InvalidValueError
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import blueprint, describe_networks
from nas_gan.training.seeds import Stream

if TYPE_CHECKING:
    from nas_gan.metrics.features import ClassExtractor, ExtractorName

logger = logging.getLogger(__name__)

# An averaged generator to its figures by name, such as `fid`.
Measure = Callable[[nn.Module], Mapping[str, float]]
# Opens a progress bar, given a description and a total; yields `advance(n)`.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


# What is computed from the features of a generator's images.
OF_FEATURES = ("fid", "is")


class Evaluated(Protocol):
    """The settings of a training or a search that say how its images are measured."""

    @property
    def dataset(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def eval_metrics(self) -> Collection[str]: ...

    @property
    def eval_samples(self) -> int: ...

    @property
    def reference(self) -> str: ...

    @property
    def features(self) -> ExtractorName: ...


@contextmanager
def no_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """No progress bar."""
    yield lambda n: None


def make_measure(
    config: TrainConfig, images: Images, *, progress: Progress = no_progress
) -> Measure | None:
    """A function that scores a generator, or None if no evaluation was asked for.

    `progress` shows the progress of the classifier, if one has to be trained first.

    Raises:
        InvalidValueError: an accuracy is asked for and the generator has no classes.
    """
    if not config.eval_every:
        return None
    scores = []
    if set(OF_FEATURES) & set(config.eval_metrics):
        scores.append(measure_features(config, images))
    if "accuracy" in config.eval_metrics:
        scores.append(_accuracy(config, images, progress))
    return lambda generator: {
        name: value for score in scores for name, value in score(generator).items()
    }


def measure_features(config: Evaluated, images: Images) -> Measure:
    """A function that scores a generator by the features of its images.

    `fid` is the distance to the reference that the settings name, with its standard error `fid_se`;
    `inception_score`, or `class_score` if the network is not Inception, comes with its deviation
    over parts of the images, such as `class_score_std`.
    """
    # Here, since a run that measures nothing need not wait for scipy.
    from nas_gan.metrics.doubts import few_for_a_distance
    from nas_gan.metrics.features import make_extractor
    from nas_gan.metrics.frechet import FrechetReference, statistics_of
    from nas_gan.metrics.reference import cache_dir, find_reference
    from nas_gan.metrics.sampling import extract_features

    extractor = make_extractor(config.features, device=config.device)
    reference = None
    if "fid" in config.eval_metrics:
        for doubt in few_for_a_distance(config.eval_samples, extractor.dim, "eval_samples"):
            logger.warning("%s", doubt)
        statistics, _ = find_reference(
            config.reference,
            extractor,
            dataset=config.dataset,
            data_sha256=images.digest,
            resolution=images[torch.zeros(1, dtype=torch.long)].shape[-1],
            data=lambda: images,
            cache=cache_dir(),
        )
        reference = FrechetReference(statistics)

    def measure(generator: nn.Module) -> Mapping[str, float]:
        interface, seed = interface_of(generator), config.seed + Stream.EVALUATION
        latents = latents_of(interface, config.eval_samples, seed)
        features = extract_features(generator, latents, extractor, device=config.device)
        found: dict[str, float] = {}
        if reference is not None:
            distance = reference.distance
            error = standard_error(features, lambda rows: distance(statistics_of(rows)))
            found |= {"fid": distance(statistics_of(features)), "fid_se": error}
        if "is" in config.eval_metrics:
            found |= _class_score(features, extractor, seed)
        return found

    return measure


def _class_score(
    features: npt.NDArray[np.float32], extractor: ClassExtractor, seed: int
) -> dict[str, float]:
    from nas_gan.metrics.class_score import SPLITS, StreamingClassScore

    n = len(features)
    score = StreamingClassScore(n, extractor.name, SPLITS if n >= SPLITS else 1, seed)
    score.update(np.arange(n), extractor.logits(features))
    result = score.result()
    name = "inception_score" if extractor.comparable else "class_score"
    return {name: result.mean, f"{name}_std": result.std}


def standard_error(
    features: npt.NDArray[np.float32],
    distance: Callable[[npt.NDArray[np.float32]], float],
    groups: int = 5,
) -> float:
    """The standard error of a distance by the jackknife that leaves out a group at a time.

    Efron and Stein 1981, for groups: `(g - 1) / g` times the sum of squared deviations of the g
    distances from their mean. Groups are taken with a stride, so that each holds every class.

    Args:
        features: `(n, d)` features of images.
        distance: of some of them to a reference.
        groups: g, at least 2.

    Returns:
        The standard error in the units of the distance; 0 where there are too few images.
    """
    if len(features) < 2 * groups:
        return 0.0
    number = np.arange(len(features)) % groups
    values = np.array([distance(features[number != group]) for group in range(groups)])
    return float(((groups - 1) / groups * np.square(values - values.mean()).sum()) ** 0.5)


def _accuracy(config: TrainConfig, images: Images, progress: Progress) -> Measure:
    """The share of images in which a classifier of the run's data sees the class asked for."""
    from nas_gan.metrics.classifier import class_accuracy, find_classifier, n_updates
    from nas_gan.metrics.reference import cache_dir

    if not interface_of(blueprint(describe_networks(config)[0])).conditional:
        raise InvalidValueError(
            f"accuracy among eval_metrics is for conditional generators; {config.model} has no "
            "classes"
        )
    with progress("classifier", n_updates(images)) as advance:
        classifier = find_classifier(images, cache=cache_dir(), on_update=advance)

    def measure(generator: nn.Module) -> Mapping[str, float]:
        n, seed = config.eval_samples, config.seed + Stream.EVALUATION
        found = class_accuracy(generator, classifier, n, seed, device=config.device)
        return {"accuracy": found}

    return measure
