"""What an export made, for the person who ran it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from export.engines import EngineChoice
from export.manifest import MANIFEST, Manifest, inside, read_manifest
from nas_gan.tables import text_table

ROWS = ("params", "MACs", "ONNX bytes", "largest difference", "PSNR dB", "engines for")


def summary(out: Path, engines: Iterable[EngineChoice]) -> str:
    """The bundle in `out` and the one inside it as a table, and below it what is missing."""
    manifest = read_manifest(out)
    manifests = [manifest]
    if manifest.dense is not None:
        manifests.append(read_manifest(inside(out, manifest.dense)))
    cells = zip(ROWS, *map(_column, manifests), strict=True)
    lines = [
        f"{out} ({manifest.precision}, opset {manifest.opset})",
        text_table(["", *(found.onnx for found in manifests)], list(cells)),
        *dict.fromkeys(line for found in manifests for line in _not_built(found)),
    ]
    lines += [
        f"no {wanted.target.name} engines: its builder is not installed ({wanted.target.install})"
        for wanted in engines
        if wanted.choice == "auto" and not wanted.target.is_installed()
    ]
    return "\n".join([*lines, str(out / MANIFEST)]) + "\n"


def _column(manifest: Manifest) -> tuple[str, ...]:
    psnr = manifest.parity["psnr_db"]
    return (
        f"{manifest.params:,}",
        "-" if manifest.macs is None else f"{manifest.macs:,}",
        f"{manifest.files[manifest.onnx].bytes:,}",
        f"{manifest.parity['max_abs']:.2g}",
        "equal" if psnr is None else f"{psnr:.1f}",
        ", ".join(engine.compute_capability for engine in manifest.engines) or "none",
    )


def _not_built(manifest: Manifest) -> Iterator[str]:
    for entry in manifest.not_built:
        yield f"not built for {entry.target} {entry.compute_capability}: {entry.reason}"
