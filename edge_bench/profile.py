"""Which layers of an exported generator take the time, on this device.

    python -m edge_bench.profile bundle/ --batch 1

The times are those of the runtime's own profiler, which slows the model down a little; `edge_bench`
measures how long the whole takes. Layers have the names of the network that was exported, and what
belongs to no layer, such as an activation, is summed up by operator.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_bench.asked import RunSettings
from edge_bench.bundle import Bundle, load_bundle, load_samples
from edge_bench.command import Advance, as_process, check_writable, make_parser, positive, run
from edge_bench.errors import BundleError, RunnerError
from edge_bench.files import write_whole
from edge_bench.inputs import draw_feed
from edge_bench.reading import read_text
from edge_bench.runners import OnnxRuntimeRunner

FILE = "profile.json"
EXAMPLE = "python -m edge_bench.profile bundle/ --batch 1"
# `LAYER/OPERATOR`, as `python -m export` names nodes; runtimes add to it.
_NODE = re.compile(r"(?P<layer>[^/]+)/(?P<op>[A-Za-z]+?)(?:_\d+)?(?:_nchwc)?")
_ENDING = "_kernel_time"


@dataclass(frozen=True)
class LayerShare:
    """The time of a layer, or of all nodes of an operator that belong to none.

    Attributes:
        layer: The name of the layer; empty for the nodes of none.
        operator: The operators that it is made of.
        mean_us: Time per run of the whole model.
        share: Of the time of all nodes.
        nodes: How many nodes it has.
    """

    layer: str
    operator: str
    mean_us: float
    share: float
    nodes: int


def profile(
    bundle: Bundle, *, batch: int, runs: int, threads: int, seed: int = 0
) -> tuple[LayerShare, ...]:
    """Run a model under ONNX Runtime's profiler.

    Args:
        bundle: What is run.
        batch: Number of images at once.
        runs: Number of runs that are averaged; as many run before without being counted.
        threads: Number of CPU threads.
        seed: Seed of latents that are not in the bundle.

    Returns:
        Layers and operators, the slowest first.

    Raises:
        BundleError: There is no graph, or the profile cannot be read.
        RunnerError: ONNX Runtime is missing, or refuses the model.
    """
    if bundle.model is None:
        raise BundleError(f"{bundle.path}: only a graph can be profiled; give the bundle")
    with (
        tempfile.TemporaryDirectory() as name,
        _ProfiledRunner(bundle.model, threads, Path(name) / "profile") as runner,
    ):
        feed = draw_feed(runner.inputs, batch, seed, bundle.n_classes, load_samples(bundle))
        for _ in range(2 * runs):
            runner.infer(*feed)
        events = json.loads(read_text(runner.end()))
    return shares(list(_last_runs(events, runs)), runs)


def shares(events: Iterable[tuple[str, str, float]], runs: int) -> tuple[LayerShare, ...]:
    """Sum up the times of nodes by layer, and those of no layer by operator.

    Args:
        events: The name, the operator and the microseconds of each execution of a node.
        runs: The number of runs that they come from.

    Returns:
        Their means over the runs, the longest first.
    """
    times: dict[tuple[str, str], float] = defaultdict(float)
    nodes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, operator, us in events:
        found = _NODE.fullmatch(name)
        key = (found["layer"], found["op"]) if found else ("", operator)
        times[key] += us
        nodes[key].add(name)
    whole = sum(times.values())
    rows = (
        LayerShare(layer, op, us / runs, us / whole if whole else 0.0, len(nodes[layer, op]))
        for (layer, op), us in times.items()
    )
    return tuple(sorted(rows, key=lambda row: -row.mean_us))


def table(rows: Sequence[LayerShare], most: int = 30) -> str:
    """The slowest rows as text, and how much the rest takes."""
    cells = [("layer", "operator", "nodes", "us", "share")]
    cells += [
        (row.layer or "-", row.operator, str(row.nodes), f"{row.mean_us:.1f}", f"{row.share:.1%}")
        for row in rows[:most]
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    rest = rows[most:]
    if rest:
        lines.append(f"{len(rest)} more: {sum(row.share for row in rest):.1%}")
    total = sum(row.mean_us for row in rows)
    without = sum(row.share for row in rows if not row.layer)
    lines.append(f"all nodes: {total:.1f} us a run, {without:.0%} of it in no layer")
    return "\n".join(lines)


class _ProfiledRunner(OnnxRuntimeRunner):
    """ONNX Runtime on the CPU under its profiler, which writes a file named `prefix` and more."""

    def __init__(self, path: Path, threads: int, prefix: Path) -> None:
        super().__init__(path, RunSettings(threads))
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
        rows = profile(bundle, batch=options.batch, runs=options.runs, threads=options.threads)
        path = options.out / FILE
        content = {"bundle": bundle.name, "batch": options.batch, "rows": list(map(asdict, rows))}
        write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        return f"{table(rows)}\nwrote {path}\n"

    return run(measure, interrupted="nothing was written; run the same command again")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m edge_bench.profile", __doc__, EXAMPLE)
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="Bundle folder or .onnx file to profile."
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
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="Folder that profile.json is written to. (default: the current folder)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(as_process(main))
