"""Export a generator to ONNX and, where TensorRT-RTX is installed, to engines.

Takes a run directory of `python -m ard.compress` or any checkpoint, and writes a bundle: the ONNX
file, a manifest, engines or the script that builds one on a Jetson, and latents to try it with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.bundle import DENSE, count_steps, write_bundle
from export.errors import ExportError
from export.manifest import MANIFEST, BatchRange, Manifest, read_manifest
from export.precision import Precision
from export.rewrites import ALL
from export.to_onnx import DEFAULT_OPSET
from export.to_tensorrt import INSTALL, RtxChoice, rtx_available
from nas_gan.checkpoint import build_generator, import_builder, load_checkpoint
from nas_gan.cli import progress, run
from nas_gan.files import sha256
from nas_gan.zoo import local_path

LABELS = ("params", "MACs", "ONNX bytes", "largest difference", "PSNR dB", "engines for")


@dataclass(frozen=True)
class Config:
    """What to export, and how."""

    run_or_checkpoint: Annotated[Path, tyro.conf.Positional]
    """A run directory of `python -m ard.compress`, a checkpoint file, or a shipped zoo:NAME."""
    out: Path
    """Folder to write; a bundle that is there already is replaced."""
    precision: Precision = "fp32"
    """How the graph computes; its input and output are float32 at both."""
    opset: int = DEFAULT_OPSET
    """ONNX opset, 17 to 24."""
    rewrites: bool = True
    """Rewrite the graph to run faster and draw the same images; without, each layer is a node."""
    name: str = "model"
    """Stem of the ONNX file and the engines."""
    dense: bool = True
    """Of a run directory, export the uncompressed generator too, into OUT/dense."""
    model: str | None = None
    """`package.module:build`, for a checkpoint that is a bare state dict of another network."""
    samples: int = 64
    """Latents in the bundle, on which ONNX Runtime is compared with torch."""
    seed: int = 0
    """Seed of these latents."""
    tensorrt_rtx: RtxChoice = "auto"
    """Build TensorRT-RTX engines: auto where it is installed, require, or off."""
    batch: tuple[int, int, int] = (1, 8, 64)
    """Smallest, usual and largest batch of an engine."""


def main(config: Config) -> None:
    """Load, export, and print what came out."""
    batch = BatchRange(*config.batch)
    source, dense_source = _sources(config.run_or_checkpoint, config.dense)
    checkpoint = load_checkpoint(source)
    build = import_builder(config.model) if config.model else None
    dense = build_generator(load_checkpoint(dense_source), build) if dense_source else None
    steps = count_steps(dense=dense is not None, tensorrt_rtx=config.tensorrt_rtx)
    with progress("exporting", steps) as advance:
        manifest = write_bundle(
            build_generator(checkpoint, build),
            config.out,
            name=config.name,
            precision=config.precision,
            opset=config.opset,
            rewrites=ALL if config.rewrites else (),
            seed=config.seed,
            samples=config.samples,
            provenance=checkpoint.provenance | {"file": source.name, "sha256": sha256(source)},
            dense=dense,
            tensorrt_rtx=config.tensorrt_rtx,
            batch=batch,
            advance=advance,
        )
    _print(manifest, config)


def _sources(given: Path, with_dense: bool) -> tuple[Path, Path | None]:
    """The checkpoint to export, and that of the generator it was compressed from if asked for."""
    if not given.is_dir():
        return local_path(given), None
    compressed, settings = given / "compressed.pt", given / "config.json"
    if not compressed.is_file():
        raise ExportError(
            f"{given}: no compressed.pt in it; a run directory is what `python -m ard.compress` "
            "wrote, and a checkpoint is a file"
        )
    if not with_dense:
        return compressed, None
    try:
        written = Path(json.loads(settings.read_text(encoding="utf-8"))["checkpoint"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{settings}: does not name the checkpoint that was compressed ({error!r}); "
            "use --no-dense"
        ) from error
    # As it was given on the command line of the run: from there, or beside the run directory.
    for dense in (local_path(written), given / written, given.parent / written):
        if dense.is_file():
            return compressed, dense
    raise ExportError(
        f"{written}: the checkpoint that {settings} names is not there; bring it back or "
        "use --no-dense"
    )


def _print(manifest: Manifest, config: Config) -> None:
    console = Console()
    table = Table(
        "", title=f"{escape(str(config.out))} ({manifest.precision}, opset {manifest.opset})"
    )
    columns = list(_columns(manifest, config.out))
    for column in columns:
        table.add_column(column[0], justify="right")
    for label, *values in zip(LABELS, *(column[1:] for column in columns), strict=True):
        table.add_row(label, *values)
    console.print(table)
    inside = read_manifest(config.out / manifest.dense).not_built if manifest.dense else ()
    for entry in dict.fromkeys((*manifest.not_built, *inside)):
        console.print(
            f"not built for {entry.target} {entry.compute_capability}: {entry.reason}", markup=False
        )
    if config.tensorrt_rtx == "auto" and not rtx_available():
        console.print(f"no TensorRT-RTX engines: it is not installed ({INSTALL})", markup=False)
    console.print(f"{config.out / MANIFEST}", markup=False, soft_wrap=True)


def _columns(manifest: Manifest, folder: Path) -> Iterator[tuple[str, ...]]:
    psnr = manifest.parity["psnr_db"]
    yield (
        manifest.onnx,
        f"{manifest.params:,}",
        "-" if manifest.macs is None else f"{manifest.macs:,}",
        f"{manifest.files[manifest.onnx].bytes:,}",
        f"{manifest.parity['max_abs']:.2g}",
        "equal" if psnr is None else f"{psnr:.1f}",
        ", ".join(engine.compute_capability for engine in manifest.engines) or "none",
    )
    if manifest.dense is not None:
        yield from _columns(read_manifest(folder / DENSE), folder / DENSE)


if __name__ == "__main__":
    sys.exit(run(main, Config, prog="python -m export", description=__doc__))
