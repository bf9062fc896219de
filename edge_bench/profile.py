"""Which layers of an exported generator take the time, on this device.

    python -m edge_bench.profile bundle/ --batch 1

The times are those of the runtime's own profiler, ONNX Runtime's or TensorRT's, which slows the
model down a little; `edge_bench` measures how long the whole takes. Layers have the names of the
network that was exported, and what belongs to no layer, such as an activation, is summed up by
operator. What a runtime fused is one row with all its names.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_bench.asked import RunSettings
from edge_bench.bundle import Bundle, load_bundle, load_samples
from edge_bench.command import Advance, as_process, check_writable, make_parser, positive, run
from edge_bench.engine_profile import ENGINES, open_profiled, profile_engine
from edge_bench.errors import BundleError, RunnerError
from edge_bench.files import write_whole
from edge_bench.inputs import draw_feed
from edge_bench.layer_shares import LayerShare, shares, table
from edge_bench.reading import read_text
from edge_bench.registry import check_runner
from edge_bench.runners import OnnxRuntimeRunner

FILE = "profile.json"
EXAMPLE = "python -m edge_bench.profile bundle/ --batch 1"
AUTO = "auto"
RUNNERS = (AUTO, "onnxruntime", *ENGINES)
_ENDING = "_kernel_time"


def profile(
    bundle: Bundle, *, batch: int, runs: int, threads: int, runner: str = AUTO, seed: int = 0
) -> tuple[LayerShare, ...]:
    """Run a model under the profiler of its runtime.

    Args:
        bundle: What is run.
        batch: Number of images at once.
        runs: Number of runs that are averaged; as many run before without being counted.
        threads: Number of CPU threads.
        runner: One of `RUNNERS`; `auto` is ONNX Runtime, and TensorRT for an engine by itself.
        seed: Seed of latents that are not in the bundle.

    Returns:
        Layers and operators, the slowest first.

    Raises:
        BundleError: There is no graph or no engine, or the profile cannot be read.
        RunnerError: The runtime is missing, or refuses the model.
    """
    check_runner(runner, RUNNERS)
    if runner == AUTO:
        runner = "onnxruntime" if bundle.model is not None else "tensorrt"
    settings = RunSettings(threads)
    if runner != "onnxruntime":
        engine = open_profiled(bundle, runner, settings)
        return profile_engine(engine, bundle, batch=batch, runs=runs, seed=seed)
    if bundle.model is None:
        raise BundleError(f"{bundle.path}: ONNX Runtime profiles a graph; give the bundle")
    with (
        tempfile.TemporaryDirectory() as name,
        _ProfiledRunner(bundle.model, settings, Path(name) / "profile") as session,
    ):
        feed = draw_feed(session.inputs, batch, seed, bundle.n_classes, load_samples(bundle))
        for _ in range(2 * runs):
            session.infer(*feed)
        events = json.loads(read_text(session.end()))
    return shares(list(_last_runs(events, runs)), runs)


class _ProfiledRunner(OnnxRuntimeRunner):
    """ONNX Runtime on the CPU under its profiler, which writes a file named `prefix` and more."""

    def __init__(self, path: Path, settings: RunSettings, prefix: Path) -> None:
        super().__init__(path, settings)
        self._prefix = prefix

    def _configure(self, options: Any) -> None:
        options.enable_profiling = True
        options.profile_file_prefix = str(self._prefix)

    def end(self) -> Path:
        """The file of what was recorded."""
        return Path(self._session.end_profiling())


def _last_runs(events: Any, runs: int) -> Iterator[tuple[str, str, float]]:
    """Name, operator and microseconds of the nodes in the last runs."""
    found = [
        (str(event["name"]).removesuffix(_ENDING), str(event["args"]["op_name"]), event["dur"])
        for event in events
        if event.get("cat") == "Node" and str(event["name"]).endswith(_ENDING)
    ]
    if not found:
        raise RunnerError("the profiler of this ONNX Runtime recorded no node; update onnxruntime")
    # Every run has the same nodes, so the second half of the events is that of the last runs.
    yield from found[len(found) // 2 :]


def main(args: Sequence[str] | None = None) -> int:
    """Parse, profile, print; return the exit code."""
    options = _parser().parse_args(args)

    def measure(advance: Advance) -> str:
        check_writable(options.out)
        bundle = load_bundle(options.bundle)
        rows = profile(
            bundle,
            batch=options.batch,
            runs=options.runs,
            threads=options.threads,
            runner=options.runner,
        )
        path = options.out / FILE
        content = {"bundle": bundle.name, "batch": options.batch, "rows": list(map(asdict, rows))}
        write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        return f"{table(rows)}\nwrote {path}\n"

    return run(measure, interrupted="nothing was written; run the same command again")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m edge_bench.profile", __doc__, EXAMPLE)
    parser.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        help="Bundle folder, .onnx file or TensorRT engine to profile.",
    )
    parser.add_argument(
        "--batch", type=positive, default=1, metavar="N", help="Batch size. (default: 1)"
    )
    parser.add_argument(
        "--runs", type=positive, default=30, metavar="N", help="Number of runs. (default: 30)"
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="Number of CPU threads. (default: 1)",
    )
    parser.add_argument(
        "--runner",
        choices=RUNNERS,
        default=AUTO,
        help="Runtime to profile; auto is ONNX Runtime on the CPU, and TensorRT for an engine. "
        "(default: auto)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="Folder that profile.json is written to. (default: the current folder)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(as_process(main))
