"""Measure a generator: `python -m nas_gan.evaluate ckpt.pt --against dense.pt`.

A folder of images or an `.npz` of uint8 images can be measured in its place, and can be the
reference: `python -m nas_gan.evaluate images/ --reference other/ --metrics fid kid is prc`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from torch import nn

from nas_gan.checkpoint import build_generator, import_builder, load_checkpoint
from nas_gan.cli import progress, run
from nas_gan.data.images import Images, recorded_fit
from nas_gan.data.loading import load_dataset
from nas_gan.devices import check_device
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.files import write_json
from nas_gan.metrics.collecting import Collected, Wanted, choose_rows, collect
from nas_gan.metrics.features import ClassExtractor, ExtractorName, make_extractor
from nas_gan.metrics.frechet import (
    DeltaFid,
    FeatureStatistics,
    FrechetReference,
    PairedFid,
    statistics_of,
)
from nas_gan.metrics.protocol import ProtocolName, find_protocol
from nas_gan.metrics.reference import (
    cache_dir,
    dense_images,
    find_reference,
    load_statistics,
    save_statistics,
)
from nas_gan.metrics.report import EvaluationReport, render
from nas_gan.metrics.scoring import (
    NEED_REFERENCE,
    NEED_REFERENCE_IMAGES,
    MetricName,
    score,
    wanted_of,
)
from nas_gan.metrics.sources import (
    DatasetSource,
    GeneratedSource,
    ImageSource,
    array_names,
    open_images,
)
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import StreamedLatents

RESAMPLES = 40
NOT_COMPARABLE = "another feature space than published FIDs: compare within this extractor only"
# Latents of a checkpoint that serves as reference are others than those of the one measured.
_REFERENCE_SEED = 0x5EED_0000


@dataclass(frozen=True)
class EvaluateConfig:
    """Which generator or images, by which metrics, in which features, against what."""

    source: Annotated[Path, tyro.conf.Positional]
    """A .pt or .safetensors file, dense or compressed; zoo:NAME for a shipped one; a folder or an
    .npz of images."""
    against: Path | None = None
    """The dense generator: also reports ΔFID on the same latents, with a 95 % interval. Features of
    all samples are then kept: 8 kB an image and side with Inception."""
    metrics: tuple[MetricName, ...] = ("fid",)
    """Any of fid kid is prc parzen msssim accuracy."""
    samples: int = 10_000
    """Images that a generator draws; folders and files are measured whole."""
    seed: int = 20_000
    """Of the latents; another than `compress` uses, so that they are fresh. Also of the subsets."""
    features: ExtractorName = "auto"
    protocol: ProtocolName = "legacy"
    """legacy: bytes and resizing as pytorch-fid and the published code; clean: as clean-fid."""
    inception_weights: Path | None = None
    """pytorch-fid's weight file, where it cannot be downloaded."""
    reference: str = "auto"
    """auto, dense (the dense generator's own images), a file with mu and sigma, a folder or an .npz
    of images, or another checkpoint."""
    kept: int = 10_000
    """Images a side whose features (kid, prc) or pixels (parzen) are kept: a random subset."""
    data_root: Path | None = None
    device: str = "cpu"
    batch_size: int = 64
    model: str | None = None
    """package.module:build for a checkpoint without an architecture."""
    out: Path | None = None
    """A JSON file for the result."""
    save_statistics: Path | None = None
    """An .npz for mean and covariance of the measured images, to be a --reference later."""


@dataclass(frozen=True)
class Subject:
    """Images to be measured, and the generator that makes them where there is one."""

    source: ImageSource
    generator: nn.Module | None
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """The other side: statistics, single images of it where a metric needs them, and its name."""

    name: str
    statistics: FeatureStatistics | None
    collected: Collected | None
    skipped: tuple[str, ...] = ()


def main(config: EvaluateConfig) -> int:
    report = evaluate(config)
    if config.out is not None:
        write_json(config.out, asdict(report))
    Console().print(render(report))
    return 0


def evaluate(config: EvaluateConfig) -> EvaluationReport:
    """Everything asked for, of a generator or of images; beside a dense one its paired ΔFID."""
    _check(config)
    subject = open_subject(config.source, config, config.seed)
    dense = None if config.against is None else _open_dense(config, subject)

    @functools.cache
    def extractor() -> ClassExtractor:
        return make_extractor(
            config.features,
            inception_weights=config.inception_weights,
            device=config.device,
            threads=torch.get_num_threads(),
            protocol=find_protocol(config.protocol),
        )

    reference = find_other_side(config, subject, dense, extractor)
    wanted = wanted_of(config.metrics, config.kept)
    wanted = replace(wanted, statistics=wanted.statistics or config.save_statistics is not None)
    if dense is not None:  # pairs of rows, and therefore all of them
        wanted = replace(wanted, statistics=False, features=len(subject.source))
    collected = _collect(subject.source, wanted, extractor, config, "images")
    delta = None
    if dense is not None:
        every = Wanted(features=len(dense.source))
        dense_side = _collect(dense.source, every, extractor, config, "dense images")
        collected = replace(collected, statistics=statistics_of(_features(collected)))
        assert reference is not None
        delta = _paired(config, reference, collected, dense_side)
    if config.save_statistics is not None:
        _save_statistics(config, subject, collected, extractor())
    looked = wanted.needs_features
    comparable = looked and extractor().comparable
    scores = score(
        config.metrics,
        collected,
        reference=reference.collected if reference else None,
        reference_statistics=reference.statistics if reference else None,
        comparable=comparable,
        kept=config.kept,
        seed=config.seed,
    )
    protocol = find_protocol(config.protocol)
    report = EvaluationReport(
        **vars(scores),
        source=str(config.source),
        against=None if config.against is None else str(config.against),
        extractor=extractor().name if looked else None,
        comparable=comparable,
        protocol=config.protocol,
        note=protocol.comparable_with if comparable else NOT_COMPARABLE if looked else "pixels",
        n=collected.n,
        seed=config.seed,
        reference=reference.name if reference else None,
        n_reference=_images_behind(reference),
        skipped=tuple(subject.source.skipped),
        skipped_in_reference=reference.skipped if reference else (),
    )
    if delta is not None:
        report = replace(
            report,
            fid=delta.fid,
            fid_dense=delta.fid_dense,
            delta_fid=delta.delta,
            ci_low=delta.ci_low,
            ci_high=delta.ci_high,
        )
    if "accuracy" in config.metrics:
        accuracy, by = _accuracy(config, subject)
        report = replace(report, accuracy=accuracy, accuracy_by=by)
    return report


def open_subject(path: Path, config: EvaluateConfig, seed: int) -> Subject:
    """The images behind a path: those in a folder or `.npz`, or those a checkpoint's net draws."""
    source = open_images(path)
    if source is not None:
        return Subject(source, None, {})
    checkpoint = load_checkpoint(path)
    build = import_builder(config.model) if config.model else None
    generator = build_generator(checkpoint, build).to(config.device)
    source = GeneratedSource(
        f"{config.samples} images of {path}",
        generator,
        StreamedLatents(interface_of(generator), config.samples, seed),
        device=config.device,
        quantize=find_protocol(config.protocol).quantize,
    )
    return Subject(source, generator, checkpoint.provenance)


def find_other_side(
    config: EvaluateConfig,
    subject: Subject,
    dense: Subject | None,
    extractor: Callable[[], ClassExtractor],
) -> Reference | None:
    """What the metrics compare with, as far as they need it; None where none compares."""
    metrics = [metric for metric in config.metrics if metric in NEED_REFERENCE]
    if not metrics:
        return None
    needs_images = any(metric in NEED_REFERENCE_IMAGES for metric in metrics)
    if config.reference in ("auto", "dense"):
        return _named_reference(config, subject, dense, extractor, needs_images)
    path = Path(config.reference)
    if path.suffix == ".npz" and "mu" in array_names(path):
        if needs_images:
            raise InvalidValueError(
                f"{path} holds statistics; {' and '.join(metrics)} need images: pass --reference a "
                "folder, an .npz of images, a checkpoint or dense"
            )
        return Reference(str(path), load_statistics(path, extractor()), None)
    other = open_subject(path, config, config.seed + _REFERENCE_SEED)
    wanted = wanted_of(config.metrics, config.kept, reference=True)
    collected = _collect(other.source, wanted, extractor, config, "reference")
    return Reference(
        other.source.name, collected.statistics, collected, tuple(other.source.skipped)
    )


def _named_reference(
    config: EvaluateConfig,
    subject: Subject,
    dense: Subject | None,
    extractor: Callable[[], ClassExtractor],
    needs_images: bool,
) -> Reference:
    """Statistics of the checkpoint's own data set, shipped or made, or of the dense generator."""
    generator = (dense or subject).generator
    if generator is None or subject.generator is None:
        raise InvalidValueError(
            f"{config.source} says nothing of a data set and has no generator; pass --reference a "
            "file of statistics, a folder, an .npz of images or a checkpoint"
        )
    beside = dense.provenance if dense else {}
    dataset = subject.provenance.get("dataset") or beside.get("dataset")
    resolution = interface_of(subject.generator).resolution

    @functools.cache
    def data() -> Images:
        return load_dataset(
            str(dataset),
            size=resolution,
            root=config.data_root,
            fit=recorded_fit(subject.provenance or beside),
        )

    @functools.cache
    def own_images() -> Images:
        return dense_images(
            generator,
            config.samples,
            config.seed,
            batch_size=config.batch_size,
            device=config.device,
            quantize=find_protocol(config.protocol).quantize,
        )

    statistics, name = None, ""
    if "fid" in config.metrics:
        statistics, name = find_reference(
            config.reference,
            extractor(),
            dataset=dataset,
            resolution=resolution,
            data=data,
            dense=own_images,
            cache=cache_dir(),
            progress=progress,
        )
    if not needs_images:
        return Reference(name, statistics, None)
    if config.reference == "auto" and dataset is None:
        raise MissingDataError(
            "the checkpoint names no data set to compare with; pass --reference a folder, an .npz "
            "of images, a checkpoint or dense"
        )
    images = data() if config.reference == "auto" else own_images()
    source = DatasetSource(images, choose_rows(len(images), config.kept, config.seed))
    wanted = replace(wanted_of(config.metrics, config.kept, reference=True), statistics=False)
    collected = _collect(source, wanted, extractor, config, "reference images")
    images_name = f"{len(source)} images of {images.name}"
    names = [part for part in (name, images_name) if part]
    return Reference("; single images: ".join(names), statistics, collected)


def _collect(
    source: ImageSource,
    wanted: Wanted,
    extractor: Callable[[], ClassExtractor],
    config: EvaluateConfig,
    label: str,
) -> Collected:
    if wanted == Wanted():  # accuracy alone: it draws images of its own
        return Collected(n=len(source))
    with progress(label, len(source)) as advance:
        return collect(
            source,
            wanted,
            extractor,
            seed=config.seed,
            batch_size=config.batch_size,
            advance=advance,
        )


def _paired(
    config: EvaluateConfig, reference: Reference, collected: Collected, dense: Collected
) -> DeltaFid:
    assert reference.statistics is not None
    paired = PairedFid(
        FrechetReference(reference.statistics),
        _features(dense),
        resamples=RESAMPLES,
        seed=config.seed,
    )
    with progress("interval", RESAMPLES) as advance:
        return paired.compare(_features(collected), bootstrap=True, progress=advance)


def _features(collected: Collected) -> Any:
    assert collected.features is not None
    return collected.features


def _images_behind(reference: Reference | None) -> int | None:
    if reference is None:
        return None
    if reference.statistics is not None:
        return reference.statistics.n
    return reference.collected.n if reference.collected else None


def _accuracy(config: EvaluateConfig, subject: Subject) -> tuple[float, str]:
    """Share of a conditional generator's images in the class asked for, and who judged."""
    from nas_gan.metrics.classifier import class_accuracy, find_classifier

    generator, dataset = subject.generator, subject.provenance.get("dataset")
    if generator is None or not interface_of(generator).conditional or dataset is None:
        raise InvalidValueError(
            f"{config.source}: accuracy is for a checkpoint of a conditional generator that names "
            "its data set; leave it out of --metrics"
        )
    channels, _, resolution = interface_of(generator).image_shape
    images = load_dataset(
        str(dataset),
        size=resolution,
        root=config.data_root,
        channels=channels,
        fit=recorded_fit(subject.provenance),
        labelled=True,
    )
    classifier = find_classifier(images, cache=cache_dir())
    accuracy = class_accuracy(
        generator,
        classifier,
        config.samples,
        config.seed,
        batch_size=config.batch_size,
        device=config.device,
    )
    by = f"a classifier that is right on {classifier.accuracy:.1%} of held-out {images.name}"
    return accuracy, by


def _save_statistics(
    config: EvaluateConfig, subject: Subject, collected: Collected, extractor: ClassExtractor
) -> None:
    assert config.save_statistics is not None
    assert collected.statistics is not None
    save_statistics(
        config.save_statistics,
        collected.statistics,
        extractor=extractor.name,
        dataset=subject.source.name,
        resolution=0,
        data_sha256="",
    )


def _open_dense(config: EvaluateConfig, subject: Subject) -> Subject:
    assert config.against is not None
    if "fid" not in config.metrics:
        raise InvalidValueError("--against reports ΔFID; let fid be among --metrics")
    dense = open_subject(config.against, config, config.seed)
    if subject.generator is None or dense.generator is None:
        raise InvalidValueError(
            "--against pairs two generators on the same latents; for images use --reference"
        )
    ours, theirs = interface_of(subject.generator), interface_of(dense.generator)
    if ours != theirs:
        raise InvalidValueError(
            f"{config.source} takes and makes {ours.describe()}, {config.against} "
            f"{theirs.describe()}: they cannot be compared on the same latents"
        )
    return dense


def _check(config: EvaluateConfig) -> None:
    if config.samples < 2 or config.batch_size < 1 or config.seed < 0 or config.kept < 2:
        raise InvalidValueError(
            f"--samples must be at least 2, --batch-size 1, --seed 0 and --kept 2; "
            f"got {config.samples}, {config.batch_size}, {config.seed} and {config.kept}"
        )
    if not config.metrics and config.save_statistics is None:
        raise InvalidValueError("--metrics names none, and there is no --save-statistics")
    check_device(config.device)


if __name__ == "__main__":
    sys.exit(run(main, EvaluateConfig, prog="python -m nas_gan.evaluate", description=__doc__))
