"""Export a generator to ONNX and, if TensorRT-RTX is installed, to engines.

Takes a run directory of `python -m ard.compress` or any checkpoint, and writes a bundle: the ONNX
file, a manifest, engines or the script that builds one on a Jetson, and latents to try it with.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from export.bundle import BundleSettings, BundleSource, count_steps, write_bundle
from export.errors import MissingDenseError
from export.manifest import BatchRange
from export.precision import Precision
from export.rewrites import ALL
from export.sources import checkpoint_of, dense_checkpoint_of
from export.summary import summary
from export.targets import Targets
from export.to_onnx import DEFAULT_OPSET, GraphSettings
from nas_gan.checkpoint import build_generator, import_builder, load_checkpoint
from nas_gan.cli import progress, run
from nas_gan.files import sha256


@dataclass(frozen=True)
class Config:
    """What to export, and how."""

    run_or_checkpoint: Annotated[Path, tyro.conf.Positional]
    """A run directory of `python -m ard.compress`, a checkpoint file, or a shipped zoo:NAME."""
    out: Path
    """The folder to write; a bundle that is already there is replaced."""
    precision: Precision = "fp32"
    """How the graph computes; its input and output are float32 in either case."""
    opset: int = DEFAULT_OPSET
    """ONNX opset, 17 to 24."""
    rewrites: bool = True
    """Rewrite the graph so that it runs faster and draws the same images."""
    name: str = "model"
    """Stem of the ONNX file and the engines."""
    dense: bool = True
    """Export the uncompressed generator of a run directory too, into OUT/dense."""
    model: str | None = None
    """`package.module:build`, for a checkpoint that is only the state dict of another network."""
    samples: int = 64
    """Number of latents in the bundle, on which ONNX Runtime is compared with torch."""
    seed: int = 0
    """Seed of these latents."""
    engines: tyro.conf.OmitArgPrefixes[Targets] = field(default_factory=Targets)
    batch: tuple[int, int, int] = (1, 8, 64)
    """Smallest, usual and largest batch of an engine."""


def main(config: Config) -> None:
    """Load, export, and print what came out."""
    settings = BundleSettings(
        config.name,
        GraphSettings(config.precision, config.opset, ALL if config.rewrites else ()),
        config.samples,
        config.seed,
        config.engines.choices(),
        BatchRange(*config.batch),
    )
    source = _load(config)
    with progress("exporting", count_steps(source, settings)) as advance:
        write_bundle(source, config.out, settings, advance=advance)
    sys.stdout.write(summary(config.out, settings.engines))


def _load(config: Config) -> BundleSource:
    given = config.run_or_checkpoint
    build = import_builder(config.model) if config.model else None
    path = checkpoint_of(given)
    checkpoint = load_checkpoint(path)
    dense = None
    if config.dense and given.is_dir():
        try:
            dense = build_generator(load_checkpoint(dense_checkpoint_of(given)), build)
        except MissingDenseError as error:
            raise MissingDenseError(f"{error}; bring it back or use --no-dense") from error
    return BundleSource(
        build_generator(checkpoint, build),
        dense,
        checkpoint.provenance | {"file": path.name, "sha256": sha256(path)},
    )


if __name__ == "__main__":
    sys.exit(run(main, Config, prog="python -m export", description=__doc__))
