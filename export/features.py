"""What a device needs to measure the quality of images itself: features, statistics, latents.

The feature network takes the images as bytes, so that numpy and ONNX Runtime are enough, and the
covariance of the reference is stored as a factor, so that nothing has to be decomposed there. The
latents are no part of any search.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ard.measuring.metrics import metric_named
from ard.session.setting import MeasuringConfig, Setting, load_setting, samples_of
from export.errors import ExportError
from export.interface import arrays_of
from nas_gan.files import write_bytes
from nas_gan.generators import OpenedGenerator
from nas_gan.metrics.features import EfficientNetLite0
from nas_gan.metrics.frechet import FrechetReference
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.progress import Progress

FEATURES, MEAN, FACTOR, PREFIX = (
    *("features.onnx", "reference_mean.npy", "reference_factor.npy", "quality_"),
)
# Offset from the seed, beyond those of `export.quality`.
ON_DEVICE = 24


@dataclass(frozen=True, eq=False)
class Features:
    """What the quality of a bundle's images is measured with.

    Attributes:
        network: the feature network as an ONNX file.
        reference: statistics of the reference, with the covariance as a factor.
        extractor: name of the feature space.
        source: where the reference came from.
        rows: latents `(n, *row_shape)`.
    """

    network: bytes
    reference: FrechetReference
    extractor: str
    source: str
    rows: Tensor

    def write(self, folder: Path, interface: GeneratorInterface) -> dict[str, Any]:
        """Write the files into a bundle; returns their entry in its manifest."""
        write_bytes(folder / FEATURES, self.network)
        np.save(folder / MEAN, self.reference.mean)
        np.save(folder / FACTOR, self.reference.factor)
        names = []
        for name, array in arrays_of(interface, self.rows).items():
            names.append(f"{PREFIX}{name}.npy")
            np.save(folder / names[-1], array)
        return {
            "features": FEATURES,
            "mean": MEAN,
            "factor": FACTOR,
            "inputs": names,
            "extractor": self.extractor,
            "reference": self.source,
            "samples": len(self.rows),
        }


def features_for(
    opened: OpenedGenerator,
    config: MeasuringConfig,
    *,
    images: int | None,
    run_dir: Path | None,
    progress: Progress,
) -> Features:
    """Features and reference of a run, or of a checkpoint by itself.

    Args:
        opened: the generator that the images are compared with: the dense one.
        config: how the run measured quality.
        images: number of images to compare; as many as the run did if None.
        run_dir: its directory, which may hold the reference.
        progress: shows a bar while a reference is made.

    Raises:
        ExportError: the run used another metric than the Fréchet distance, or features that do not
            take images as they are.
        NasGanError: the reference cannot be had.
    """
    if config.metric != "fid":
        raise ExportError(
            f"carries the Fréchet distance to a device; the run used {config.metric}",
            setting="with_features",
        )
    setting = load_setting(opened, config, run_dir=run_dir, progress=progress)
    if not isinstance(setting.extractor, EfficientNetLite0):
        raise ExportError(
            "takes the features efficientnet-lite0; images for "
            f"{setting.extractor.name} are resized outside of its graph",
            setting="with_features",
        )
    n = images or samples_of(config, metric_named(config.metric), setting.extractor)
    return _features(setting, setting.extractor, n, config.seed)


def _features(setting: Setting, extractor: EfficientNetLite0, n: int, seed: int) -> Features:
    return Features(
        extractor.to_onnx(),
        setting.reference.content,
        extractor.name,
        setting.reference.source,
        setting.latents(n, seed + ON_DEVICE, "held_out"),
    )
