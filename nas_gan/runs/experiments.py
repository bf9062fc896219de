"""One run of a grid: training it in a process of its own, and how it ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_gan.children import run_child
from nas_gan.errors import NasGanError
from nas_gan.files import write_json, write_text
from nas_gan.reading import is_number, read_json
from nas_gan.runs.grid import PlannedRun
from nas_gan.runs.log_metrics import metrics_of
from nas_gan.training.log import read_log

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        preset: the name of its preset.
        variant: its changes to the preset, as text.
        seed: its seed.
        metrics: what was read off its log, by name.
        reason: why it failed; empty if it finished.
        seconds: time its last part took.
    """

    preset: str
    variant: str
    seed: int
    metrics: dict[str, float]
    reason: str
    seconds: float

    @property
    def failed(self) -> bool:
        return bool(self.reason)


def to_toml(settings: Mapping[str, Any]) -> str:
    """Settings by their flat names as a TOML file: texts, truth values, numbers and lists."""
    # JSON writes all of these as TOML does, and a name with a dot in quotes.
    return "".join(
        f"{json.dumps(name) if '.' in name else name} = {json.dumps(value)}\n"
        for name, value in settings.items()
    )


def train_in_process(folder: Path) -> str:
    """Train what `folder`/settings.toml says in a process of its own; why it failed, or ""."""
    command = [sys.executable, "-m", "nas_gan.train", "--config", str(folder / "settings.toml")]
    done = run_child(
        [*command, "--run-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]


def is_done(run: PlannedRun) -> bool:
    """Whether the run has finished already, with these settings."""
    known = _read_outcome(run.folder / OUTCOME)
    return known.get("settings") == to_toml(run.settings) and not known.get("reason")


def run_experiment(
    run: PlannedRun,
    metrics: Sequence[str],
    *,
    train: Callable[[Path], str] = train_in_process,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Do one run, unless it has finished already, and keep how it ended in its directory.

    Args:
        run: the run.
        metrics: what to read off its log.
        train: trains what settings.toml in a directory says; returns why it failed, or "".
        clock: seconds.
    """
    outcome_file, text = run.folder / OUTCOME, to_toml(run.settings)
    known = _read_outcome(outcome_file)
    seconds = float(known["seconds"]) if is_number(known.get("seconds")) else 0.0
    reason = ""
    if not is_done(run):
        write_text(run.folder / "settings.toml", text)
        started = clock()
        reason = train(run.folder)
        seconds = clock() - started
        write_json(outcome_file, {"settings": text, "reason": reason, "seconds": seconds})
    found = metrics_of(read_log(run.folder / "log.jsonl").rows, metrics)
    return Outcome(run.preset, run.variant, run.seed, found, reason, seconds)


def _read_outcome(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except NasGanError:
        return {}
    return content if isinstance(content, dict) else {}
