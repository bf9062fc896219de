"""What is measured of a generator during training: its FID, the accuracy of its classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

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

logger = logging.getLogger(__name__)

# An averaged generator to its figures by name, such as `fid`.
Measure = Callable[[nn.Module], Mapping[str, float]]
# Opens a progress bar, given a description and a total; yields `advance(n)`.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


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
    makers = {"fid": _fid, "accuracy": _accuracy}
    scores = [makers[name](config, images, progress) for name in config.eval_metrics]
    return lambda generator: {
        name: value for score in scores for name, value in score(generator).items()
    }


def _fid(config: TrainConfig, images: Images, progress: Progress) -> Measure:
    """The distance of a generator's images to the reference that a run names, and its noise."""
    # Here, since a run that measures nothing need not wait for scipy.
    from nas_gan.metrics.doubts import few_for_a_distance
    from nas_gan.metrics.features import make_extractor
    from nas_gan.metrics.frechet import FrechetReference, statistics_of
    from nas_gan.metrics.reference import cache_dir, find_reference
    from nas_gan.metrics.sampling import extract_features

    extractor = make_extractor(config.features, device=config.device)
    for doubt in few_for_a_distance(config.eval_samples, extractor.dim, "eval_samples"):
        logger.warning("%s", doubt)
    statistics, _ = find_reference(
        config.reference,
        extractor,
        dataset=config.dataset,
        resolution=images[torch.zeros(1, dtype=torch.long)].shape[-1],
        data=lambda: images,
        cache=cache_dir(),
    )
    reference = FrechetReference(statistics)

    def measure(generator: nn.Module) -> Mapping[str, float]:
        interface, seed = interface_of(generator), config.seed + Stream.EVALUATION
        latents = latents_of(interface, config.eval_samples, seed)
        features = extract_features(generator, latents, extractor, device=config.device)
        error = standard_error(features, lambda rows: reference.distance(statistics_of(rows)))
        return {"fid": reference.distance(statistics_of(features)), "fid_se": error}

    return measure


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
