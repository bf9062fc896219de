"""Time single layers on this device, dense and factorized, so that ranks can be chosen by speed.

Takes the folder that `python -m ard.latency` wrote. A table that is already there is extended: what
it holds is not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edge_bench.command import add_timing_options, check_writable, make_parser, progress, run
from edge_bench.device import describe_device
from edge_bench.layer_timing import TABLE, LayerTime, load_folder, read_times, time_layers, to_csv
from edge_bench.report import write_whole
from edge_bench.timing import TimingPlan

# An interval wider than this share of its time says that the machine did something else as well.
UNCERTAIN = 0.1

EXAMPLE = "python -m edge_bench.layers layers/ --batch 1 --runner tensorrt"


def main(args: Sequence[str] | None = None) -> int:
    """Parse, measure, write; returns the exit code."""
    options = _parser().parse_args(args)
    path: Path = options.table or options.folder / TABLE

    def measure() -> None:
        folder = load_folder(options.folder)
        check_writable(path.parent)
        known = times = read_times(path)
        plan = TimingPlan(
            options.runs, warmup=5, duration_s=options.duration, min_warmup_s=0.02, max_warmup_s=1.0
        )
        with progress(sys.stderr, time.monotonic) as advance:
            for times in time_layers(
                folder,
                options.batch,
                known,
                runner=options.runner,
                threads=options.threads,
                device=describe_device(),
                plan=plan,
                advance=advance,
            ):
                write_whole(path, to_csv(times))
        sys.stdout.write(summary(path, known, times))

    kept = f"what was measured is in {path}; run the same command again to go on"
    return run(measure, interrupted=kept)


def summary(path: Path, known: Sequence[LayerTime], times: Sequence[LayerTime]) -> str:
    """What was written, and how much of it a busy machine made uncertain."""
    new = len(set(times) - set(known))
    wide = [t for t in times if t.ci_high - t.ci_low > UNCERTAIN * t.milliseconds]
    lines = [f"wrote {path}: {len(times)} times, {new} of them new"]
    if wide:
        lines.append(
            f"note: {len(wide)} are uncertain by more than {UNCERTAIN:.0%}; other programs or "
            "unlocked clocks do that; --duration 1 measures longer"
        )
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m edge_bench.layers", __doc__, EXAMPLE)
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="a folder that `python -m ard.latency` wrote")
    add_timing_options(
        parser,
        timed="each layer under each choice",
        runs=30,
        duration=0.2,
        auto="its package is installed",
    )
    add(
        "--table",
        type=Path,
        metavar="FILE",
        help="the table to write or to extend (default: DIR/latency.csv)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
