"""A cheap proxy for scores: how far a choice moves the images of a few latents.

A distance between distributions of features needs thousands of images. How far each image moves
can be measured on a hundred or fewer. So the movement is measured for every choice of every layer
and the score for a few of them; a line through those, in logarithms, estimates the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ard.assembly.assembler import Assembler
from ard.assembly.prefix import MAX_BYTES, DensePrefix, only_layer
from ard.measuring.evaluate import Candidate, Evaluator
from ard.measuring.score import MOVEMENT, Score
from ard.plan import RankPlan, Replacement
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.sampling import extract_features, generate_uint8


class Proxy(Protocol):
    """How far a generator's images moved."""

    def __call__(self, generator: nn.Module, layer: str | None = None, /) -> float:
        """The movement; what the generator does before `layer` is what the dense one does."""
        ...


Choice = tuple[str, Replacement]  # a part and its choice

# The smallest rise, as a fraction of the largest one: noise can make a rise zero or negative, which
# has no logarithm.
MIN_SHARE = 1e-3
# How strongly a layer's own offset is shrunk towards the common one, in numbers of measurements.
SHRINKAGE = 1.0
# The prior slope of rise against movement, and its weight in numbers of measurements: features that
# move twice as far have a Fréchet distance about twice as large.
PRIOR_SLOPE, PRIOR_WEIGHT = 1.0, 3.0


@dataclass(frozen=True)
class MovementEvaluator:
    """An evaluator whose scores are movements, without an interval.

    Attributes:
        measure: maps a generator to how far its images have moved.
        n_images: the number of images.
        features: the network whose features are compared; empty if images are compared directly.
    """

    measure: Proxy
    n_images: int
    features: str

    def __call__(self, candidate: Candidate) -> Score:
        return self.score(self.measure(candidate.generator, only_layer(candidate.plan)))

    def score(self, moved: float) -> Score:
        """A movement as a score."""
        return Score(
            metric=MOVEMENT,
            value=moved,
            rise=moved,
            ci_low=moved,
            ci_high=moved,
            n_images=self.n_images,
            features=self.features,
            measured=True,
        )


@dataclass(frozen=True)
class Movement:
    """A function from a plan to the movement of its images: build the generator, then evaluate it.

    Where the assembler has made images of the evaluator's latents anyway, those are looked at.
    """

    assemble: Assembler
    evaluate: Evaluator

    def __call__(self, plan: RankPlan) -> Score:
        generator, images = self.assemble.with_images(plan)
        evaluate = self.evaluate
        if images is not None and isinstance(evaluate, MovementEvaluator):
            measure = evaluate.measure
            if isinstance(measure, FeatureError) and self._same(measure.latents, len(images)):
                return evaluate.score(measure.of_images(images))
        return evaluate(Candidate(lambda: generator, plan))

    def _same(self, latents: Tensor, n: int) -> bool:
        ours = self.assemble.latents[:n]
        return ours.shape == latents.shape and torch.equal(ours, latents.to(ours))


def image_error(
    dense: nn.Module, latents: Tensor, batch_size: int = 64, device: str = "cpu"
) -> Proxy:
    """Relative mean square error of images, `||x' - x||^2 / ||x||^2`, on latents `(n, latent_dim)`.

    Needs no feature extractor.
    """
    with torch.no_grad():
        target = torch.cat([dense(z.to(device)) for z in latents.split(batch_size)])
    scale = target.square().mean().clamp(min=1e-12)

    def measure(generator: nn.Module, layer: str | None = None) -> float:
        with torch.no_grad():
            images = torch.cat([generator(z.to(device)) for z in latents.split(batch_size)])
        return ((images - target).square().mean() / scale).item()

    return measure


class FeatureError:
    """Mean squared distance between the features of an image and of its dense counterpart.

    It is relative to the total variance of the features. A generator that differs from the dense
    one in one layer runs from that layer on.

    Args:
        dense: the dense generator, on `device`.
        latents: `(n, latent_dim)` latents.
        extractor: the network whose features are compared.
        batch_size: images per batch.
        device: the device of the generators.
    """

    def __init__(
        self,
        dense: nn.Module,
        latents: Tensor,
        extractor: FeatureExtractor,
        *,
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        self.latents, self.extractor = latents, extractor
        self.batch_size, self.device = batch_size, device
        parts = latents.split(batch_size)
        most = MAX_BYTES // len(parts)
        self._prefixes = [DensePrefix(dense, part.to(device), most) for part in parts]
        self._target = self._features_of(dense, None)
        self._scale = max(float(self._target.var(axis=0).sum()), 1e-12)

    def __call__(self, generator: nn.Module, layer: str | None = None, /) -> float:
        """How far the images of a generator moved; before `layer` it does what the dense one does.

        Raises:
            DivergedError: an image holds a NaN or an infinity.
        """
        return self._moved(self._features_of(generator, layer))

    def of_images(self, images: Tensor) -> float:
        """How far images `(n, c, h, w)` of the same latents moved.

        Raises:
            DivergedError: an image holds a NaN or an infinity.
        """
        [pixels] = generate_uint8(
            nn.Identity(), self.latents, batch_size=len(images), draw=lambda z: images
        )
        return self._moved(self.extractor(pixels).astype(np.float64))

    def _features_of(self, generator: nn.Module, layer: str | None) -> np.ndarray:
        found = [self._part_of(prefix, generator, layer) for prefix in self._prefixes]
        return np.concatenate(found).astype(np.float64)  # (n, dim)

    def _part_of(self, prefix: DensePrefix, generator: nn.Module, layer: str | None) -> np.ndarray:
        features = partial(
            extract_features, generator, prefix.latents, self.extractor, device=self.device
        )
        try:
            # What is remembered is of all of its latents.
            with prefix.skipped(generator, layer):
                return features(len(prefix.latents), halves=False)
        except torch.OutOfMemoryError:
            pass
        return features(self.batch_size)

    def _moved(self, features: np.ndarray) -> float:
        squares = np.square(features - self._target).sum(axis=1)
        return float(squares.mean()) / self._scale


def choose_anchors(
    movements: Mapping[Choice, float], costs: Mapping[str, float], n: int
) -> list[Choice]:
    """The `n` choices to score: the middle one of each layer, expensive layers first.

    Once every layer has one, the extremes follow, again of expensive layers first: the far end
    decides how far a layer can be compressed, and the near end anchors the slope.

    Args:
        movements: how far each choice moves the images.
        costs: the cost of each dense layer, by name.
        n: the number of choices.
    """
    by_layer: dict[str, list[Choice]] = {}
    for choice in sorted(movements, key=lambda choice: movements[choice]):
        by_layer.setdefault(choice[0], []).append(choice)
    layers = sorted(by_layer, key=lambda name: -costs[name])
    picks = [
        *(by_layer[name][len(by_layer[name]) // 2] for name in layers),
        *(by_layer[name][-1] for name in layers),
        *(by_layer[name][0] for name in layers),
    ]
    return list(dict.fromkeys(picks))[:n]


@dataclass(frozen=True)
class Calibration:
    """`log rise = offset + offset of the layer + slope * log movement`, fitted to measured choices.

    `of_layer` holds the offsets of the layers. `spread` is the standard deviation of the residuals:
    estimates are off by a factor of about `exp(spread)` either way.
    """

    slope: float
    offset: float
    of_layer: Mapping[str, float]
    spread: float

    def rise(self, choice: Choice, movement: float) -> float:
        """The expected rise of a choice that moves the images this far."""
        offset = self.offset + self.of_layer.get(choice[0], 0.0)
        return float(np.exp(offset + self.slope * np.log(max(movement, 1e-12))))


def calibrate_proxy(
    movements: Mapping[Choice, float], measured: Mapping[Choice, Score]
) -> Calibration:
    """Fit the line to the measured choices.

    Each layer has its own offset, shrunk towards the common one; the slope is shared.

    Raises:
        ValueError: no measured choice moves an image.
    """
    choices = [choice for choice in measured if movements.get(choice, 0) > 0]
    if not choices:
        raise ValueError("a calibration needs at least one measured choice that moves an image")
    largest = max(max(m.rise, m.ci_high / 2) for m in measured.values())
    floor = max(MIN_SHARE * largest, 1e-12)
    x = np.log([movements[choice] for choice in choices])
    y = np.log([max(measured[c].rise, measured[c].ci_high / 2, floor) for c in choices])
    # Least squares on centred values, with the prior slope as PRIOR_WEIGHT additional measurements
    # at unit distance from the centre.
    dx, dy = x - x.mean(), y - y.mean()
    slope = float((dx @ dy + PRIOR_WEIGHT * PRIOR_SLOPE) / (dx @ dx + PRIOR_WEIGHT))
    slope = max(slope, 0.1)
    offset = float(y.mean() - slope * x.mean())
    residuals = y - offset - slope * x
    names = [name for name, _ in choices]
    of_layer = {}
    for name in dict.fromkeys(names):
        own = [r for n, r in zip(names, residuals, strict=True) if n == name]
        of_layer[name] = float(np.sum(own) / (len(own) + SHRINKAGE))
    left = [r - of_layer[n] for n, r in zip(names, residuals, strict=True)]
    return Calibration(slope, offset, of_layer, float(np.std(left)))


def estimate(
    movements: Mapping[Choice, float], measured: Mapping[Choice, Score]
) -> dict[Choice, Score]:
    """A score for every choice: measured if available, otherwise estimated from the line.

    The interval of an estimate extends two spreads to either side, in logarithms.
    """
    line = calibrate_proxy(movements, measured)
    known = next(iter(measured.values()))
    dense_value = known.value - known.rise
    scores: dict[Choice, Score] = {}
    for choice, movement in movements.items():
        rise, factor = line.rise(choice, movement), float(np.exp(2 * line.spread))
        scores[choice] = measured.get(choice) or replace(
            known,
            value=dense_value + rise,
            rise=rise,
            ci_low=rise / factor,
            ci_high=rise * factor,
            n_images=0,
            measured=False,
        )
    return scores
