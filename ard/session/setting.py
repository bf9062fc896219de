"""A checkpoint loaded for scoring: its generator, feature extractor and reference statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import Tensor, nn

from ard.measuring.bank import DenseBank, Reference
from ard.measuring.metric import Metric, ReferenceRequest
from ard.measuring.metrics import MetricName, metric_named
from nas_gan.checkpoint import Checkpoint, build_generator, import_builder, load_checkpoint
from nas_gan.data.images import Fit, Images, recorded_fit
from nas_gan.data.loading import load_dataset
from nas_gan.devices import check_device
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.metrics.features import ExtractorName, FeatureExtractor, make_extractor
from nas_gan.metrics.reference import cache_dir, dense_images
from nas_gan.networks.interface import GeneratorInterface, interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.panels import FILES, MACHINE, QUALITY


@dataclass(frozen=True)
class MeasuringConfig:
    """How quality is measured; shared by every command that measures it."""

    metric: MetricName = "fid"
    """Quality metric whose rise the budget bounds: the Fréchet distance (fid) or a kernel distance
    (kid, mmd) on the same features."""
    samples: int | None = None
    """Images per score of a whole plan; by default four per feature for fid, from which its
    interval is as good as it gets, and 5000 for a kernel distance."""
    sweep_samples: Annotated[int, QUALITY] = 1000
    """Images per score of a single factorized layer."""
    features: Annotated[ExtractorName, QUALITY] = "auto"
    """Network whose features the metric compares; auto is Inception if its weights are available,
    else EfficientNet-Lite0."""
    inception_weights: Annotated[Path | None, FILES] = None
    """Weights of pytorch-fid's Inception, if they are not in torch's cache."""
    reference: Annotated[str, QUALITY] = "auto"
    """What the images are compared with: auto, dense (images of the dense generator) or an .npz
    file, with mu and sigma for the Fréchet distance or features for a kernel distance."""
    data_root: Annotated[Path | None, FILES] = None
    """Folder of the data set; needed if its reference statistics are not shipped."""
    model: Annotated[str | None, FILES] = None
    """Function package.module:build that builds the network of a bare state dict."""
    seed: Annotated[int, MACHINE] = 0
    """Seed of all random numbers: the same seed and settings repeat the run."""
    batch_size: Annotated[int, MACHINE] = 64
    """Images per batch when scoring."""
    device: str = "cpu"
    """Device to run on: cpu, cuda, cuda:1 and so on."""
    threads: Annotated[int | None, MACHINE] = None
    """Threads of torch on the CPU; torch's own choice if not given."""


@dataclass(frozen=True)
class Setting:
    """A dense generator on its device, and everything that is needed to score it.

    `load_images` loads the data set that the checkpoint names; None if it names none.
    """

    checkpoint: Checkpoint
    generator: nn.Module
    interface: GeneratorInterface
    extractor: FeatureExtractor
    metric: Metric
    reference: Reference
    load_images: Callable[[], Images] | None = None

    def latents(self, n: int, seed: int) -> Tensor:
        """A bank of `n` latents `(n, latent_dim)`, with labels if the generator is conditional."""
        return latents_of(self.interface, n, seed)

    @property
    def comparable(self) -> bool:
        """Whether distances are comparable with published ones: Inception and real images."""
        return self.extractor.comparable and not self.reference.dense

    @property
    def distance(self) -> str:
        """The name of the metric in tables and figures."""
        return self.metric.label(self.comparable)


def load_setting(path: Path, config: MeasuringConfig) -> Setting:
    """Load a checkpoint and find the features and the reference statistics for it.

    Raises:
        NasGanError: the file, its network or the reference statistics cannot be used.
    """
    check_device(config.device)
    checkpoint = load_checkpoint(path)
    build = import_builder(config.model) if config.model else None
    generator = build_generator(checkpoint, build).to(config.device).requires_grad_(False)
    interface = interface_of(generator)
    extractor = make_extractor(
        config.features,
        inception_weights=config.inception_weights,
        device=config.device,
        threads=config.threads,
    )
    dataset = checkpoint.provenance.get("dataset")
    resolution = interface.resolution
    fit = recorded_fit(checkpoint.provenance)
    load_images = _data_loader(dataset, resolution, config.data_root, fit)
    metric = metric_named(config.metric)
    reference = metric.find_reference(
        ReferenceRequest(
            wanted=config.reference,
            extractor=extractor,
            dataset=dataset,
            resolution=resolution,
            data=load_images,
            dense=lambda: dense_images(
                generator,
                max(samples_of(config, metric, extractor), 2 * extractor.dim),
                config.seed,
                batch_size=config.batch_size,
                device=config.device,
            ),
            cache=cache_dir(),
        )
    )
    return Setting(checkpoint, generator, interface, extractor, metric, reference, load_images)


def samples_of(config: MeasuringConfig, metric: Metric, extractor: FeatureExtractor) -> int:
    """The number of images per score of a whole plan."""
    return config.samples or metric.default_images(extractor)


def _data_loader(
    dataset: str | None, resolution: int, root: Path | None, fit: Fit
) -> Callable[[], Images] | None:
    if dataset is None:
        return None
    name = dataset

    def load() -> Images:
        try:
            return load_dataset(name, size=resolution, root=root, fit=fit)
        except InvalidValueError as error:  # a data set unknown to us counts as missing
            raise MissingDataError(str(error)) from error

    return load


def bank_of(setting: Setting, config: MeasuringConfig, n: int, seed: int) -> DenseBank:
    """The dense generator on its own bank of `n` latents."""
    return DenseBank(
        setting.generator,
        setting.latents(n, seed),
        setting.extractor,
        setting.reference,
        seed,
        batch_size=config.batch_size,
        device=config.device,
    )
