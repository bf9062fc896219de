"""Time exported generators on this device; several take turns and are compared.

The others are compared with the first bundle, so give the dense one first. A model stops after
20000 runs, even if its time is not up. If the device has a power sensor, measuring power takes as
long again. `python -m edge_bench compare` compares two results.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edge_bench import compare_command
from edge_bench.asked import BOTH, TRANSFERS, RunSettings
from edge_bench.command import (
    Advance,
    Duration,
    Topics,
    add_host_options,
    add_timing_options,
    add_topics,
    as_arguments,
    as_process,
    check_file,
    check_writable,
    make_parser,
    not_negative,
    positive,
    rate,
    run,
    run_on_host,
)
from edge_bench.dispatch import bench_job
from edge_bench.errors import InvalidValueError
from edge_bench.files import write_whole
from edge_bench.job import OUTPUTS
from edge_bench.markdown import to_markdown
from edge_bench.page import to_html
from edge_bench.pipeline import benchmark
from edge_bench.registry import RUNNERS
from edge_bench.remote import Job
from edge_bench.report import FILE as REPORT
from edge_bench.report import table, write_report
from edge_bench.scenario import SAMPLES, SCENARIOS, Scenario
from edge_bench.timing import TimingPlan

# The options that mean the same on another machine.
FORWARDED = (
    "batch", "runs", "duration", "repeats", "warmup", "seed", "threads", "runner", "transfers",
    "scenario", "target_qps", "latency_bound", "samples",
)  # fmt: skip
EXAMPLE = "python -m edge_bench dense/ compressed/ --batch 1 64 --threads 4"


def main(args: Sequence[str] | None = None) -> int:
    """Parse, measure, print; return the exit code."""
    given = list(sys.argv[1:] if args is None else args)
    if given[:1] == ["compare"]:
        return compare_command.main(given[1:])
    options = _parser().parse_args(given)
    if options.host is not None:
        return run_on_host(options, partial(_check, options), partial(_job, options))

    def measure(advance: Advance) -> str:
        _check(options)
        extra = {options.markdown: to_markdown, options.html: to_html}
        extra.pop(None, None)
        report = benchmark(
            options.bundles,
            options.batch,
            plan=_plan(options),
            settings=_settings(options),
            runner=options.runner,
            seed=options.seed,
            score=options.score,
            advance=advance,
        )
        for path, text_of in extra.items():
            write_whole(path, text_of(report))
        written = [*extra, write_report(report, options.out)]
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        return "\n".join([table(report, width), *(f"wrote {path}" for path in written), ""])

    return run(measure, interrupted="nothing was written; run the same command again")


def _check(options: argparse.Namespace) -> None:
    """Refuse files that cannot be written, before measuring takes minutes."""
    check_writable(options.out)
    _plan(options), _settings(options)
    if options.html is not None and options.html == options.markdown:
        raise InvalidValueError("is the file of the table in Markdown too", setting="html")
    for path in (options.markdown, options.html):
        if path is not None:
            check_file(path)


def _plan(options: argparse.Namespace) -> TimingPlan:
    """How much to measure, and in which scenario.

    Raises:
        InvalidValueError: An option is out of range, or is of a scenario that was not asked for.
    """
    bound = options.latency_bound
    numbers = {
        "target_qps": options.target_qps,
        "latency_bound_s": None if bound is None else float(bound),
        "samples": options.samples,
    }
    if options.scenario is None:
        for name, value in numbers.items():
            if value is not None:
                raise InvalidValueError(
                    "is of a scenario, and none was asked for", setting=name.removesuffix("_s")
                )
    return TimingPlan(
        options.runs,
        options.warmup,
        options.duration,
        repeats=options.repeats,
        scenario=None if options.scenario is None else Scenario(options.scenario, **numbers),
    )


def _settings(options: argparse.Namespace) -> RunSettings:
    return RunSettings(options.threads, options.transfers, options.cuda_graph)


def _job(options: argparse.Namespace, packages: Sequence[str]) -> Job:
    """The same on another machine."""
    given = [
        *as_arguments(options, *FORWARDED),
        *([] if options.score else ["--no-score"]),
        *(["--cuda-graph"] if options.cuda_graph else []),
    ]
    results = {REPORT: options.out / REPORT}
    for name, path in (("markdown", options.markdown), ("html", options.html)):
        if path is not None:
            given += [f"--{name}", f"{OUTPUTS}/bench.{name}"]
            results[f"bench.{name}"] = path
    return bench_job(options.bundles, given, results, packages)


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
    )
    topics.what.add_argument(
        "--batch",
        nargs="+",
        type=positive,
        metavar="N",
        help="Batch sizes to measure, one after the other. (default: 1 and 64, or the largest that "
        "the bundle or its engine states)",
    )
    topics.how.add_argument(
        "--repeats",
        type=positive,
        default=5,
        metavar="N",
        help="Number of fresh processes that share the runs and the time, so that ratios hold when "
        "they are measured again; 1 measures in this process. (default: 5)",
    )
    topics.how.add_argument(
        "--warmup",
        type=not_negative,
        default=20,
        metavar="N",
        help="Minimum number of untimed runs before, which continue until times settle; 0 means no "
        "warm-up. (default: 20)",
    )
    _add_scenario_options(topics)
    topics.how.add_argument(
        "--seed",
        type=not_negative,
        default=0,
        metavar="N",
        help="Seed of the latents, of the bootstrap and of the arrivals. (default: 0)",
    )
    topics.how.add_argument(
        "--no-score",
        dest="score",
        action="store_false",
        help="Leave out the quality of the images, for which a bundle that was exported with "
        "features holds what it takes.",
    )
    add_host_options(topics)
    topics.machine.add_argument(
        "--transfers",
        choices=TRANSFERS,
        default=BOTH,
        help="Copies between host and GPU that each timed call makes: of the inputs (in), of the "
        "images (out), both or none. Runtimes on the CPU make none. (default: both)",
    )
    topics.machine.add_argument(
        "--cuda-graph",
        action="store_true",
        help="Launch the kernels of a call on a GPU as one CUDA graph; where that fails, the "
        "result says why.",
    )
    topics.machine.add_argument(
        "--runner",
        nargs="+",
        choices=RUNNERS,
        default=["auto"],
        metavar="NAME",
        help=f"Runtimes to measure: {', '.join(RUNNERS)}; auto is TensorRT if every bundle has an "
        "engine, and otherwise ONNX Runtime on the CPU. (default: auto)",
    )
    topics.results.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="Also write the table in Markdown, for a pull request.",
    )
    topics.results.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="Also write a page with the table, the distributions of the times and the ratios.",
    )
    topics.results.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="Folder that bench.json is written to. (default: the current folder)",
    )
    return parser


def _add_scenario_options(topics: Topics) -> None:
    """Add the options of scenarios."""
    topics.how.add_argument(
        "--scenario",
        choices=SCENARIOS,
        help="How queries come in, after MLPerf Inference: one at a time (single-stream), all "
        "images at once (offline), or at random moments (server). (default: one call after the "
        "other, the models in turns)",
    )
    topics.how.add_argument(
        "--target-qps",
        type=rate,
        metavar="QPS",
        help="Queries per second of the scenario server.",
    )
    topics.how.add_argument(
        "--latency-bound",
        type=Duration,
        metavar="TIME",
        help="Time within which a server shall answer 99 %% of the queries, as in 50ms or 0.2s.",
    )
    topics.how.add_argument(
        "--samples",
        type=positive,
        metavar="N",
        help=f"Number of images of the scenario offline. (default: {SAMPLES})",
    )


if __name__ == "__main__":
    sys.exit(as_process(main))
