"""Export a generator to ONNX and, if TensorRT-RTX is installed, to engines.

The input is a run directory of `python -m ard.compress` or any checkpoint. The output is a bundle:
a folder with the ONNX file, a manifest, latents to try it with, the script that builds an engine on
a Jetson and, if they can be built here, engines for desktop GPUs. Exit code 3 means that the
precision does not hold its quality budget; the bundle is then float32.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from export.bundle import BundleSettings, BundleSource, count_steps, write_bundle
from export.engines import Choice
from export.errors import MissingDenseError
from export.features import features_for
from export.manifest import BatchRange
from export.measuring import PrecisionOptions, check, make_planner, measuring_config
from export.precision_plan import PrecisionPlanner
from export.rewrites import ALL
from export.sources import checkpoint_of, dense_checkpoint_of
from export.speed import Timing
from export.summary import summary
from export.targets import TargetName, Targets, Via
from export.to_onnx import DEFAULT_OPSET, GraphSettings
from nas_gan.cli import BUDGET_MISSED, DONE, progress, run
from nas_gan.files import sha256
from nas_gan.generators import open_generator
from nas_gan.panels import ADDRESS, QUALITY, Panel
from nas_gan.remote.fetching import local_file

GRAPH, CHECK, ENGINE = Panel("graph"), Panel("parity check"), Panel("engines")


@dataclass(frozen=True)
class Config(PrecisionOptions):
    """What to export, and how."""

    run_or_checkpoint: Annotated[Path, tyro.conf.Positional, ADDRESS]
    """Run directory of `python -m ard.compress`, a checkpoint file, or a shipped one, zoo:NAME."""
    out: Path
    """Folder to write; a bundle that is already there is replaced."""
    target: tuple[TargetName, ...] = ()
    """What the bundle is for, besides ONNX Runtime: rtx, openvino, ncnn and torch get files of
    their own now; a Jetson builds its engine itself, and must know every operator."""
    dense: bool = True
    """Also export the dense generator of a run directory, into OUT/dense."""
    name: str = "model"
    """Stem of the file names of the graph and the engines."""

    opset: Annotated[int, GRAPH] = DEFAULT_OPSET
    """ONNX opset, 17 to 24."""
    rewrites: Annotated[bool, GRAPH] = True
    """Rewrite the graph so that it runs faster; it draws the same images."""

    with_features: Annotated[bool, QUALITY] = False
    """Add what a device needs to measure the quality of images itself: the feature network,
    statistics of the reference, and latents, as many as --quality-samples."""

    samples: Annotated[int, CHECK] = 64
    """Number of latents in the bundle, on which ONNX Runtime is compared with torch."""
    seed: Annotated[int, CHECK] = 0
    """Seed of these latents."""

    tensorrt_rtx: Annotated[Choice, ENGINE] = "auto"
    """Build TensorRT-RTX engines: if possible and nothing else is a --target (auto), or else fail
    (require), or never (off)."""
    via: Annotated[Via, ENGINE] = "onnx"
    """What makes an engine for the GPU of this machine, if asked for: torch-tensorrt."""
    batch: Annotated[tuple[int, int, int], ENGINE] = (1, 8, 64)
    """Smallest, usual and largest batch of an engine."""


def main(config: Config) -> int:
    """Load, export, and print what was written."""
    check(config)
    targets = Targets.of(config.target, config.tensorrt_rtx, config.via)
    targets.check()
    settings = BundleSettings(
        config.name,
        GraphSettings(opset=config.opset, rewrites=ALL if config.rewrites else ()),
        config.samples,
        config.seed,
        targets.engines,
        targets.boards,
        BatchRange(*config.batch),
    )
    source, planner = _load(config)
    with progress("exporting", count_steps(source, settings)) as advance:
        manifest = write_bundle(source, config.out, settings, convert=planner, advance=advance)
    sys.stdout.write(summary(config.out, settings.engines))
    missed = manifest.conversion is not None and manifest.conversion["missed"]
    return BUDGET_MISSED if missed else DONE


def _load(config: Config) -> tuple[BundleSource, PrecisionPlanner]:
    given = local_file(config.run_or_checkpoint)
    path = checkpoint_of(given)
    opened = open_generator(path, config)
    dense = None
    if config.dense and given.is_dir():
        try:
            dense = dense_checkpoint_of(given)
        except MissingDenseError as error:
            raise MissingDenseError(f"{error}; bring it back or use --no-dense") from error
    known = opened.interface if opened.interface.calling is not None else None
    opened_dense = None if dense is None else open_generator(dense, config, known=known)
    run_dir = given if given.is_dir() else None
    features = None
    if config.with_features:
        measuring = measuring_config(config, run_dir, config.seed)
        features = features_for(
            opened_dense or opened,
            measuring,
            images=config.quality_samples,
            run_dir=run_dir,
            progress=progress,
        )
    source = BundleSource(
        opened.generator,
        None if opened_dense is None else opened_dense.generator,
        opened.checkpoint.provenance | {"file": path.name, "sha256": sha256(path)},
        features,
    )
    planner = make_planner(
        config,
        opened,
        opened_dense,
        run_dir=run_dir,
        seed=config.seed,
        timing=Timing(config.batch[1], config.threads or torch.get_num_threads()),
        progress=progress,
    )
    return source, planner


if __name__ == "__main__":
    sys.exit(run(main, Config, prog="python -m export", description=__doc__))
