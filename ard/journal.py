"""The append-only record of measurements. The state of a search is whatever it replays to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ard.errors import JournalError
from ard.evaluate import Evaluation
from ard.plan import RankPlan

if TYPE_CHECKING:
    from ard.sensitivity import Measurement


class Journal(Protocol):
    """Remembers measurements in the order in which they were made."""

    def append(self, measurement: Measurement) -> None: ...

    def measurements(self) -> Iterator[Measurement]: ...


class MemoryJournal:
    """Forgets everything when the process ends."""

    def __init__(self) -> None:
        self._lines: list[Measurement] = []

    def append(self, measurement: Measurement) -> None:
        self._lines.append(measurement)

    def measurements(self) -> Iterator[Measurement]:
        return iter(tuple(self._lines))


class FileJournal:
    """JSON lines in a file; the first line is the fingerprint of checkpoint and settings.

    A line is flushed and synced before `append` returns. A last line that a crash cut short is
    dropped when the file is opened again.

    Raises:
        JournalError: the file was begun with another fingerprint, or is damaged in the middle.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = path
        wanted = json.loads(json.dumps(fingerprint))
        if not path.exists() or not (lines := _complete_lines(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            self._lines: list[Measurement] = []
            self._write({"fingerprint": wanted})
            return
        found = _parse(path, 1, lines[0]).get("fingerprint")
        if found != wanted:
            raise JournalError(_difference(path.parent, found, wanted))
        self._lines = [_measurement(path, n, line) for n, line in enumerate(lines[1:], start=2)]
        # Cut off what is not a whole line, so that the next append starts on a fresh one.
        with path.open("rb+") as file:
            file.truncate(sum(len(line) + 1 for line in lines))

    def append(self, measurement: Measurement) -> None:
        """Record one measurement durably."""
        self._write(
            {
                "stage": measurement.stage,
                "plan": {name: str(choice) for name, choice in measurement.plan.items()},
                "evaluation": asdict(measurement.evaluation),
            }
        )
        self._lines.append(measurement)

    def measurements(self) -> Iterator[Measurement]:
        """All measurements, oldest first."""
        return iter(tuple(self._lines))

    def _write(self, value: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(value).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _complete_lines(path: Path) -> list[bytes]:
    *complete, _cut_short = path.read_bytes().split(b"\n")
    return complete


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise JournalError(f"{path}: line {number} is damaged; use another --run-dir") from error
    if not isinstance(value, dict):
        raise JournalError(f"{path}: line {number} is not a record; use another --run-dir")
    return value


def _measurement(path: Path, number: int, line: bytes) -> Measurement:
    from ard.plan import Factorization
    from ard.sensitivity import Measurement

    value = _parse(path, number, line)
    try:
        plan = RankPlan({n: Factorization.parse(text) for n, text in value["plan"].items()})
        return Measurement(value["stage"], plan, Evaluation(**value["evaluation"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise JournalError(f"{path}: line {number}: {error}; use another --run-dir") from error


def _difference(run_dir: Path, found: Any, wanted: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return f"{run_dir}: journal.jsonl does not begin with a fingerprint; use another --run-dir"
    name = next(n for n in [*wanted, *found] if found.get(n) != wanted.get(n))
    return (
        f"{run_dir} belongs to another run: {name} is {found.get(name)} there, "
        f"{wanted.get(name)} here; use another --run-dir"
    )
