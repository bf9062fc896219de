"""The append-only record of measurements, from which a search restores its state."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ard.errors import JournalError
from ard.measuring.measurement import Measurement
from ard.measuring.score import from_record, to_record
from ard.plan import Factorization, RankPlan

# Stages in which a single layer is replaced and nothing is trained.
SINGLE_STAGES = ("proxy", "single")
# Settings that fingerprints of earlier versions lack, because there was only one choice.
UNSAID = {"metric": "fid", "estimator": "plain"}


class Journal(Protocol):
    """Records measurements in the order in which they were made."""

    def append(self, measurement: Measurement) -> None: ...

    def measurements(self) -> Iterator[Measurement]: ...


class MemoryJournal:
    """A journal in memory, which is lost when the process ends."""

    def __init__(self) -> None:
        self._lines: list[Measurement] = []

    def append(self, measurement: Measurement) -> None:
        self._lines.append(measurement)

    def measurements(self) -> Iterator[Measurement]:
        return iter(tuple(self._lines))


class FileJournal:
    """A journal in a file of JSON lines, which begins with a fingerprint.

    A sweep of single layers depends on fewer settings than a search. A search can resume from the
    journal of a sweep if the settings that both have agree; its longer fingerprint is then
    appended. A sweep can likewise resume from the journal of a search.

    Each line is flushed and synced before `append` returns. An incomplete last line, left by a
    crash, is dropped when the file is opened again.

    Args:
        path: the file; it is created if it does not exist.
        fingerprint: the checkpoint and the settings that the measurements depend on.

    Raises:
        JournalError: the file has another fingerprint, or is damaged before its last line.
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
        records = [_parse(path, n, line) for n, line in enumerate(lines, start=1)]
        prints = [
            UNSAID | r["fingerprint"] for r in records if isinstance(r.get("fingerprint"), dict)
        ]
        self._lines = [
            _measurement(path, n, record)
            for n, record in enumerate(records, start=1)
            if n > 1 and "fingerprint" not in record
        ]
        found = prints[-1] if prints and "fingerprint" in records[0] else None
        if found is None or not _agree(found, wanted, self._lines):
            raise JournalError(_difference(path.parent, found, wanted))
        # Drop an incomplete last line, so that the next append starts on a new line.
        with path.open("rb+") as file:
            file.truncate(sum(len(line) + 1 for line in lines))
        if set(wanted) - set(found):
            self._write({"fingerprint": wanted})

    def append(self, measurement: Measurement) -> None:
        """Record one measurement; it is on disk when this returns."""
        self._write(
            {
                "stage": measurement.stage,
                "plan": {name: str(choice) for name, choice in measurement.plan.items()},
                "evaluation": to_record(measurement.score),
                **({"bank": measurement.bank} if measurement.bank else {}),
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
        raise JournalError(
            f"{path}: line {number} is damaged; use another run directory"
        ) from error
    if not isinstance(value, dict):
        raise JournalError(f"{path}: line {number} is not a record; use another run directory")
    return value


def _measurement(path: Path, number: int, value: Mapping[str, Any]) -> Measurement:
    try:
        plan = RankPlan({n: Factorization.parse(text) for n, text in value["plan"].items()})
        score = from_record(value["evaluation"])
        return Measurement(value["stage"], plan, score, value.get("bank", 0))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise JournalError(f"{path}: line {number}: {error}; use another run directory") from error


def _agree(found: Mapping[str, Any], wanted: Mapping[str, Any], lines: list[Measurement]) -> bool:
    """Whether measurements under one fingerprint are valid under another."""
    if any(found[name] != wanted[name] for name in found.keys() & wanted.keys()):
        return False
    more = wanted.keys() - found.keys()
    return not more or all(m.stage in SINGLE_STAGES for m in lines)


def _difference(run_dir: Path, found: Any, wanted: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return (
            f"{run_dir}: journal.jsonl does not begin with a fingerprint; use another run directory"
        )
    shared = [n for n in wanted if n in found and found[n] != wanted[n]]
    name = next(iter(shared or [n for n in wanted if n not in found]))
    return (
        f"{run_dir} belongs to another run: {name} is {found.get(name)} there and "
        f"{wanted.get(name)} here; use another run directory"
    )
