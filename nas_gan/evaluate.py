"""Measure a generator: `python -m nas_gan.evaluate ckpt.pt --against dense.pt`."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from nas_gan.checkpoint import build_generator, import_builder, load_checkpoint
from nas_gan.cli import progress, run
from nas_gan.data import load_dataset
from nas_gan.devices import check_device
from nas_gan.errors import InvalidValueError
from nas_gan.files import write_json
from nas_gan.metrics.features import ExtractorName, make_extractor
from nas_gan.metrics.frechet import FrechetReference, PairedFid, statistics_of
from nas_gan.metrics.reference import cache_dir, dense_images, find_reference
from nas_gan.metrics.sampling import extract_features, latent_bank

RESAMPLES = 40
COMPARABLE = "pytorch-fid Inception on truncated bytes; comparable at equal N and reference"
NOT_COMPARABLE = "another feature space than published FIDs: compare within this extractor only"


@dataclass(frozen=True)
class EvaluateConfig:
    """Which generator, on how many images, in which features, against what."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A .pt or .safetensors file, dense or compressed."""
    against: Path | None = None
    """The dense generator: also reports ΔFID on the same latents, with a 95 % interval."""
    samples: int = 10_000
    seed: int = 20_000
    """Of the latents; another than `compress` uses, so that they are fresh."""
    features: ExtractorName = "auto"
    inception_weights: Path | None = None
    """pytorch-fid's weight file, where it cannot be downloaded."""
    reference: str = "auto"
    """auto, dense (the dense generator's own images), or a file with mu and sigma."""
    data_root: Path | None = None
    device: str = "cpu"
    batch_size: int = 64
    model: str | None = None
    """package.module:build for a checkpoint without an architecture."""
    out: Path | None = None
    """A JSON file for the result."""


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured and how; the ΔFID fields are None without a dense generator."""

    checkpoint: str
    against: str | None
    extractor: str
    comparable: bool
    protocol: str
    n: int
    seed: int
    reference: str
    fid: float
    fid_dense: float | None = None
    delta_fid: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


def main(config: EvaluateConfig) -> int:
    if config.samples < 2 or config.batch_size < 1 or config.seed < 0:
        raise InvalidValueError(
            f"--samples must be at least 2, --batch-size 1 and --seed 0; "
            f"got {config.samples}, {config.batch_size} and {config.seed}"
        )
    check_device(config.device)
    report = evaluate(config)
    if config.out is not None:
        write_json(config.out, asdict(report))
    Console().print(render(report))
    return 0


def evaluate(config: EvaluateConfig) -> EvaluationReport:
    """FID of the generator in a checkpoint and, beside a dense one, its paired ΔFID."""
    generator, provenance = _load(config.checkpoint, config)
    dense, dense_provenance = (
        (None, {}) if config.against is None else _load(config.against, config)
    )
    if dense is not None and _shapes(dense) != _shapes(generator):
        raise InvalidValueError(
            f"{config.checkpoint} takes and makes {_shapes(generator)}, {config.against} "
            f"{_shapes(dense)}: they cannot be compared on the same latents"
        )
    latent_dim, (_, _, resolution) = _shapes(generator)
    extractor = make_extractor(
        config.features,
        inception_weights=config.inception_weights,
        device=config.device,
        threads=torch.get_num_threads(),
    )
    dataset = provenance.get("dataset") or dense_provenance.get("dataset")
    statistics, source = find_reference(
        config.reference,
        extractor,
        dataset=dataset,
        resolution=resolution,
        data=lambda: load_dataset(str(dataset), size=resolution, root=config.data_root),
        dense=lambda: dense_images(
            dense or generator,
            latent_dim,
            config.samples,
            config.seed,
            batch_size=config.batch_size,
            device=config.device,
        ),
        cache=cache_dir(),
        progress=progress,
    )
    reference = FrechetReference(statistics)
    latents = latent_bank(config.samples, latent_dim, config.seed)

    def features_of(name: str, network: nn.Module) -> npt.NDArray[np.float32]:
        with progress(name, config.samples) as advance:
            return extract_features(
                network,
                latents,
                extractor,
                config.batch_size,
                device=config.device,
                progress=advance,
            )

    features = features_of("images", generator)
    shared: dict[str, Any] = dict(
        checkpoint=str(config.checkpoint),
        against=None if config.against is None else str(config.against),
        extractor=extractor.name,
        comparable=extractor.comparable,
        protocol=COMPARABLE if extractor.comparable else NOT_COMPARABLE,
        n=config.samples,
        seed=config.seed,
        reference=source,
    )
    if dense is None:
        return EvaluationReport(**shared, fid=reference.distance(statistics_of(features)))
    paired = PairedFid(
        reference, features_of("dense images", dense), resamples=RESAMPLES, seed=config.seed
    )
    with progress("interval", RESAMPLES) as advance:
        delta = paired.compare(features, bootstrap=True, progress=advance)
    return EvaluationReport(
        **shared,
        fid=delta.fid,
        fid_dense=delta.fid_dense,
        delta_fid=delta.delta,
        ci_low=delta.ci_low,
        ci_high=delta.ci_high,
    )


def render(report: EvaluationReport) -> Table:
    """The report as a table for people."""
    # A distance in another space must not be read as a published FID.
    metric = "FID" if report.comparable else f"Fréchet distance in {report.extractor}"
    table = Table("", "", show_header=False)
    table.add_row("checkpoint", report.checkpoint)
    table.add_row("features", report.extractor)
    table.add_row("", report.protocol)
    table.add_row("reference", report.reference)
    table.add_row("images", f"{report.n} (latent seed {report.seed})")
    table.add_row(metric, f"{report.fid:.4f}")
    if report.fid_dense is not None and report.delta_fid is not None:
        table.add_row("dense", f"{report.fid_dense:.4f}")
        table.add_row(
            "Δ against dense, 95 %",
            f"{report.delta_fid:+.4f}  [{report.ci_low:+.4f}, {report.ci_high:+.4f}]",
        )
        if report.fid_dense > 0:
            table.add_row("Δ relative to dense", f"{report.delta_fid / report.fid_dense:+.2%}")
    return table


def _load(path: Path, config: EvaluateConfig) -> tuple[nn.Module, dict[str, Any]]:
    checkpoint = load_checkpoint(path)
    build = import_builder(config.model) if config.model else None
    generator = build_generator(checkpoint, build)
    return generator.to(config.device), checkpoint.provenance


def _shapes(generator: Any) -> tuple[int, tuple[int, int, int]]:
    """Length of a latent and shape of an image."""
    channels, height, width = generator.image_shape
    return int(generator.latent_dim), (channels, height, width)


if __name__ == "__main__":
    sys.exit(run(main, EvaluateConfig, prog="python -m nas_gan.evaluate", description=__doc__))
