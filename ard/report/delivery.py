"""Exporting and timing a finished run, by running commands of `export` and `edge_bench`.

`export` builds on this package and `edge_bench` is independent, so neither is imported here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ard.errors import DeliveryError
from ard.measuring.score import Score, from_record
from ard.plan import RankPlan
from ard.recovery.store import compressed_checkpoint
from ard.report.values import DeliveredPrecision, TimedRow
from ard.session.config import SearchConfig
from ard.session.goals import TIMED
from ard.session.search import Session
from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.children import run_child
from nas_gan.cli import BUDGET_MISSED
from nas_gan.errors import NasGanError
from nas_gan.files import write_json
from nas_gan.generators import GeneratorOptions
from nas_gan.options import option_name
from nas_gan.progress import Progress
from nas_gan.reading import Fields, read_json

LARGE = 64
# A call of the dense generator should not take longer: it is repeated a hundred times or so.
LONGEST_S = 3.0
# The seconds and the runs for which `edge_bench` times a network at a batch size, and what it does
# by itself: so many processes, each with as many runs to warm up, within bounds.
DURATION_S, RUNS = 2, 20
PROCESSES, LEAST_WARM_UP_S, WARM_UP_S = 5, 0.2, 10.0
FLOAT32 = "fp32"
# In the run directory, times of whole networks.
TIMING = "timing"


@dataclass(frozen=True)
class Demand:
    """The precision that a bundle is wanted in, and what the ranks leave of the budget for it.

    Attributes:
        precision: fp32, fp16, int8, or auto for the fastest within the budget.
        left: the rise over the compressed generator in float32 that is left to it.
        total: the rise over the dense generator that ranks and precision may have together.
        threads: CPU threads that graphs are timed with.
    """

    precision: str = FLOAT32
    left: float = 0.0
    total: float = 0.0
    threads: int = 1

    @staticmethod
    def after(precision: str, budget: float, recovered: Score, threads: int = 1) -> Demand:
        """What is left of a budget after ranks that were scored as `recovered`.

        >>> ranks = Score(metric="fid", value=9.0, rise=2.0, ci_low=1.0, ci_high=3.0, n_images=10,
        ...               features="inception", measured=True)
        >>> Demand.after("int8", 5.0, ranks)
        Demand(precision='int8', left=2.0, total=5.0, threads=1)
        """
        return Demand(precision, max(budget - recovered.ci_high, 0.0), budget, threads)

    def arguments(self) -> list[str]:
        """The options of `export` that say this."""
        if self.precision == FLOAT32:
            return []
        budgets = ["--quality-budget", repr(self.left), "--total-budget", repr(self.total)]
        return ["--precision", self.precision, *budgets, "--threads", str(self.threads)]


@dataclass(frozen=True)
class Delivery:
    """What became of a finished run: its times, and the precision of its bundle."""

    latency: tuple[TimedRow, ...] = ()
    precision: DeliveredPrecision | None = None


def batches_to_time(
    draw: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> tuple[int, ...]:
    """The batch sizes at which a generator is timed: 1, and a large one that is not too slow.

    Args:
        draw: draws one image of the dense generator.
        clock: seconds since a fixed moment.

    Returns:
        1 and `LARGE`, or in its place the largest power of two that takes at most `LONGEST_S`.
    """
    draw()  # the first call prepares what others find ready
    started = clock()
    draw()
    return batch_sizes(clock() - started)


def batch_sizes(image: float) -> tuple[int, ...]:
    """The batch sizes at which a generator is timed that draws an image in so many seconds."""
    fitting = int(LONGEST_S / max(image, 1e-9))
    large = min(LARGE, 1 << max(fitting, 1).bit_length() - 1)
    return tuple(sorted({1, large}))


def timing_seconds(call: float) -> float:
    """About how long a network is timed at a batch size, if a call takes so many seconds.

    >>> [timing_seconds(call) for call in (0.001, 1.0)]
    [3.0, 70.0]
    """
    warming = min(max(RUNS * call, LEAST_WARM_UP_S), WARM_UP_S)
    return max(DURATION_S, RUNS * call) + PROCESSES * warming


def deliver(
    run_dir: Path,
    options: GeneratorOptions,
    demand: Demand,
    progress: Progress,
    batches: Sequence[int],
) -> Delivery:
    """Export the bundle of a run and time it against the dense generator.

    `options` say how a network that its checkpoint does not describe is built and called.

    Raises:
        DeliveryError: a command failed; the message is that of the command.
    """
    with progress("exporting and timing", 2) as advance:
        precision = export_bundle(run_dir, run_dir / "bundle", options, demand)
        advance(1)
        rows = compare_latency(
            run_dir / "bundle", run_dir / "bench", batches=batches, threads=demand.threads
        )
        advance(1)
    return Delivery(rows, precision)


def export_bundle(
    run_dir: Path, bundle: Path, options: GeneratorOptions, demand: Demand
) -> DeliveredPrecision | None:
    """Run `python -m export` on a run directory, for the compressed and the dense model.

    Returns:
        The precision of the bundle; None if it is float32 because nothing else was demanded.

    Raises:
        DeliveryError: the command failed; the message is that of the command.
    """
    given = [
        # Joined, because a value such as -1,1 would be taken for an option.
        f"{option_name(name)}={value}"
        for name, value in options.given().items()
    ]
    _run(
        ["export", str(run_dir), "--out", str(bundle), *demand.arguments(), *given],
        fine=(0, BUDGET_MISSED),
    )
    return None if demand.precision == FLOAT32 else read_precision(bundle)


def read_precision(bundle: Path) -> DeliveredPrecision:
    """What the manifest of a bundle says of its precision.

    Raises:
        DeliveryError: it says nothing of it.
    """
    path = bundle / "manifest.json"
    try:
        manifest = Fields(read_json(path), str(path))
        record = manifest.table("conversion")
        return DeliveredPrecision(
            wanted=record.text("wanted"),
            precision=manifest.text("precision"),
            int8_nodes=len(list(record.any("int8_nodes"))),
            runtime=record.text("runtime"),
            rise=_score(record, "rise"),
            total=_score(record, "rise_over_dense"),
            missed=record.any("missed") is True,
        )
    except (NasGanError, LookupError, TypeError, ValueError) as error:
        raise DeliveryError(f"{path}: {error}") from error


def _score(record: Fields, name: str) -> Score | None:
    return None if record.any(name) is None else from_record(record.table(name).data)


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
            *("--threads", str(threads), "--duration", str(DURATION_S), "--runs", str(RUNS)),
            *("--out", str(out)),
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
                busy=small.get("busy"),
            )
        )
    return tuple(rows)


@dataclass(frozen=True)
class NetworkTimer:
    """Measures whole networks, each once: exported and timed in ONNX Runtime on this machine.

    Times do not depend on the weights, so those of a plan are kept in the folder by the plan, and a
    run that is resumed finds the same.

    Attributes:
        folder: holds the times, and the bundle of the last network.
        dense: the checkpoint of the dense generator.
        options: how a network that its checkpoint does not describe is built and called.
        batch: images per call.
        threads: CPU threads.
    """

    folder: Path
    dense: Checkpoint
    options: GeneratorOptions
    batch: int
    threads: int

    def __call__(self, generator: nn.Module, plan: RankPlan) -> float:
        """Median milliseconds per batch.

        Raises:
            DeliveryError: a command failed; the message is that of the command.
        """
        path, key = self.folder / "times.json", plan.to_json()
        known: dict[str, float] = read_json(path) if path.exists() else {}
        if key not in known:
            known[key] = self._measured(generator, plan)
            write_json(path, known)
        return known[key]

    def _measured(self, generator: nn.Module, plan: RankPlan) -> float:
        network, bundle = self.folder / "network.pt", self.folder / "bundle"
        save_checkpoint(compressed_checkpoint(self.dense, generator, plan), network)
        given = [f"{option_name(name)}={value}" for name, value in self.options.given().items()]
        _run(["export", str(network), "--out", str(bundle), "--no-dense", *given])
        _run(
            [
                *("edge_bench", str(bundle), "--batch", str(self.batch), "--no-score"),
                *("--threads", str(self.threads), "--duration", "1", "--runs", "20"),
                *("--repeats", "2", "--out", str(self.folder)),
            ]
        )
        [row] = json.loads((self.folder / "bench.json").read_text())["rows"]
        return float(row["latency"]["p50_us"]) / 1000


def network_timer(config: SearchConfig, session: Session) -> NetworkTimer | None:
    """What times whole networks; None if the layers were timed on another machine."""
    if config.objective != TIMED or config.latency_table is not None:
        return None
    folder, threads = session.run_dir / TIMING, torch.get_num_threads()
    dense = session.setting.checkpoint
    return NetworkTimer(folder, dense, config, config.latency_batch, threads)


def _run(arguments: list[str], fine: Collection[int] = (0,)) -> None:
    """Run one of our commands; its output is discarded, its files are the result.

    `fine` are the exit codes that say that there are such files.
    """
    command = [sys.executable, "-m", *arguments]
    done = run_child(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode not in fine:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise DeliveryError(f"python -m {arguments[0]}: {reason.removeprefix('error: ')}")
