"""Export a generator to ONNX and, if TensorRT-RTX is installed, to engines.

The input is a run directory of `python -m ard.compress` or any checkpoint. The output is a bundle:
a folder with the ONNX file, a manifest, latents to try it with, the script that builds an engine on
a Jetson and, if they can be built here, engines for desktop GPUs.
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
from nas_gan.builders import import_builder
from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.cli import progress, run
from nas_gan.files import sha256
from nas_gan.panels import Panel

# The last has the name of the field `engines`, whose options tyro puts into a panel of that name.
GRAPH, CHECK, ENGINE = Panel("graph"), Panel("parity check"), Panel("engines")


@dataclass(frozen=True)
class Config:
    """What to export, and how."""

    run_or_checkpoint: Annotated[Path, tyro.conf.Positional]
    """Run directory of `python -m ard.compress`, a checkpoint file, or a shipped one, zoo:NAME."""
    out: Path
    """Folder to write; a bundle that is already there is replaced."""
    precision: Precision = "fp32"
    """Arithmetic of the graph; latents and images are float32 in either case."""
    dense: bool = True
    """Also export the dense generator of a run directory, into OUT/dense."""
    model: str | None = None
    """Function that builds the network, as package.module:build, for a checkpoint that is only the
    state dict of a network of your own."""
    name: str = "model"
    """Stem of the file names of the graph and the engines."""

    opset: Annotated[int, GRAPH] = DEFAULT_OPSET
    """ONNX opset, 17 to 24."""
    rewrites: Annotated[bool, GRAPH] = True
    """Rewrite the graph so that it runs faster; it draws the same images."""

    samples: Annotated[int, CHECK] = 64
    """Number of latents in the bundle, on which ONNX Runtime is compared with torch."""
    seed: Annotated[int, CHECK] = 0
    """Seed of these latents."""

    engines: Annotated[tyro.conf.OmitArgPrefixes[Targets], ENGINE] = field(default_factory=Targets)
    """Engines that are built ahead of time, on this machine."""
    batch: Annotated[tuple[int, int, int], ENGINE] = (1, 8, 64)
    """Smallest, usual and largest batch of an engine."""


def main(config: Config) -> None:
    """Load, export, and print what was written."""
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
    build = import_builder(config.model, {}) if config.model else None
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
