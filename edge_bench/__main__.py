"""Time exported generators on this device; several take turns and are compared.

The others are compared with the first bundle, so give the dense one first. A model stops after
20000 runs, even if its time is not up. If the device has a power sensor, measuring power takes as
long again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edge_bench.command import (
    Advance,
    add_host_options,
    add_timing_options,
    add_topics,
    as_process,
    check_writable,
    make_parser,
    not_negative,
    run,
    run_on_host,
    timing_arguments,
)
from edge_bench.dispatch import bench_job
from edge_bench.pipeline import benchmark
from edge_bench.report import table, write_report
from edge_bench.timing import TimingPlan

EXAMPLE = "python -m edge_bench dense/ compressed/ --batch 1 64 --threads 4"


def main(args: Sequence[str] | None = None) -> int:
    """Parse, measure, print; return the exit code."""
    options = _parser().parse_args(args)
    if options.host is not None:
        job_for = partial(bench_job, options.bundles, _arguments(options), options.out)
        return run_on_host(options, options.out, job_for)

    def measure(advance: Advance) -> str:
        check_writable(options.out)
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
        return f"{table(report, width)}\nwrote {path}\n"

    return run(measure, interrupted="nothing was written; run the same command again")


def _arguments(options: argparse.Namespace) -> list[str]:
    """The options as they were given, but for what names files of this machine."""
    return [
        *timing_arguments(options),
        *("--warmup", str(options.warmup)),
        *("--seed", str(options.seed)),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m edge_bench", __doc__, EXAMPLE)
    topics = add_topics(parser)
    topics.what.add_argument(
        "bundles",
        nargs="+",
        type=Path,
        metavar="BUNDLE",
        help="Folder that `python -m export` wrote, .onnx file or TensorRT engine.",
    )
    add_timing_options(
        topics,
        timed="each bundle and batch size",
        runs=200,
        duration=3.0,
        auto="every bundle has an engine",
    )
    topics.how.add_argument(
        "--warmup",
        type=not_negative,
        default=20,
        metavar="N",
        help="Minimum number of untimed runs before, which continue until times settle; 0 means no "
        "warm-up. (default: 20)",
    )
    topics.how.add_argument(
        "--seed",
        type=not_negative,
        default=0,
        metavar="N",
        help="Seed of the latents and of the bootstrap. (default: 0)",
    )
    add_host_options(topics)
    topics.results.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="Folder that bench.json is written to. (default: the current folder)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(as_process(main))
