"""What an export made, for the person who ran it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from export.engines import ANY, EngineChoice
from export.manifest import MANIFEST, Engine, Manifest, inside, read_manifest
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
        *([] if manifest.conversion is None else conversion_lines(manifest.conversion)),
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
        ", ".join(map(_built_for, manifest.engines)) or "none",
    )


def _not_built(manifest: Manifest) -> Iterator[str]:
    for entry in manifest.not_built:
        yield f"not built for {entry.target} {entry.compute_capability}: {entry.reason}"


def conversion_lines(record: Mapping[str, Any]) -> list[str]:
    """How a precision was chosen and what it costs, in lines.

    Args:
        record: the entry `conversion` of a manifest.
    """
    lines = [_times(record), *map(_cost, _costs(record))]
    if record["not_measured"]:
        lines.append(f"quality was not measured: {record['not_measured']}")
    if record["missed"]:
        lines.append(_missed(record))
    return lines


def _times(record: Mapping[str, Any]) -> str:
    times = [
        f"{row['precision']}{_of_nodes(row)} {row['milliseconds']:.3g} ms"
        for row in record["tried"]
        if row["milliseconds"] is not None
    ]
    return f"time per batch: {', '.join(times)} ({record['runtime']})"


def _of_nodes(row: Mapping[str, Any]) -> str:
    return f" ({row['int8_nodes']} nodes)" if row["int8_nodes"] else ""


def _costs(record: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """What has a rise, over what, and its score."""
    name = record["distance"]
    for row in record["tried"]:
        if row["rise"] is not None:
            yield f"{row['precision']}{_of_nodes(row)}: Δ{name}", "float32", row["rise"]
    if record["rise_over_dense"] is not None:
        yield f"in all: Δ{name}", "the dense generator", record["rise_over_dense"]


def _cost(cost: tuple[str, str, Mapping[str, Any]]) -> str:
    what, over, score = cost
    return f"{what} {interval(score)} over {over}, {score['n_samples']} images"


def interval(score: Mapping[str, Any]) -> str:
    """`+1.2 [+0.8, +1.6]`: a rise and its 95 % interval, from the plain values of a score."""
    rise = next(value for name, value in score.items() if name.startswith("delta_"))
    low, high = score["ci_low"], score["ci_high"]
    return f"{rise:+.3g} [{low:+.3g}, {high:+.3g}]"


def _missed(record: Mapping[str, Any]) -> str:
    reason = record["tried"][-1]["reason"] or "its rise is above the budget"
    budgets = [
        f"{text}: {_number(allowed)}"
        for text, allowed in (
            (record["budget"], record["allowed"]["rise"]),
            (record["total_budget"], record["allowed"]["total"]),
        )
        if text is not None
    ]
    within = f" (budget {'; in all '.join(budgets)})" if budgets else ""
    return f"{record['wanted']} was not delivered: {reason}{within}; the bundle is float32"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _built_for(engine: Engine) -> str:
    return engine.target if engine.compute_capability == ANY else engine.compute_capability
