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

from edge_bench.command import check_writable, positive, progress, run, seconds
from edge_bench.device import describe_device
from edge_bench.layer_timing import TABLE, LayerTime, load_folder, read_times, time_layers, to_csv
from edge_bench.report import write_whole
from edge_bench.runners import RUNNERS
from edge_bench.timing import TimingPlan

# An interval wider than this share of its time says that the machine did something else as well.
UNCERTAIN = 0.1

EPILOG = """example:
  python -m edge_bench.layers layers/ --batch 1 --runner tensorrt

exit codes: 0 done, 1 error, 2 usage, 130 interrupted"""


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
    parser = argparse.ArgumentParser(
        prog="python -m edge_bench.layers",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="a folder that `python -m ard.latency` wrote")
    add(
        "--batch",
        nargs="+",
        type=positive,
        default=[1],
        metavar="N",
        help="batch sizes (default: 1)",
    )
    add(
        "--runs",
        type=positive,
        default=30,
        metavar="N",
        help="timed runs of each layer under each choice, at least (default: 30)",
    )
    add(
        "--duration",
        type=seconds,
        default=0.2,
        metavar="SECONDS",
        help="timed seconds of each layer under each choice, at least, on average (default: 0.2)",
    )
    add(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="CPU threads of ONNX Runtime (default: 1)",
    )
    add(
        "--runner",
        choices=RUNNERS,
        default="auto",
        help="auto takes TensorRT where its package is installed (default: auto)",
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
