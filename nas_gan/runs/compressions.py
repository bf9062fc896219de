"""Compressions as values, read from the files in their run directories.

A compression is what `ard.compress`, `ard.sweep` and `ard.pareto` write: config.json,
journal.jsonl, report.json or pareto.csv, and bench/bench.json. This package knows these files and
not the program that wrote them; nothing in them is trusted, and what cannot be read is a problem of
that run alone.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas_gan.errors import NasGanError, UnreadableError
from nas_gan.locks import is_locked
from nas_gan.reading import Fields, is_number, leads_out, plain_name, read_json, read_text
from nas_gan.runs.reading import shown, written_at

Status = Literal["finished", "running", "stopped", "damaged"]
JOURNAL, REPORT, POINTS, TABLE = "journal.jsonl", "report.json", "pareto.csv", "sensitivity.csv"
REPORT_FORMAT = "ard-gan report "
BENCH = "bench.json"
DENSE = "dense"
# Rows that a table of points or timings may have; a run has some tens.
MAX_ROWS = 10_000


@dataclass(frozen=True)
class Space:
    """What a rise was measured in; rises compare within one space only.

    Attributes:
        metric: such as fid.
        features: whose features were compared.
        reference: with what.
        published: whether distances are comparable with published FIDs.
    """

    metric: str
    features: str
    reference: str
    published: bool = False

    @property
    def label(self) -> str:
        """The metric; `FID` only if values are comparable with published ones."""
        return "FD" if self.metric == "fid" and not self.published else self.metric.upper()


@dataclass(frozen=True)
class Plan:
    """A plan that was measured; ratios are dense over compressed.

    Attributes:
        name: of which budget, target or trial.
        params_ratio: of the parameters.
        macs_ratio: of the multiply-adds.
        rise: of the metric over the dense generator, with the ends of its 95 % interval.
        good: whether it meets what was asked for.
        saved: whether it is a result, rather than a trial on the way to one.
        layers: the choice for each layer that is not dense.
    """

    name: str
    params_ratio: float
    macs_ratio: float
    rise: tuple[float, float, float]
    good: bool
    saved: bool
    layers: Mapping[str, str]


@dataclass(frozen=True)
class Compression:
    """The run directory of a compression.

    Attributes:
        name: its path below the folder that was searched.
        path: where it is.
        status: finished (its result is there), running (a process has the directory), stopped, or
            damaged (something in it cannot be read).
        problems: what cannot be read, one line each.
        started: when it was started or resumed last, in seconds since the epoch.
        checkpoint: what was compressed.
        asked: the budget or target, as it was written.
        space: what rises were measured in; None before there are any.
        plans: the results and the trials.
        measured: lines of the journal.
    """

    name: str
    path: Path
    status: Status
    problems: tuple[str, ...] = ()
    started: float = 0.0
    checkpoint: str = ""
    asked: str = ""
    space: Space | None = None
    plans: tuple[Plan, ...] = ()
    measured: int = 0

    @property
    def results(self) -> tuple[Plan, ...]:
        """The plans that were saved."""
        return tuple(plan for plan in self.plans if plan.saved)


@dataclass(frozen=True)
class Timing:
    """A row of a benchmark: a bundle in a runtime at a batch size.

    Attributes:
        source: the file, below the folder that was searched.
        machine: what it was measured on.
        p50_ms: median time of a batch, and `p99_ms` its 99th percentile.
        speedup: over the first bundle, with its interval; None for the first.
        joules: energy of an image; None without a power.
    """

    source: str
    machine: str
    bundle: str
    runner: str
    batch: int
    p50_ms: float
    p99_ms: float
    images_per_second: float
    speedup: tuple[float, float, float] | None
    verdict: str
    joules: float | None


def find_compressions(folder: Path) -> tuple[Compression, ...]:
    """Every compression in `folder` and below, the newest first."""
    found = [
        _read_any(path, _name(path, folder))
        for path, files in _walk(folder)
        if JOURNAL in files or REPORT in files
    ]
    return tuple(sorted(found, key=lambda run: (-run.started, run.name)))


def find_timings(folder: Path) -> tuple[tuple[Timing, ...], tuple[str, ...]]:
    """The rows of every bench.json in `folder` and below, and what cannot be read, in lines."""
    rows: list[Timing] = []
    problems = []
    for path, files in _walk(folder):
        if BENCH in files:
            name = _name(path, folder)
            try:
                rows += read_timings(path / BENCH, name)
            except (NasGanError, OSError) as error:
                problems.append(f"{name}: {_reason(error, path)}")
    return tuple(rows), tuple(problems)


def read_timings(path: Path, source: str) -> list[Timing]:
    """The rows of a bench.json.

    Raises:
        UnreadableError: it is none, or a value is missing.
    """
    content = Fields(read_json(path, finite=False), path.name)
    device = content.table("device")
    machine = next(
        (str(device.data[key]) for key in ("model", "gpu", "cpu") if device.data.get(key)), ""
    )
    return [_timing(row, shown(source), shown(machine)) for row in content.tables("rows")]


def _timing(row: Fields, source: str, machine: str) -> Timing:
    latency = row.table("latency")
    energy = row.data.get("energy")
    joules: Any = energy.get("gross_j_per_image") if isinstance(energy, dict) else None
    return Timing(
        source,
        machine,
        shown(row.text("bundle")),
        shown(row.text("runner")) if "runner" in row else "",
        row.count("batch", 1),
        latency.number("p50_us") / 1000,
        latency.number("p99_us") / 1000,
        row.number("images_per_second"),
        None if row.data.get("speedup") is None else _interval(row.table("speedup"), "value"),
        shown(str(row.data.get("verdict") or "")),
        float(joules) if is_number(joules) else None,
    )


def read_compression(path: Path, name: str | None = None) -> Compression:
    """Read one run directory, whatever state it is in."""
    problems: list[str] = []

    def tried(read: Callable[[], Any], default: Any) -> Any:
        try:
            return read()
        except (NasGanError, OSError) as error:
            problems.append(_reason(error, path))
            return default

    config = tried(lambda: _table(path / "config.json"), {})
    report: Mapping[str, Any] = {}
    if (path / REPORT).exists():
        report = tried(lambda: _table(path / REPORT), {})
    space, plans = None, ()
    if report:
        space, plans = tried(lambda: _of_report(Fields(report, REPORT)), (None, ()))
    elif (path / POINTS).exists():
        space, plans = tried(lambda: _of_points(path, config), (None, ()))
    done = any((path / file).exists() for file in (REPORT, POINTS, TABLE))
    status: Status = "finished" if done else "stopped"
    if is_locked(path):
        status = "running"
    source = report or config
    return Compression(
        shown(name or path.name),
        path,
        "damaged" if problems else status,
        tuple(problems),
        max((written_at(path / file) for file in ("config.json", JOURNAL)), default=0.0),
        shown(Path(str(source.get("checkpoint", ""))).name.removeprefix("zoo:")),
        _asked(config),
        space,
        plans,
        _measured(path / JOURNAL),
    )


def _read_any(path: Path, name: str) -> Compression:
    try:
        return read_compression(path, name)
    except Exception as error:  # a folder that must not be listed, a file that went away meanwhile
        reason = " ".join(str(error).split()) or type(error).__name__
        return Compression(shown(name), path, "damaged", (f"cannot be read ({reason})",))


def _of_report(report: Fields) -> tuple[Space, tuple[Plan, ...]]:
    """The result and the trials of `ard.compress`."""
    if not report.text("format").startswith(REPORT_FORMAT):
        raise UnreadableError(f"{report.where}: format {report.any('format')!r} is not known")
    metric, dense = report.text("metric"), report.table("dense")
    space = Space(
        metric,
        shown(report.text("extractor")),
        shown(report.text("reference")),
        report.any("comparable") is True,
    )

    def plan(name: str, row: Fields, costs: Fields, score: str, good: bool, saved: bool) -> Plan:
        return Plan(
            name,
            dense.count("params", 1) / costs.count("params", 1),
            dense.count("macs", 1) / costs.count("macs", 1),
            _interval(row.table(score), f"delta_{metric}"),
            good,
            saved,
            _layers(row.texts("plan")),
        )

    met = report.any("budget_met") is True
    result = plan("result", report, report.table("compressed"), "recovered", met, True)
    trials = [
        plan(f"trial {n}", row, row, "evaluation", row.any("within_budget") is True, False)
        for n, row in enumerate(report.tables("trials"), start=1)
    ]
    return space, (result, *trials)


def _of_points(path: Path, config: Mapping[str, Any]) -> tuple[Space, tuple[Plan, ...]]:
    """The results of `ard.pareto`, one of each budget or target."""
    rows = list(csv.DictReader(read_text(path / POINTS).splitlines()))[:MAX_ROWS]
    plans = []
    metric = str(config.get("metric", "fid"))
    for n, row in enumerate(rows, start=1):
        where = Fields({key: _number(value) for key, value in row.items() if key}, f"{POINTS}: {n}")
        plans.append(
            Plan(
                shown(str(row.get("budget"))),
                where.number("compression"),
                where.number("macs_ratio"),
                _interval(where, f"delta_{metric}"),
                row.get("met") == "true",
                True,
                _plan_beside(path, str(row.get("plan"))),
            )
        )
    space = Space(
        metric,
        shown(str(config.get("extractor", ""))),
        shown(str(config.get("reference_source", ""))),
    )
    return space, tuple(plans)


def _plan_beside(path: Path, named: str) -> Mapping[str, str]:
    """The plan in a folder of the run; a name that leads anywhere else is not followed."""
    file = path / plain_name(Path(named).parent.name, POINTS) / "plan.json"
    if not file.is_file() or leads_out(file.parent, path):
        return {}
    return _layers(Fields(read_json(file), file.name).texts("layers"))


def compared_plans(columns: Mapping[str, Plan]) -> dict[str, tuple[str, ...]]:
    """Layer -> its choice in each of several plans; those in which the plans differ come first."""
    layers = list(dict.fromkeys(layer for plan in columns.values() for layer in plan.layers))
    rows = {
        layer: tuple(plan.layers.get(layer, DENSE) for plan in columns.values()) for layer in layers
    }
    return dict(sorted(rows.items(), key=lambda row: len(set(row[1])) == 1))


def _asked(config: Mapping[str, Any]) -> str:
    """The budget and the target of a run in words."""
    parts: list[str] = []
    for key in ("fid_budget", "quality_budget", "target", "budgets", "targets"):
        value = config.get(key)
        if isinstance(value, list):
            parts += [str(each) for each in value]
        elif value is not None:
            parts.append(str(value))
    return shown(", ".join(parts))


def _measured(path: Path) -> int:
    """Lines of a journal after its head; its content is the program's business."""
    try:
        lines = read_text(path).count("\n")
    except (NasGanError, OSError):
        return 0
    return max(0, lines - 1)


def _interval(row: Fields, value: str) -> tuple[float, float, float]:
    """A value with the ends of its interval, whichever way they are named."""
    low, high = ("ci_low", "ci_high") if "ci_low" in row else ("low", "high")
    return row.number(value), row.number(low), row.number(high)


def _layers(layers: Mapping[str, str]) -> dict[str, str]:
    return {shown(name): shown(choice) for name, choice in layers.items()}


def _number(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def _table(path: Path) -> Mapping[str, Any]:
    content = read_json(path, finite=False)
    return Fields(content, path.name).data


def _walk(folder: Path) -> list[tuple[Path, Sequence[str]]]:
    """Every folder and the names of its files; hidden ones are left out."""
    found: list[tuple[Path, Sequence[str]]] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.append((Path(parent), files))
    return found


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else path.resolve().name


def _reason(error: Exception, path: Path) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return shown(text.replace(f"{path}{os.sep}", ""))
