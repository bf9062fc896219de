"""The dense generator on one bank of latents, which every candidate is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.sampling import extract_features


@dataclass(frozen=True, eq=False)
class Reference:
    """What generators are compared with beside the dense one.

    Attributes:
        source: where it came from, in words that reports show.
        content: statistics, features or nothing, as the metric that found it wants them.
        dense: whether it is made of the dense generator's own images, so that no value compares
            with a published one.
    """

    source: str
    content: Any
    dense: bool


@dataclass(frozen=True, eq=False)
class DenseBank:
    """A dense generator, the latents that it shares with candidates, and how their images are seen.

    Attributes:
        generator: the dense generator, on `device`.
        latents: `(n, latent_dim)`, labels included.
        extractor: images to features.
        reference: what the metric compares with.
        seed: of everything that a metric draws by itself, such as resampled rows.
        batch_size: images that are generated at once.
        device: where generators run.
    """

    generator: nn.Module
    latents: Tensor
    extractor: FeatureExtractor
    reference: Reference
    seed: int
    batch_size: int = 64
    device: str = "cpu"

    def features_of(self, generator: nn.Module) -> npt.NDArray[np.float32]:
        """Features `(n, d)` of a generator's images on the bank, row by row."""
        return extract_features(
            generator,
            self.latents,
            self.extractor,
            batch_size=self.batch_size,
            device=self.device,
        )

    @cached_property
    def features(self) -> npt.NDArray[np.float32]:
        """Those of the dense generator."""
        return self.features_of(self.generator)
