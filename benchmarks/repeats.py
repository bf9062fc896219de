"""Claim: a ratio of `edge_bench` holds when it is measured again, even beside a busy core.

A network is compared with itself 40 times, half of them beside a program that keeps a core busy: at
least 93 % of the 95 % intervals must contain 1. For comparison, it says how often the interval of
the first process alone does, which is what `--repeats 1` reports. A network of half the channels is
then compared with the whole one; the intervals should contain the ratio that all of these runs give
together.

Every run is written to the result at once, and the same command goes on where it stopped.

    python benchmarks/repeats.py --short    # five minutes: small networks, half a second each
    python benchmarks/repeats.py            # a quarter of an hour: the defaults of `edge_bench`
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_bench import BenchReport, TimingPlan, benchmark
from edge_bench.ratios import ratio_over_processes
from nas_gan.cli import progress
from nas_gan.files import write_json
from nas_gan.tables import text_table

RESULT = Path(__file__).parent / "results" / "repeats.json"
SEED = 0
RUNS = 40  # of the network with itself
OTHER_RUNS = 10  # of the two networks
BAR = 0.93
BATCH = 1
Run = dict[str, Any]


def write_net(path: Path, channels: int, layers: int) -> Path:
    """A generator of 3x3 convolutions on 16x16 pixels, with random weights."""
    rng = np.random.default_rng(SEED)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        fan_in = int(np.prod(shape[1:]))
        values = rng.standard_normal(shape) / np.sqrt(fan_in)
        return numpy_helper.from_array(values.astype(np.float32), name)

    weights = [
        numpy_helper.from_array(np.array([0, channels, 16, 16]), "shape"),
        weight("first", 64, channels * 256),
    ]
    nodes = [
        helper.make_node("MatMul", ["latents", "first"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["x0"]),
    ]
    for i in range(layers):
        weights.append(weight(f"w{i}", channels, channels, 3, 3))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
    weights.append(weight("last", 3, channels, 3, 3))
    nodes.append(helper.make_node("Conv", [f"x{layers}", "last"], ["o"], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Tanh", ["o"], ["images"]))
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        weights,
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path)
    return path


@contextlib.contextmanager
def busy_core(busy: bool) -> Iterator[None]:
    """Inside, a program of this priority keeps a core busy, if it should."""
    if not busy:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def settings_of(short: bool) -> tuple[TimingPlan, dict[str, int]]:
    """How much is measured, and the networks: channels and layers."""
    if short:
        return TimingPlan(runs=50, warmup=10, duration_s=0.5), {"channels": 16, "layers": 3}
    return TimingPlan(), {"channels": 48, "layers": 6}


def schedule(runs: int, other_runs: int) -> list[tuple[str, bool]]:
    """What each run compares, and whether it does so beside a busy core; in turns."""
    return [("same", i % 2 == 1) for i in range(runs)] + [
        ("half", i % 2 == 1) for i in range(other_runs)
    ]


def outcome(report: BenchReport) -> Run:
    """What is kept of a run."""
    first, other = report.rows
    assert other.speedup is not None
    times = [
        np.split(np.array(row.samples_us), np.cumsum(row.rounds_by_process)[:-1])
        for row in (first, other)
    ]
    alone = ratio_over_processes(times[0][:1], times[1][:1], np.random.default_rng(SEED))
    return {
        **{name: asdict(other.speedup)[name] for name in ("value", "low", "high")},
        "first_process": {"value": alone.value, "low": alone.low, "high": alone.high},
        "processor": None if other.processor_speedup is None else other.processor_speedup.value,
        "verdict": other.verdict,
        "others_share": [process.others_share for process in report.processes],
        "steal_share": [process.steal_share for process in report.processes],
        "load_before": report.processes[0].load.load_before,
    }


def measure_runs(
    path: Path,
    head: dict[str, Any],
    wanted: Sequence[tuple[str, bool]],
    measure: Callable[[str, bool], Run],
) -> dict[str, Any]:
    """Measure what the file does not hold yet, and write it after each run.

    Raises:
        SystemExit: The file holds runs with other settings.
    """
    result: dict[str, Any] = {**head, "runs": []}
    if path.exists():
        found = json.loads(path.read_text())
        if found["settings"] != json.loads(json.dumps(head["settings"])):
            raise SystemExit(f"{path}: measured with other settings; remove it, or choose --out")
        result = found
    with progress("comparing", len(wanted)) as advance:
        for done, (pair, busy) in enumerate(wanted):
            if done >= len(result["runs"]):
                run = {"pair": pair, "busy_core": busy, **measure(pair, busy)}
                result["runs"].append(run)
                result["summary"] = summarize(result["runs"])
                write_json(path, result)
            advance(1)
    return result


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """How many intervals are right, by pair."""
    summary: dict[str, Any] = {}
    for pair in dict.fromkeys(run["pair"] for run in runs):
        of_pair = [run for run in runs if run["pair"] == pair]
        true = 1.0 if pair == "same" else geometric_mean([run["value"] for run in of_pair])
        right = [run["low"] <= true <= run["high"] for run in of_pair]
        beside = [ok for ok, run in zip(right, of_pair, strict=True) if run["busy_core"]]
        first = [run["first_process"] for run in of_pair]
        summary[pair] = {
            "runs": len(of_pair),
            "true": true,
            "contained": sum(right) / len(right),
            "contained_beside_a_busy_core": sum(beside) / len(beside) if beside else None,
            "contained_by_the_first_process": sum(f["low"] <= true <= f["high"] for f in first)
            / len(first),
            "mean_width": geometric_mean([run["high"] / run["low"] for run in of_pair]) - 1,
            "extremes": [min(run["value"] for run in of_pair), max(r["value"] for r in of_pair)],
            "called_busy": sum(run["verdict"] == "busy" for run in of_pair),
            "wrong_verdicts": sum(
                run["verdict"] in ("faster", "slower") and not ok
                for ok, run in zip(right, of_pair, strict=True)
            ),
        }
    if "same" in summary:
        summary["same"] |= {"bar": BAR, "met": summary["same"]["contained"] >= BAR}
    return summary


def geometric_mean(values: Sequence[float]) -> float:
    """The mean of the logarithms, back in the scale of the values."""
    return float(np.exp(np.log(values).mean()))


def show(result: dict[str, Any]) -> None:
    """The summary as a table on stdout."""
    titles = ["pair", "runs", "contained", "busy core", "one process", "mean width", "busy"]
    rows = [
        [
            pair,
            str(row["runs"]),
            f"{row['contained']:.1%}",
            "-" if row["contained_beside_a_busy_core"] is None
            else f"{row['contained_beside_a_busy_core']:.1%}",
            f"{row['contained_by_the_first_process']:.1%}",
            f"{row['mean_width']:.1%}",
            str(row["called_busy"]),
        ]
        for pair, row in result["summary"].items()
    ]  # fmt: skip
    sys.stdout.write(text_table(titles, rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="small networks, half a second each")
    parser.add_argument("--runs", type=int, default=RUNS, help="of the network with itself")
    parser.add_argument("--other-runs", type=int, default=OTHER_RUNS, help="of two networks")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file to write")
    arguments = parser.parse_args()
    plan, net = settings_of(arguments.short)
    head = {
        "machine": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            **{name: version(name) for name in ("numpy", "onnxruntime")},
        },
        "settings": {"plan": asdict(plan), "net": net, "batch": BATCH, "seed": SEED},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = write_net(folder / "whole.onnx", net["channels"], net["layers"])
        half = write_net(folder / "half.onnx", net["channels"] // 2, net["layers"])

        def measure(pair: str, busy: bool) -> Run:
            with busy_core(busy):
                bundles = [whole, whole if pair == "same" else half]
                return outcome(benchmark(bundles, [BATCH], plan=plan, runner="onnxruntime"))

        wanted = schedule(arguments.runs, arguments.other_runs)
        result = measure_runs(arguments.out, head, wanted, measure)
    show(result)


if __name__ == "__main__":
    main()
