"""Run directories as values: settings, curves, samples and evaluations, read without torch.

A run directory is what `nas_gan.train` and `nas_gan.search` write: config.json, log.jsonl,
samples/STEP.png, and any JSON file that `nas_gan.evaluate` wrote there. Nothing in it is trusted:
what cannot be read is a problem of that run, and the other runs are read all the same.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas_gan.errors import MissingDataError
from nas_gan.reading import is_number, read_json
from nas_gan.training.log import read_log

Status = Literal["finished", "running", "stopped", "damaged"]
Curve = tuple[tuple[int, float], ...]  # (step, value), by step

# Seconds without a new line after which a run counts as stopped.
QUIET = 600.0
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
        status: finished (all of its steps are in the log), running (the log grew lately),
            stopped, or damaged (something in it cannot be read).
        problems: what cannot be read, one line each.
        config: its settings; empty where they are missing.
        scalars: name -> curve.
        samples: step -> picture.
        evaluations: those found in it.
    """

    name: str
    path: Path
    status: Status
    problems: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    scalars: Mapping[str, Curve] = field(default_factory=dict)
    samples: Mapping[int, Path] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()

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
    """Every run in `folder` and below, by name; `folder` may be a run itself.

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
    return tuple(sorted(runs, key=lambda run: run.name))


def _read_any(path: Path, name: str, clock: Callable[[], float]) -> Run:
    """A run in whatever state it is; nothing in its directory keeps the others from the page."""
    try:
        return read_run(path, name, clock=clock)
    except Exception as error:  # a folder that must not be listed, a file that went away meanwhile
        reason = " ".join(str(error).split()) or type(error).__name__
        return Run(_shown(name), path, "damaged", (f"the directory cannot be read ({reason})",))


def read_run(path: Path, name: str | None = None, *, clock: Callable[[], float] = time.time) -> Run:
    """Read one run directory, whatever state it is in."""
    problems: list[str] = []
    config = _read_config(path / "config.json", problems)
    scalars = _read_curves(path / "log.jsonl", problems)
    run = Run(
        _shown(name or path.name),
        path,
        "stopped",
        tuple(problems),
        config,
        scalars,
        _find_samples(path / "samples"),
        _find_evaluations(path),
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
    return "" if value is None else _shown(value if isinstance(value, str) else json.dumps(value))


def _shown(text: str) -> str:
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


def _read_curves(path: Path, problems: list[str]) -> dict[str, Curve]:
    """Curves of all scalars in a log."""
    try:
        log = read_log(path)
    except OSError:
        problems.append("log.jsonl cannot be opened")
        return {}
    except ValueError as error:
        problems.append(str(error).replace(str(path), path.name))
        return {}
    points: dict[str, dict[int, float]] = {}
    for row in log.rows:
        for name, value in row.items():
            if name != "step" and is_number(value):
                points.setdefault(_shown(name), {})[row["step"]] = float(value)
    if log.n_broken:
        problems.append(f"{log.n_broken} of {log.n_lines} lines of log.jsonl cannot be read")
    return {name: tuple(sorted(curve.items())) for name, curve in points.items()}


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
            numbers[_shown(f"{before}{key}")] = float(value)
    return numbers


def _status(run: Run, now: float) -> Status:
    if run.problems:
        return "damaged"
    if run.steps is not None and run.last_step >= run.steps:
        return "finished"
    # A run without a log has only just written its settings.
    written = [p for p in (run.path / "log.jsonl", run.path / "config.json") if p.exists()]
    latest = max((p.stat().st_mtime for p in written), default=0.0)
    return "running" if now - latest < QUIET else "stopped"
