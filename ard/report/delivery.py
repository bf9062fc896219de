"""Exporting and timing a finished run, by running commands of `export` and `edge_bench`.

`export` builds on this package and `edge_bench` is independent, so neither is imported here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ard.errors import DeliveryError
from ard.report.values import TimedRow
from nas_gan.children import run_child
from nas_gan.generators import GeneratorOptions
from nas_gan.options import option_name
from nas_gan.progress import Progress

BATCHES = (1, 64)


def deliver(
    run_dir: Path, options: GeneratorOptions, threads: int, progress: Progress
) -> tuple[TimedRow, ...]:
    """Export the bundle of a run and time it against the dense generator.

    `options` say how a network that its checkpoint does not describe is built and called.

    Raises:
        DeliveryError: a command failed; the message is that of the command.
    """
    with progress("exporting and timing", 2) as advance:
        export_bundle(run_dir, run_dir / "bundle", options)
        advance(1)
        rows = compare_latency(
            run_dir / "bundle", run_dir / "bench", batches=BATCHES, threads=threads
        )
        advance(1)
    return rows


def export_bundle(run_dir: Path, bundle: Path, options: GeneratorOptions) -> None:
    """Run `python -m export` on a run directory, for the compressed and the dense model.

    Raises:
        DeliveryError: the command failed; the message is that of the command.
    """
    given = [
        # Joined, because a value such as -1,1 would be taken for an option.
        f"{option_name(name)}={value}"
        for name, value in options.given().items()
    ]
    _run(["export", str(run_dir), "--out", str(bundle), *given])


def compare_latency(
    bundle: Path, out: Path, *, batches: Sequence[int], threads: int
) -> tuple[TimedRow, ...]:
    """Time the dense and the compressed model of a bundle alternately by `python -m edge_bench`.

    Raises:
        DeliveryError: the command failed; the message is that of the command.
    """
    _run(
        [
            *("edge_bench", str(bundle), "--batch", *map(str, batches)),
            *("--threads", str(threads), "--duration", "2", "--runs", "20", "--out", str(out)),
        ]
    )
    report = json.loads((out / "bench.json").read_text())
    rows: list[TimedRow] = []
    for n in batches:
        dense, small = (row for row in report["rows"] if row["batch"] == n)
        ratio = small["speedup"]
        rows.append(
            TimedRow(
                runtime=", ".join(dict.fromkeys(report["runtimes"])),
                batch=n,
                dense_ms=dense["latency"]["p50_us"] / 1000,
                compressed_ms=small["latency"]["p50_us"] / 1000,
                speedup=ratio["value"],
                speedup_low=ratio["low"],
                speedup_high=ratio["high"],
            )
        )
    return tuple(rows)


def _run(arguments: list[str]) -> None:
    """Run one of our commands; its output is discarded, its files are the result."""
    command = [sys.executable, "-m", *arguments]
    done = run_child(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise DeliveryError(f"python -m {arguments[0]}: {reason.removeprefix('error: ')}")
