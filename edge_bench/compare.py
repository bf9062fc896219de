"""Two results of `python -m edge_bench` side by side: of two machines, or of before and after."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import BundleError, InvalidValueError
from edge_bench.markdown import escape, markdown_table
from edge_bench.ratios import ratio_of_unpaired
from edge_bench.reading import read_json
from edge_bench.report import FILE, FORMAT

# What may differ between two runs, by where it stands in the file: what it is called.
SETTINGS = {
    ("device", "model"): "board",
    ("device", "cpu"): "processor",
    ("device", "gpu"): "GPU",
    ("device", "usable_cores"): "usable cores",
    ("device", "nvpmodel"): "power mode",
    ("device", "jetpack"): "JetPack",
    ("device", "l4t"): "L4T",
    ("device", "cuda"): "CUDA",
    ("device", "os"): "system",
    ("device", "python"): "Python",
    ("state_at_start", "clocks_locked"): "clocks locked",
    ("threads",): "threads",
    ("plan", "runs"): "runs",
    ("plan", "duration_s"): "seconds",
    ("plan", "warmup"): "warm-up runs",
    ("plan", "repeats"): "repeats",
    ("plan", "scenario", "name"): "scenario",
    ("plan", "scenario", "target_qps"): "queries per second",
    ("plan", "scenario", "samples"): "images at once",
    ("transfers",): "transfers",
    ("cuda_graph",): "CUDA graph",
    ("throttled",): "throttled",
}
# What results of earlier versions, which do not state it, always had.
UNSAID: dict[tuple[str, ...], object] = {("transfers",): "both", ("cuda_graph",): False}
MISSING = "not stated"


@dataclass(frozen=True)
class Key:
    """What was timed: rows of two results are compared if these agree."""

    bundle: str
    batch: int
    runner: str

    def __str__(self) -> str:
        return f"{self.bundle} at {self.batch} in {self.runner}"


@dataclass(frozen=True)
class Timed:
    """The times of a row: median in microseconds, and those of each process, if it says so."""

    p50_us: float
    processes_us: tuple[NDArray[np.float64], ...]
    busy: bool


@dataclass(frozen=True)
class Result:
    """A `bench.json` as far as a comparison needs it."""

    path: Path
    rows: dict[Key, Timed]
    settings: dict[str, str]
    models: dict[str, str]


@dataclass(frozen=True)
class Compared:
    """A row of both results; `ratio` is the first time over the second.

    `low` and `high` bound it at 95 %; None if a result is of a single process.
    """

    key: Key
    first_ms: float
    second_ms: float
    ratio: float
    low: float | None
    high: float | None
    busy: bool


@dataclass(frozen=True)
class Comparison:
    """What two results have in common, and in what their machines and settings differ.

    Attributes:
        compared: The rows of both, in the order of the first.
        differences: Name, value in the first and value in the second.
        only_first: What only the first measured.
        only_second: What only the second measured.
    """

    compared: tuple[Compared, ...]
    differences: tuple[tuple[str, str, str], ...]
    only_first: tuple[Key, ...]
    only_second: tuple[Key, ...]


def read_result(path: Path) -> Result:
    """Read a `bench.json`, or the one in a folder; earlier ones do not name their runner.

    Raises:
        BundleError: It is not a result of `python -m edge_bench`.
    """
    file = path / FILE if path.is_dir() else path
    try:
        value = read_json(file)
    except FileNotFoundError:
        raise BundleError(
            f"{file}: no such file; give two that `python -m edge_bench` wrote"
        ) from None
    except BundleError as error:
        reason = str(error).removesuffix("; export the bundle again")
        raise BundleError(f"{reason}, so it is not a result of edge_bench") from None
    if "rows" not in value or "format" not in value:
        raise BundleError(f"{file}: not a result of `python -m edge_bench`")
    if value["format"] != FORMAT:
        raise BundleError(
            f"{file}: format {str(value['format'])[:40]}, this program reads format {FORMAT}"
        )
    try:
        rows = dict(_read_rows(value))
        models = {
            str(bundle["name"]): str(bundle["model_sha256"] or bundle["engine_sha256"])
            for bundle in value["bundles"]
        }
        settings = dict(_read_settings(value))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{file}: not a whole result of edge_bench ({type(error).__name__}: {error}); "
            "measure again"
        ) from None
    if not rows:
        raise BundleError(f"{file}: holds no rows; measure again")
    return Result(file, rows, settings, models)


def compare(first: Result, second: Result) -> Comparison:
    """Join the rows of two results by bundle, batch size and runtime.

    The two were measured apart, so the interval is about the scatter between processes; what
    changed on the machine in between is not in it.

    Raises:
        InvalidValueError: They are the same file, or have no row in common.
    """
    if first.path.resolve() == second.path.resolve():
        raise InvalidValueError(f"{first.path} is given twice; give the results of two runs")
    common = [key for key in first.rows if key in second.rows]
    if not common:
        raise InvalidValueError(
            f"the results have no row in common: {first.path} has {_listed(first.rows)}, "
            f"{second.path} has {_listed(second.rows)}"
        )
    names = dict.fromkeys((*first.settings, *second.settings))
    pairs = [
        (name, first.settings.get(name, MISSING), second.settings.get(name, MISSING))
        for name in names
    ]
    pairs += [
        (f"model of {name}", digest[:12], second.models[name][:12])
        for name, digest in first.models.items()
        if name in second.models
    ]
    return Comparison(
        compared=tuple(_compare(key, first.rows[key], second.rows[key]) for key in common),
        differences=tuple(pair for pair in pairs if pair[1] != pair[2]),
        only_first=tuple(key for key in first.rows if key not in second.rows),
        only_second=tuple(key for key in second.rows if key not in first.rows),
    )


def to_text(comparison: Comparison) -> str:
    """The comparison as text."""
    titles, rows = _cells(comparison)
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [titles, ["-" * width for width in widths], *rows]
    ]
    return "\n".join([*lines, "", *_notes(comparison), ""])


def to_markdown(comparison: Comparison) -> str:
    """The comparison in Markdown."""
    titles, rows = _cells(comparison)
    notes = [f"- {escape(note)}" for note in _notes(comparison)]
    return "\n".join([*markdown_table(titles, rows), "", *notes, ""])


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    titles = ["bundle", "batch", "runner", "first ms", "second ms", "ratio", "95% interval"]
    rows = [
        [
            row.key.bundle,
            str(row.key.batch),
            row.key.runner,
            f"{row.first_ms:.3f}",
            f"{row.second_ms:.3f}",
            f"({row.ratio:.2f}×)" if row.busy else f"{row.ratio:.2f}×",
            "-" if row.low is None or row.high is None else f"{row.low:.2f} to {row.high:.2f}",
        ]
        for row in comparison.compared
    ]
    return titles, rows


def _notes(comparison: Comparison) -> Iterator[str]:
    yield "ratio: first over second; above 1, the second is faster"
    if any(row.busy for row in comparison.compared):
        yield "warning: a machine was busy, so the ratios in brackets are no verdict"
    if any(row.low is None for row in comparison.compared):
        yield "no interval: a result is of a single process; measure it with several repeats"
    for name, first, second in comparison.differences:
        yield f"differs: {name}: {first} / {second}"
    if not comparison.differences:
        yield "machine and settings are the same"
    for place, keys in (("first", comparison.only_first), ("second", comparison.only_second)):
        if keys:
            yield f"only in the {place}: {', '.join(map(str, keys))}"


def _compare(key: Key, first: Timed, second: Timed) -> Compared:
    low = high = None
    if len(first.processes_us) > 1 and len(second.processes_us) > 1:
        ratio = ratio_of_unpaired(first.processes_us, second.processes_us)
        value, low, high = ratio.value, ratio.low, ratio.high
    else:
        value = first.p50_us / second.p50_us
    return Compared(
        key=key,
        first_ms=first.p50_us / 1e3,
        second_ms=second.p50_us / 1e3,
        ratio=value,
        low=low,
        high=high,
        busy=first.busy or second.busy,
    )


def _listed(rows: Mapping[Key, Timed]) -> str:
    names = [str(key) for key in rows]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read_rows(value: Mapping[str, Any]) -> Iterator[tuple[Key, Timed]]:
    runtimes = dict(
        zip((bundle["name"] for bundle in value["bundles"]), value["runtimes"], strict=False)
    )
    for row in value["rows"]:
        bundle, batch = row["bundle"], row["batch"]
        if not isinstance(bundle, str) or type(batch) is not int or batch < 1:
            raise ValueError(f"{bundle!r} at {batch!r} is no bundle and its batch size")
        runner = row.get("runner") or str(runtimes[bundle]).split()[0]
        p50_us = _time(row["latency"]["p50_us"])
        samples = row["samples_us"]
        counts = row.get("rounds_by_process") or [len(samples)]
        yield (
            Key(bundle, batch, str(runner)),
            Timed(
                p50_us=p50_us,
                processes_us=tuple(_by_process(samples, counts)),
                busy=row.get("busy") is not None,
            ),
        )


def _by_process(
    samples: Sequence[Sequence[float]], counts: Sequence[int]
) -> Iterator[NDArray[np.float64]]:
    if any(type(count) is not int or count < 1 for count in counts) or sum(counts) != len(samples):
        raise ValueError(f"{len(samples)} rounds are not those of the processes, {counts}")
    rounds = iter(samples)
    for count in counts:
        times = np.array([[_time(us) for us in next(rounds)] for _ in range(count)], np.float64)
        if times.size == 0:
            raise ValueError("a round without a time")
        yield times


def _time(us: Any) -> float:
    if isinstance(us, bool) or not isinstance(us, int | float):
        raise TypeError(f"{us!r} is not a time")
    if not (math.isfinite(us) and us > 0):
        raise ValueError(f"{us} us is not a time")
    return float(us)


def _read_settings(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for keys, name in SETTINGS.items():
        found: Any = value
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None and found != UNSAID.get(keys):
            yield name, found if isinstance(found, str) else json.dumps(found)
    for package, version in value["device"]["packages"].items():
        yield str(package), str(version)
