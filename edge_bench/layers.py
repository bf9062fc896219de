"""Time single layers on this device, dense and factorized, so that ranks can be chosen by speed.

The layers are those in a folder that `python -m ard.latency` wrote. An existing table is extended:
times that it already holds are not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edge_bench.command import (
    Advance,
    add_host_options,
    add_timing_options,
    add_topics,
    as_arguments,
    as_process,
    check_writable,
    make_parser,
    positive,
    run,
    run_on_host,
)
from edge_bench.device import describe_device
from edge_bench.dispatch import layers_job
from edge_bench.files import write_whole
from edge_bench.layer_table import TABLE, read_times, summary, to_csv
from edge_bench.layer_timing import RUNNERS, load_folder, time_layers
from edge_bench.timing import TimingPlan

EXAMPLE = "python -m edge_bench.layers layers/ --batch 1 --runner tensorrt"


def main(args: Sequence[str] | None = None) -> int:
    """Parse, measure, write; returns the exit code."""
    options = _parser().parse_args(args)
    path: Path = options.table or options.folder / TABLE
    if options.host is not None:
        given = as_arguments(options, "batch", "runs", "duration", "threads", "runner")
        return run_on_host(
            options,
            partial(check_writable, path.parent),
            lambda packages: layers_job(options.folder, given, path),
        )

    def measure(advance: Advance) -> str:
        folder = load_folder(options.folder)
        check_writable(path.parent)
        known = times = read_times(path)
        for times in time_layers(
            folder,
            options.batch,
            known,
            runner=options.runner,
            threads=options.threads,
            device=describe_device(),
            plan=TimingPlan(
                options.runs,
                warmup=5,
                duration_s=options.duration,
                min_warmup_s=0.01,
                max_warmup_s=1.0,
                repeats=1,
            ),
            advance=advance,
        ):
            write_whole(path, to_csv(times))
        return summary(path, known, times)

    kept = f"what was measured is in {path}; run the same command again to resume"
    return run(measure, interrupted=kept)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m edge_bench.layers", __doc__, EXAMPLE)
    topics = add_topics(parser)
    topics.what.add_argument(
        "folder", type=Path, metavar="DIR", help="Folder that `python -m ard.latency` wrote."
    )
    add_timing_options(
        topics,
        timed="each layer under each choice",
        runs=30,
        duration=0.06,
    )
    topics.what.add_argument(
        "--batch",
        nargs="+",
        type=positive,
        default=[1],
        metavar="N",
        help="Batch sizes to measure, one after the other. (default: 1)",
    )
    topics.machine.add_argument(
        "--runner",
        choices=RUNNERS,
        default="auto",
        help="Runtime to measure; auto is TensorRT if its package is installed. (default: auto)",
    )
    add_host_options(topics)
    topics.results.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="Table to write or extend. (default: DIR/latency.csv)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(as_process(main))
