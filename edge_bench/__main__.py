"""Time exported generators on this device; several are measured interleaved and compared.

The first bundle is what the others are compared with: give the dense one first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edge_bench.command import check_writable, not_negative, positive, progress, run, seconds
from edge_bench.pipeline import benchmark
from edge_bench.report import table, write_report
from edge_bench.runners import RUNNERS
from edge_bench.timing import TimingPlan

EPILOG = """example:
  python -m edge_bench dense/ compressed/ --batch 1 64 --threads 4

exit codes: 0 done, 1 error, 2 usage, 130 interrupted"""


def main(args: Sequence[str] | None = None) -> int:
    """Parse, measure, print; returns the exit code."""
    options = _parser().parse_args(args)

    def measure() -> None:
        check_writable(options.out)
        with progress(sys.stderr, time.monotonic) as advance:
            report = benchmark(
                options.bundles,
                options.batch,
                plan=TimingPlan(options.runs, options.warmup, options.duration),
                threads=options.threads,
                runner=options.runner,
                seed=options.seed,
                advance=advance,
            )
        path = write_report(report, options.out)
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        sys.stdout.write(f"{table(report, width)}\nwrote {path}\n")

    return run(measure, interrupted="nothing was written; run the same command again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edge_bench",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "bundles",
        nargs="+",
        type=Path,
        metavar="BUNDLE",
        help="a folder that `python -m export` wrote, an .onnx file or a TensorRT engine",
    )
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
        default=200,
        metavar="N",
        help="timed runs of each bundle and batch size, at least (default: 200)",
    )
    add(
        "--warmup",
        type=not_negative,
        default=20,
        metavar="N",
        help="untimed runs before, at least; they go on until times settle (default: 20)",
    )
    add(
        "--duration",
        type=seconds,
        default=3.0,
        metavar="SECONDS",
        help="timed seconds of each bundle and batch size, at least, on average over the bundles; "
        "fewer where a model makes 20000 runs before; power is measured as long again where there "
        "is a sensor (default: 3)",
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
        help="auto takes TensorRT where every bundle has an engine (default: auto)",
    )
    add(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where bench.json goes (default: the current folder)",
    )
    add("--seed", type=not_negative, default=0, metavar="N",
        help="of the latents and the bootstrap (default: 0)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
