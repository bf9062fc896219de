"""Run directories as values: settings, curves, samples and evaluations, read without torch.

A run directory is what `nas_gan.train` and `nas_gan.search` write: config.json, log.jsonl,
samples/STEP.png, and any JSON file that `nas_gan.evaluate` wrote there. Nothing in it is trusted:
what cannot be read is a problem of that run, and the other runs are read all the same.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas_gan.errors import MissingDataError
from nas_gan.locks import is_locked
from nas_gan.reading import is_number, read_json
from nas_gan.training.log import read_log
from nas_gan.training.pace import PREFIX as PACE

Status = Literal["finished", "running", "stopped", "damaged"]
Curve = tuple[tuple[int, float], ...]  # (step, value), by step

# Seconds without a new line after which a run counts as stopped, where no lock can tell.
QUIET = 600.0
# How far above a run the folder of its grid may be, whose process holds the lock for all runs.
_GRID_LEVELS = 4
# Logs that stay parsed while nothing is added to them.
_KEPT_LOGS = 64
_INSIDE_A_RUN = {"samples", "tensorboard", "genotypes", "recovered", "bundle", "bench"}
# Group -> prefixes of the names of its scalars, in the order of the page.
GROUPS: dict[str, tuple[str, ...]] = {
    "Losses": ("loss/",),
    "Learning rates": ("lr/",),
    "Gradient norms": ("gradient/",),
    "FID, IS and other scores": (
        *("fid", "kid", "is", "inception_score", "precision", "recall", "accuracy"),
        *("class_score", "ms_ssim", "parzen", "metric/", "metrics/"),
    ),
    "Pace": ("pace/",),
    "Health of the scores": ("kernel/", "score/", "scores/"),
}
ACTIVATIONS, OTHER = "Activation parameters", "Other"


@dataclass(frozen=True)
class Evaluation:
    """One JSON file of an evaluation.

    Attributes:
        name: the file.
        extractor: whose features were compared.
        comparable: whether distances are comparable with published FIDs.
        values: every number in it, those of nested objects as `outer.inner`.
    """

    name: str
    extractor: str
    comparable: bool
    values: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        name: its path below the folder that was searched.
        path: where it is.
        status: finished (all of its steps are in the log), running (a process has the directory),
            stopped, or damaged (something in it cannot be read).
        problems: what cannot be read, one line each.
        config: its settings; empty where they are missing.
        scalars: name -> curve.
        samples: step -> picture.
        evaluations: those found in it.
        started: when it was started or resumed last, in seconds since the epoch.
        genotype: the file of the architecture that it found or trained; None without one.
    """

    name: str
    path: Path
    status: Status
    problems: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    scalars: Mapping[str, Curve] = field(default_factory=dict)
    samples: Mapping[int, Path] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    started: float = 0.0
    genotype: Path | None = None

    @property
    def best_fid(self) -> tuple[float, int] | None:
        """The lowest FID in the log and its step, the first one of several; None without any."""
        curve = self.scalars.get("fid")
        return None if not curve else min((value, step) for step, value in curve)

    def pace(self, name: str) -> float | None:
        """The last value of a scalar of `nas_gan.training.pace`: wall_s, images_per_s, left_s."""
        curve = self.scalars.get(f"{PACE}{name}")
        return curve[-1][1] if curve else None

    @property
    def last_step(self) -> int:
        """The last step in the log; 0 before the first."""
        return max((curve[-1][0] for curve in self.scalars.values()), default=0)

    @property
    def steps(self) -> int | None:
        """The steps of the whole run, if its settings say so."""
        steps = self.config.get("steps")
        return steps if type(steps) is int and steps > 0 else None


def check_folder(folder: Path) -> None:
    """Raise MissingDataError unless there is such a folder."""
    if not folder.is_dir():
        raise MissingDataError(
            f"{folder}: no such folder; give the one that holds run directories, such as runs"
        )


def find_runs(folder: Path, *, clock: Callable[[], float] = time.time) -> tuple[Run, ...]:
    """Every run in `folder` and below, the newest first; `folder` may be a run itself.

    Raises:
        MissingDataError: there is no such folder.
    """
    check_folder(folder)
    runs = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in _INSIDE_A_RUN and not name.startswith(".")
        )
        # A compression, which has a journal, has a report of its own.
        if "log.jsonl" in files or ("config.json" in files and "journal.jsonl" not in files):
            path = Path(parent)
            name = str(path.relative_to(folder)) if path != folder else path.resolve().name
            runs.append(_read_any(path, name, clock))
    return tuple(sorted(runs, key=lambda run: (-run.started, run.name)))


def _read_any(path: Path, name: str, clock: Callable[[], float]) -> Run:
    """A run in whatever state it is; nothing in its directory keeps the others from the page."""
    try:
        return read_run(path, name, clock=clock)
    except Exception as error:  # a folder that must not be listed, a file that went away meanwhile
        reason = " ".join(str(error).split()) or type(error).__name__
        problem = f"the directory cannot be read ({reason})"
        return Run(shown(name), path, "damaged", (problem,), started=_started(path))


def read_run(path: Path, name: str | None = None, *, clock: Callable[[], float] = time.time) -> Run:
    """Read one run directory, whatever state it is in."""
    problems: list[str] = []
    config = _read_config(path / "config.json", problems)
    scalars = _read_curves(path / "log.jsonl", problems)
    run = Run(
        shown(name or path.name),
        path,
        "stopped",
        tuple(problems),
        config,
        scalars,
        _find_samples(path / "samples"),
        _find_evaluations(path),
        _started(path),
        _find_genotype(path, config),
    )
    return Run(**{**vars(run), "status": _status(run, clock())})


def thinned(curve: Curve, most: int = 1000) -> Curve:
    """At most about `most` points of a curve, evenly chosen, the last among them."""
    stride = -(-len(curve) // most)
    return curve if stride <= 1 else (*curve[:-1:stride], curve[-1])


def grouped(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names of scalars by the group they are shown in, without empty groups."""
    found: dict[str, list[str]] = {group: [] for group in (*GROUPS, ACTIVATIONS, OTHER)}
    for name in sorted(set(names)):
        found[_group_of(name)].append(name)
    return {group: tuple(members) for group, members in found.items() if members}


def compared_settings(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """Setting -> its value in each run as text; those in which the runs differ come first."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    rows = {key: tuple(_text(run.config.get(key)) for run in runs) for key in keys}
    return dict(sorted(rows.items(), key=lambda row: len(set(row[1])) == 1))


def _text(value: Any) -> str:
    return "" if value is None else shown(value if isinstance(value, str) else json.dumps(value))


def shown(text: str) -> str:
    """A text that a browser can be sent: half characters become `?`."""
    return text.encode("utf-8", "replace").decode()


def _group_of(name: str) -> str:
    for group, starts in GROUPS.items():
        for start in starts:
            # `is` stands for itself and `is/mean`, and not for `isolated`.
            if name == start or name.startswith(start if start.endswith("/") else f"{start}/"):
                return group
            if not start.endswith("/") and name.startswith(f"{start}_"):
                return group
    return ACTIVATIONS if name.endswith(("/mean", "/max", "/min")) else OTHER


def _read_config(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        config = read_json(path, finite=False)
    except OSError:
        problems.append("config.json is missing or cannot be opened")
        return {}
    except ValueError as error:
        problems.append(str(error).replace(str(path), path.name))
        return {}
    if not isinstance(config, dict):
        problems.append("config.json is not an object with settings")
        return {}
    return config


def _read_curves(path: Path, problems: list[str]) -> Mapping[str, Curve]:
    """Curves of all scalars in a log."""
    try:
        state = path.stat() if path.exists() else None
        if state is None:
            return {}
        curves, broken = _curves_of(path, state.st_ino, state.st_mtime_ns, state.st_size)
    except OSError:
        problems.append("log.jsonl cannot be opened")
        return {}
    except ValueError as error:
        problems.append(str(error).replace(str(path), path.name))
        return {}
    problems += broken
    return curves


@functools.lru_cache(_KEPT_LOGS)
def _curves_of(path: Path, *state: int) -> tuple[Mapping[str, Curve], tuple[str, ...]]:
    """Curves of all scalars in a log in this `state`, and what cannot be read of it."""
    log = read_log(path)
    points: dict[str, dict[int, float]] = {}
    for row in log.rows:
        for name, value in row.items():
            if name != "step" and is_number(value):
                points.setdefault(shown(name), {})[row["step"]] = float(value)
    broken = f"{log.n_broken} of {log.n_lines} lines of log.jsonl cannot be read"
    curves = {name: tuple(sorted(curve.items())) for name, curve in points.items()}
    return curves, (broken,) if log.n_broken else ()


def _find_samples(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    named = {
        path.stem: path
        for path in folder.glob("*.png")
        if not path.name.startswith(".") and path.is_file()
    }
    return {int(stem): named[stem] for stem in sorted(named, key=len) if stem.isdecimal()}


def _find_evaluations(folder: Path) -> tuple[Evaluation, ...]:
    """The JSON files that name an extractor; others are no evaluations."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json(path, finite=False)
        except (OSError, ValueError):
            continue
        extractor = content.get("extractor") if isinstance(content, dict) else None
        if isinstance(extractor, str):
            comparable = content.get("comparable") is True
            found.append(Evaluation(path.name, extractor, comparable, _numbers(content)))
    return tuple(found)


def _numbers(content: Mapping[str, Any], before: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            numbers |= _numbers(value, f"{before}{key}.")
        elif is_number(value):
            numbers[shown(f"{before}{key}")] = float(value)
    return numbers


def _status(run: Run, now: float) -> Status:
    if run.problems:
        return "damaged"
    if run.steps is not None and run.last_step >= run.steps:
        return "finished"
    held = is_locked(run.path)
    if held is False:
        # A grid has one lock for all of its runs, of which those go on that log.
        path = run.path.absolute()
        if not any(is_locked(folder) for folder in path.parents[:_GRID_LEVELS]):
            return "stopped"
    return "running" if held or now - _last_written(run.path) < QUIET else "stopped"


def _last_written(folder: Path) -> float:
    """When a run wrote its log last; without a log, its settings."""
    return max((written_at(folder / name) for name in ("log.jsonl", "config.json")), default=0.0)


def _started(folder: Path) -> float:
    """A run writes its settings when it is started or resumed, and its log from then on."""
    found = (written_at(folder / name) for name in ("config.json", "log.jsonl"))
    return next((time for time in found if time), 0.0)


def written_at(path: Path) -> float:
    """When a file was written last, in seconds since the epoch; 0 if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _find_genotype(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """What a search found, or the file that a training names."""
    named = config.get("genotype")
    candidates = [folder / "genotype.json"]
    if isinstance(named, str) and named.endswith(".json"):
        candidates.append(Path(named))
    return next((path for path in candidates if path.is_file()), None)
