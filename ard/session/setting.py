"""A checkpoint loaded for scoring: its generator, feature extractor and reference statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from ard.measuring.bank import DenseBank, Reference
from ard.measuring.metric import Metric, ReferenceRequest
from ard.measuring.metrics import MetricName, metric_named
from nas_gan.checkpoint import Checkpoint
from nas_gan.data.images import Images, Size, recorded_background, recorded_fit
from nas_gan.data.loading import load_dataset
from nas_gan.devices import Device
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.generators import GeneratorOptions, OpenedGenerator, open_generator
from nas_gan.metrics.features import ExtractorName, FeatureExtractor, make_extractor
from nas_gan.metrics.reference import cache_dir, dense_images
from nas_gan.networks.interface import GeneratorInterface, Part
from nas_gan.networks.latents import latents_of
from nas_gan.networks.layout import put_channels_last_
from nas_gan.networks.memory import SHOWN_ROWS, fitting_rows
from nas_gan.panels import ADDRESS, FILES, MACHINE, QUALITY
from nas_gan.progress import Progress, no_progress


@dataclass(frozen=True)
class MeasuringConfig(GeneratorOptions):
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
    """What the images are compared with: auto, dense (images of the dense generator), a folder of
    images, or an .npz file of images, of features, or of mu and sigma for the Fréchet distance."""
    data_root: Annotated[Path | None, FILES, ADDRESS] = None
    """Folder of the data set; needed if its reference statistics are not shipped."""
    seed: Annotated[int, MACHINE] = 0
    """Seed of all random numbers: the same seed and settings repeat the run."""
    batch_size: Annotated[int, MACHINE] = 64
    """Images per batch when scoring."""
    device: Annotated[str, MACHINE] = "cpu"
    """Device to run on: cpu, cuda, cuda:1 and so on."""
    threads: Annotated[int | None, MACHINE] = None
    """Threads of torch on the CPU; torch's own choice if not given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", Device(self.device))


@dataclass(frozen=True)
class Setting:
    """A dense generator on its device, and everything that is needed to score it.

    `batch_size` is how many images are drawn at a time: as many as the settings say, or as fit into
    memory. `load_images` loads the data set that the checkpoint names; None if it names none.
    """

    checkpoint: Checkpoint
    generator: nn.Module
    interface: GeneratorInterface
    extractor: FeatureExtractor
    metric: Metric
    reference: Reference
    batch_size: int
    load_images: Callable[[], Images] | None = None

    def latents(self, n: int, seed: int, part: Part = "search") -> Tensor:
        """A bank of `n` latents `(n, latent_dim)`, with labels if the generator is conditional.

        For a network that takes images, inputs of that part, and fewer if there are no more.
        """
        return latents_of(self.interface, n, seed, part)

    @property
    def comparable(self) -> bool:
        """Whether distances are comparable with published ones: Inception and real images."""
        return self.extractor.comparable and not self.reference.dense

    @property
    def distance(self) -> str:
        """The name of the metric in tables and figures."""
        return self.metric.label(self.comparable)


def open_dense(checkpoint: Path, config: MeasuringConfig) -> OpenedGenerator:
    """The generator of a run, on its device, with the layout in memory that is faster there."""
    opened = open_generator(checkpoint, config, device=config.device)
    lay_out(opened, config.device)
    return opened


def lay_out(opened: OpenedGenerator, device: str) -> None:
    """Give a generator on a CPU the layout in memory that it is faster with, if it allows that."""
    if torch.device(device).type == "cpu":
        put_channels_last_(opened.generator, latents_of(opened.interface, SHOWN_ROWS, 0))


def load_setting(
    opened: OpenedGenerator,
    config: MeasuringConfig,
    *,
    run_dir: Path | None = None,
    progress: Progress = no_progress,
) -> Setting:
    """Find the features and the reference statistics for a generator.

    Args:
        opened: the generator, on the device of the settings.
        config: how its quality is scored.
        run_dir: the folder that keeps statistics of the dense generator's images, if not None.
        progress: shows a bar while a reference is drawn and looked at.

    Raises:
        NasGanError: the features or the reference cannot be used.
    """
    checkpoint = opened.checkpoint
    extractor = make_extractor(
        config.features,
        inception_weights=config.inception_weights,
        device=config.device,
        threads=config.threads,
    )
    dataset = checkpoint.provenance.get("dataset")
    resolution = opened.interface.resolution
    load_images = _data_loader(checkpoint, opened.interface.image_size, config.data_root)
    metric = metric_named(config.metric)
    batch_size = fitting_batch(opened, config)
    reference = metric.find_reference(
        ReferenceRequest(
            wanted=wanted_reference(config.reference, dataset),
            extractor=extractor,
            dataset=dataset,
            data_sha256=checkpoint.provenance.get("data_sha256"),
            resolution=resolution,
            data=load_images,
            dense=lambda: dense_images(
                opened.generator,
                max(samples_of(config, metric, extractor), 2 * extractor.dim),
                config.seed,
                batch_size=batch_size,
                device=config.device,
            ),
            cache=cache_dir(),
            run_dir=run_dir,
            progress=progress,
        )
    )
    return Setting(
        checkpoint,
        opened.generator,
        opened.interface,
        extractor,
        metric,
        reference,
        batch_size,
        load_images,
    )


def fitting_batch(opened: OpenedGenerator, config: MeasuringConfig) -> int:
    """Images that are drawn at a time: as many as the settings say, or as fit into memory."""
    few = latents_of(opened.interface, SHOWN_ROWS, config.seed).to(config.device)
    return fitting_rows(opened.generator, few, config.batch_size)


def wanted_reference(choice: str, dataset: str | None) -> str:
    """`dense` for `auto` if the checkpoint names no data set: there is nothing else."""
    return "dense" if choice == "auto" and dataset is None else choice


def samples_of(config: MeasuringConfig, metric: Metric, extractor: FeatureExtractor) -> int:
    """The number of images per score of a whole plan."""
    return config.samples or metric.default_images(extractor)


def unrecovered_images(samples: int, metric: Metric, extractor: FeatureExtractor) -> int:
    """The number of images that score the chosen plan before its recovery, which decides nothing.

    They are half of `samples`, the number of a score which does, but all of them if half would be
    less than half of what the metric calls enough.
    """
    return min(samples, -(-max(samples, metric.enough_images(extractor)) // 2))


def _data_loader(
    checkpoint: Checkpoint, size: Size, root: Path | None
) -> Callable[[], Images] | None:
    """Loads the data set of a checkpoint as its training did; None if it names none."""
    known = checkpoint.provenance
    if known.get("dataset") is None:
        return None
    fit, background = recorded_fit(known), recorded_background(known)

    def load() -> Images:
        try:
            return load_dataset(
                str(known["dataset"]), size=size, root=root, fit=fit, background=background
            )
        except InvalidValueError as error:  # a data set unknown to us counts as missing
            raise MissingDataError(str(error)) from error

    return load


def bank_of(
    setting: Setting, config: MeasuringConfig, n: int, seed: int, part: Part = "search"
) -> DenseBank:
    """The dense generator on its own bank of `n` latents."""
    return DenseBank(
        setting.generator,
        setting.latents(n, seed, part),
        setting.extractor,
        setting.reference,
        seed,
        batch_size=setting.batch_size,
        device=config.device,
    )
