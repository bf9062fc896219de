"""The result of a benchmark: as a value, as a JSON file and as a table.

Names contain their units: `_us` for microseconds, `_w` for watts, `_j_per_image` for joules per
image.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_bench.asked import BOTH, Covers
from edge_bench.bundle import Bundle
from edge_bench.device import DeviceDescription, DeviceState
from edge_bench.errors import InvalidValueError
from edge_bench.files import write_whole
from edge_bench.load import MachineLoad
from edge_bench.power import Energy, PowerReading
from edge_bench.quality import QualityRow
from edge_bench.ratios import BUSY, UNDECIDED
from edge_bench.scenario import (
    HOLDS,
    MISSED,
    OFFLINE,
    PERCENTILES,
    SERVER,
    Scenario,
    ScenarioResult,
)
from edge_bench.statistics import LatencyStatistics, Ratio
from edge_bench.timing import TimingPlan

FORMAT = 1
FILE = "bench.json"
NO_POWER = "power: not available"
REMEDY = (
    "for steadier times: stop other programs, lock the clocks (jetson_clocks on a Jetson), "
    "warm up for longer, measure more runs"
)


@dataclass(frozen=True)
class BenchRow:
    """The measurements of a bundle at a batch size.

    Attributes:
        bundle: Name of the bundle.
        batch: Batch size.
        runner: Name of the runtime that ran it.
        latency: Mean and percentiles of the time of a run, in microseconds.
        images_per_second: Throughput.
        speedup: Median of the first bundle over the median of this one, with its interval; None
            for the first. Of several processes, it is the geometric mean.
        power: Power while the bundle ran alone; None if the report's `no_power` says why not.
        energy: Energy per image; None without a power.
        warmup_runs: Number of untimed runs.
        settled: Whether the times had settled when the warm-up ended.
        warnings: What makes these times less reliable.
        samples_us: Time of every run in microseconds, `(rounds, runs)`, in the order of
            measurement.
        rounds_by_process: How many of these rounds each process measured.
        processor_us: Mean processor time of a run in microseconds, over all threads.
        processor_speedup: The same ratio as `speedup`, of processor times, which stand still while
            other programs run; None for the first, and if a GPU computes.
        verdict: `faster`, `slower` or `undecided` against the first bundle, or `busy` if the
            machine was; None for the first.
        busy: What else the machine did, if that leaves no verdict.
        covers: What the times cover: transfers, and the launch as a CUDA graph.
        gpu_latency: The same runs by the clock of the GPU, between two CUDA events; None without.
        gpu_speedup: The same ratio as `speedup`, of these times; None for the first.
        scenario: What the scenario of the plan asks of this row; None without a scenario.
    """

    bundle: str
    batch: int
    runner: str
    latency: LatencyStatistics
    images_per_second: float
    speedup: Ratio | None
    power: PowerReading | None
    energy: Energy | None
    warmup_runs: int
    settled: bool
    warnings: tuple[str, ...]
    samples_us: tuple[tuple[float, ...], ...]
    rounds_by_process: tuple[int, ...] = ()
    processor_us: float | None = None
    processor_speedup: Ratio | None = None
    verdict: str | None = None
    busy: str | None = None
    covers: Covers | None = None
    gpu_latency: LatencyStatistics | None = None
    gpu_speedup: Ratio | None = None
    scenario: ScenarioResult | None = None


@dataclass(frozen=True)
class FailedRow:
    """What could not be measured with a runtime, and why; `batch` is None if none was asked for."""

    bundle: str
    batch: int | None
    runner: str
    reason: str


@dataclass(frozen=True)
class ProcessRecord:
    """One of the processes that measured, and what else the machine did in the meantime.

    The shares are of the processor time of the cores that it could use, 0 to 1.
    """

    runner: str
    turn: int
    load: MachineLoad
    others_share: float | None
    steal_share: float | None


@dataclass(frozen=True)
class BenchReport:
    """Everything that a benchmark measured, and the device that it ran on.

    Attributes:
        created: UTC time of the end of the benchmark, in ISO 8601.
        bundles: What was measured.
        runtimes: Runtime and version that ran each bundle; of several runtimes one after the other.
        plan: How much was measured.
        threads: Number of CPU threads of the runtime.
        transfers: Which copies between host and GPU were asked for.
        cuda_graph: Whether a CUDA graph was asked for.
        seed: Seed of the latents and of the bootstrap.
        device: The device: processor, memory, versions.
        state_at_start: Clocks, temperatures and load before the measurement.
        state_at_end: The same after it.
        throttled: Whether the device reduced its clocks; None if it cannot tell.
        idle: Power without load; None without a power.
        rows: One row per bundle, runtime and batch size, batch by batch.
        warnings: What makes all times less reliable.
        failed: The rows that a runtime could not measure.
        processes: The processes that measured, in the order of each runtime.
        quality: The quality of each bundle's images, if a bundle holds what that takes.
        no_power: Why rows are without a power; None if each has one.
    """

    created: str
    bundles: tuple[Bundle, ...]
    runtimes: tuple[str, ...]
    plan: TimingPlan
    threads: int
    seed: int
    device: DeviceDescription
    state_at_start: DeviceState
    state_at_end: DeviceState
    throttled: bool | None
    idle: PowerReading | None
    rows: tuple[BenchRow, ...]
    warnings: tuple[str, ...]
    failed: tuple[FailedRow, ...] = ()
    processes: tuple[ProcessRecord, ...] = ()
    quality: tuple[QualityRow, ...] = ()
    no_power: str | None = None
    transfers: str = BOTH
    cuda_graph: bool = False

    def row(self, bundle: str, batch: int, runner: str | None = None) -> BenchRow:
        """The measurements of a bundle at a batch size.

        Args:
            bundle: Name of the bundle.
            batch: Batch size.
            runner: Name of the runtime; by default the first one that was measured.

        Raises:
            InvalidValueError: The bundle was not measured at this batch size.
        """
        for row in self.rows:
            if (row.bundle, row.batch) == (bundle, batch) and runner in (None, row.runner):
                return row
        measured = ", ".join(f"{row.bundle} at {row.batch}" for row in self.rows)
        raise InvalidValueError(f"{bundle!r} at batch {batch} was not measured, only {measured}")


def to_json(report: BenchReport) -> dict[str, Any]:
    """The report as plain values, with the time of every run."""
    value: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(report)}
    for bundle in value["bundles"]:
        for key in ("path", "model", "engine", "dense"):
            bundle[key] = None if bundle[key] is None else str(bundle[key])
        bundle["samples"] = [str(path) for path in bundle["samples"]]
        del bundle["quality"], bundle["image_range"]
    # Two decimals are ten nanoseconds, which is finer than the clock of any board.
    for row in value["rows"]:
        row["samples_us"] = [[round(time, 2) for time in block] for block in row["samples_us"]]
    readings = [(report.idle, value["idle"])]
    readings += [(row.power, item["power"]) for row, item in zip(report.rows, value["rows"],
                                                                 strict=True)]  # fmt: skip
    for reading, item in readings:
        if reading is not None:
            item["sample_rate_hz"] = reading.sample_rate_hz
    return value


def write_report(report: BenchReport, folder: Path) -> Path:
    """Write `bench.json` into `folder`, atomically; return its path."""
    path = folder / FILE
    write_whole(path, json.dumps(to_json(report), allow_nan=False) + "\n")
    return path


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    title: str
    cells: tuple[str, ...]
    # If a table is too wide, columns are dropped from the highest rank down; rank 0 always stays.
    rank: int

    @property
    def width(self) -> int:
        """Number of characters of its widest cell."""
        return max(len(self.title), *(len(cell) for cell in self.cells))


def table(report: BenchReport, width: int | None = None) -> str:
    """The rows as text, followed by what a reader must know to trust them.

    To fit a `width` in characters, the least important columns are dropped, and then names are
    shortened.
    """
    return "\n".join([*_lines(columns_of(report), width), "", *notes_of(report)])


def columns_of(report: BenchReport) -> list[Column]:
    """The columns that the report fills; rows that could not be measured come last."""
    rows, failed = report.rows, report.failed
    named: tuple[BenchRow | FailedRow, ...] = (*rows, *failed)
    runners = dict.fromkeys(row.runner for row in named)

    def column(title: str, cells: Iterable[str], rank: int) -> Column:
        return Column(title, (*cells, *("-" for _ in failed)), rank)

    columns = [
        Column("bundle", tuple(row.bundle for row in named), 0),
        Column("batch", tuple(str(row.batch or "-") for row in named), 0),
    ]
    if len(runners) > 1:
        columns.append(Column("runner", tuple(row.runner for row in named), 0))
    rank = {"p90": 4, "p99": 1, _shown(report.plan.scenario): 0}
    columns += [
        column("mean ms", _milliseconds(row.latency.mean_us for row in rows), 2),
        column("p50 ms", _milliseconds(row.latency.p50_us for row in rows), 0),
        column("p90 ms", _milliseconds(row.latency.p90_us for row in rows), rank["p90"]),
        column("p95 ms", _milliseconds(row.latency.p95_us for row in rows), 3),
        column("p99 ms", _milliseconds(row.latency.p99_us for row in rows), rank["p99"]),
        column("images/s", (_short(row.images_per_second) for row in rows), 0),
    ]
    if any(row.gpu_latency for row in rows):
        columns.append(column("GPU p50 ms", (_gpu(row) for row in rows), 1))
    if any(row.scenario is not None and row.scenario.bound for row in rows):
        columns.append(column("bound", (_bound(row) for row in rows), 0))
    if len(report.bundles) > 1:
        columns.append(column("ratio", (_ratio(row) for row in rows), 0))
    if any(row.energy for row in rows):
        columns.append(column("J/image", (_joules(row) for row in rows), 0))
    return columns


def _shown(scenario: Scenario | None) -> str:
    """The percentile that a scenario is about, as in `p90`; its column always stays."""
    share = None if scenario is None else PERCENTILES.get(scenario.name)
    return "" if share is None else f"p{share:.0f}"


def _gpu(row: BenchRow) -> str:
    return "-" if row.gpu_latency is None else _short(row.gpu_latency.p50_us / 1e3)


def _bound(row: BenchRow) -> str:
    return "-" if row.scenario is None else row.scenario.bound or "-"


def scenario_note(row: BenchRow, scenario: Scenario, with_runner: bool) -> str:
    """What the scenario asks of a row, in words."""
    found = row.scenario
    assert found is not None
    scale, unit = (1.0, "images/s") if scenario.name == OFFLINE else (1e-3, "ms")
    what = (
        "throughput"
        if scenario.name == OFFLINE
        else f"{PERCENTILES[scenario.name]:.0f}th percentile"
    )
    text = f"{name_of(row, with_runner)}: {what} {_short(found.value * scale)} {unit}"
    if found.low is not None and found.high is not None:
        text += f" (95% interval {_short(found.low * scale)} to {_short(found.high * scale)})"
    if scenario.name != SERVER:
        return text
    text += f", {_short(found.answered_per_second or 0.0)} of {scenario.target_qps:g} queries/s"
    if found.bound is None or scenario.latency_bound_s is None:
        return text
    ms = f"{scenario.latency_bound_s * 1e3:g} ms"
    text += f"; {found.over_bound} of {found.queries} over {ms}: "
    return text + {
        HOLDS: "the bound holds at the 99th percentile",
        MISSED: "the bound does not hold at the 99th percentile",
        BUSY: "no verdict, since the machine was busy",
    }.get(found.bound, "too few queries to tell, so measure more runs")


def _lines(columns: list[Column], width: int | None) -> list[str]:
    hidden: list[str] = []
    while width is not None and _total(columns) > width:
        leaving = max(columns, key=lambda column: column.rank)
        if leaving.rank == 0:
            break
        columns = [column for column in columns if column is not leaving]
        hidden.append(leaving.title.removesuffix(" ms"))
    if width is not None and (excess := _total(columns) - width) > 0:
        first, *others = columns
        room = max(8, first.width - excess)
        cells = tuple(c if len(c) <= room else c[: room - 1] + "…" for c in first.cells)
        columns = [Column(first.title, cells, 0), *others]
    titles = [column.title for column in columns]
    lines = [
        _line(columns, titles),
        "  ".join("-" * column.width for column in columns),
        *(_line(columns, list(cells)) for cells in zip(*(c.cells for c in columns), strict=True)),
    ]
    if hidden:
        lines.append(f"({', '.join(sorted(hidden))}: see {FILE}, or widen the terminal)")
    return lines


def _line(columns: list[Column], cells: list[str]) -> str:
    first, *others = zip(columns, cells, strict=True)
    texts = [first[1].ljust(first[0].width), *(cell.rjust(c.width) for c, cell in others)]
    return "  ".join(texts)


def _total(columns: list[Column]) -> int:
    return sum(column.width for column in columns) + 2 * (len(columns) - 1)


def _milliseconds(times_us: Iterable[float]) -> tuple[str, ...]:
    return tuple(_short(time / 1e3) for time in times_us)


def _short(value: float) -> str:
    """About four significant digits, plain notation."""
    if value >= 1000:
        return f"{value:.0f}"
    digits = 4 if value < 0.1 else 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:.{digits}f}"


def _ratio(row: BenchRow) -> str:
    if row.speedup is None:
        return "1"
    return f"({row.speedup.value:.2f}×)" if row.verdict == BUSY else f"{row.speedup.value:.2f}×"


def _joules(row: BenchRow) -> str:
    return "-" if row.energy is None else f"{row.energy.gross_j_per_image:.3g}"


def _quality_note(row: QualityRow, first: str) -> str:
    rise = ""
    if row.rise is not None:
        low, high = (f"{end:+.3g}" for end in (row.rise.low, row.rise.high))
        rise = f", {row.rise.value:+.3g} [{low}, {high}] over {first}"
    return (
        f"{row.bundle}: Fréchet distance {row.distance:.4g}{rise}, in {row.features} features, in "
        f"the limit of many images, estimated from {row.images}"
    )


def _clocks(state: DeviceState) -> str:
    """Which clocks are locked, of those that tell."""
    locked = {"CPU": state.clocks_locked, "GPU": state.gpu_clocks_locked}
    told = [f"{n} {'locked' if x else 'not locked'}" for n, x in locked.items() if x is not None]
    return f"clocks: {', '.join(told)}" if told else ""


def notes_of(report: BenchReport) -> list[str]:
    """What a reader must know to trust the rows, a line each."""
    first = report.bundles[0].name
    several = len({row.runner for row in report.rows}) > 1
    notes = [
        f"{name_of(row, several)}: {_comparison(row, first)}"
        for row in report.rows
        if row.speedup is not None
    ]
    if (scenario := report.plan.scenario) is not None:
        notes.append(f"scenario: {scenario}")
        notes += [scenario_note(r, scenario, several) for r in report.rows if r.scenario]
    notes += [
        f"{name_of(row, several)}: {_ratio_words(row.gpu_speedup, first)} by the GPU's clock"
        for row in report.rows
        if row.gpu_speedup is not None
    ]
    notes += [_quality_note(row, first) for row in report.quality]
    notes += dict.fromkeys(f"{row.runner}: not measured: {row.reason}" for row in report.failed)
    compared = any(row.speedup is not None for row in report.rows)
    so = "no model is called faster or slower" if compared else "its times are too long"
    notes += dict.fromkeys(
        f"warning: this machine was busy: {row.busy}; {so}"
        for row in report.rows
        if row.busy is not None
    )
    notes.append(f"runtime: {'; '.join(dict.fromkeys(report.runtimes))}")
    if any(row.covers is not None and row.covers != Covers() for row in report.rows):
        runners = dict.fromkeys((row.runner, row.covers) for row in report.rows if row.covers)
        notes += [f"{runner}: {covers}" for runner, covers in runners]
    powers = [row.power for row in report.rows if row.power is not None]
    if powers:
        idle = "not measured" if report.idle is None else f"{report.idle.mean_w:.2f} W"
        rails = " + ".join(powers[0].rails_in_total)
        notes.append(f"power: {powers[0].method} ({rails}), idle {idle}; J/image is gross")
        if left_out := dict.fromkeys(name for power in powers for name in power.rails_left_out):
            notes.append(f"power: {', '.join(left_out)} left out, as it did not answer")
    if not powers or report.no_power is not None:
        line = f"{NO_POWER} for some rows" if powers else NO_POWER
        notes.append(line if report.no_power is None else f"{line}: {report.no_power}")
    if clocks := _clocks(report.state_at_start):
        notes.append(clocks)
    if report.throttled:
        notes.append("warning: the machine throttled during the run; it can be faster than this")
    notes += [f"warning: {warning}" for warning in report.warnings]
    for row in report.rows:
        if row.warnings:
            notes.append(f"warning: {name_of(row, several)}: {'; '.join(row.warnings)}")
    if any(row.warnings for row in report.rows):
        notes.append(REMEDY)
    return notes


def name_of(row: BenchRow, with_runner: bool) -> str:
    """A row in words."""
    name = f"{row.bundle}, batch {row.batch}"
    return f"{name}, {row.runner}" if with_runner else name


def _ratio_words(ratio: Ratio, first: str) -> str:
    return f"{ratio.value:.2f}× the speed of {first} {_interval(ratio)}"


def _interval(ratio: Ratio) -> str:
    return f"({ratio.confidence:.0%} interval {ratio.low:.2f} to {ratio.high:.2f})"


def _comparison(row: BenchRow, first: str) -> str:
    """The ratio and its interval in words; a claim only if the verdict allows one."""
    assert row.speedup is not None
    ratio = row.speedup
    if row.verdict == BUSY:
        text = f"no verdict; measured {ratio.value:.2f}× beside other programs {_interval(ratio)}"
        if row.processor_speedup is not None:
            cpu = row.processor_speedup
            text += f", {cpu.value:.2f}× in processor time ({cpu.low:.2f} to {cpu.high:.2f})"
        return text
    text = _ratio_words(ratio, first)
    if row.verdict == UNDECIDED:
        text += ", which shows no difference"
    return text
