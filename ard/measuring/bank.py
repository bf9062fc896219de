"""The dense generator on one bank of latents, against which candidates are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.sampling import extract_features


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference images, in the form that the metric needs.

    Attributes:
        source: where the reference came from, as reports show it.
        content: statistics, features or None, depending on the metric.
        dense: whether the images are the dense generator's own, in which case no value is
            comparable with published ones.
        n_images: how many images they are; None if that is not known.
    """

    source: str
    content: Any
    dense: bool
    n_images: int | None = None


@dataclass(frozen=True, eq=False)
class DenseBank:
    """A dense generator, latents that it shares with the candidates, and a feature extractor.

    Attributes:
        generator: the dense generator, on `device`.
        latents: `(n, latent_dim)`, labels included.
        extractor: maps images to features.
        reference: what the metric compares images with.
        seed: seed of everything random in a metric, such as resampled rows.
        batch_size: images per batch.
        device: the device that generators run on.
    """

    generator: nn.Module
    latents: Tensor
    extractor: FeatureExtractor
    reference: Reference
    seed: int
    batch_size: int = 64
    device: str = "cpu"

    def features_of(self, generator: nn.Module) -> npt.NDArray[np.float32]:
        """Features `(n, d)` of a generator's images, one row per latent of the bank."""
        return extract_features(
            generator,
            self.latents,
            self.extractor,
            batch_size=self.batch_size,
            device=self.device,
        )

    def first(self, n: int) -> DenseBank:
        """The bank of the first `n` latents; nothing is drawn that this one has drawn."""
        part = replace(self, latents=self.latents[:n])
        if "features" in self.__dict__:
            part.__dict__["features"] = self.features[:n]
        return part

    @cached_property
    def features(self) -> npt.NDArray[np.float32]:
        """Features `(n, d)` of the dense generator's images."""
        return self.features_of(self.generator)
