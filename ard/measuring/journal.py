"""The append-only record of measurements, from which a search restores its state."""

from __future__ import annotations

import gc
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, get_args

from ard.errors import JournalError
from ard.measuring.measurement import History, Measurement, Stage
from ard.measuring.score import check_score, from_record, to_record
from ard.plan import RankPlan, Replacement, parse_replacement
from nas_gan.errors import MissingDataError, UnreadableError
from nas_gan.reading import MAX_LOG_BYTES, read_bytes

try:
    import fcntl
except ImportError:  # not on Windows, where one process at a time must suffice
    fcntl = None  # type: ignore[assignment]

# Stages in which a single layer is replaced and nothing is trained.
SINGLE_STAGES = ("proxy", "single")
# Settings that only the scores of whole plans depend on.
OF_WHOLE_PLANS = frozenset(
    {"samples", "recover_steps", "recover_batch", "recover_lr", "feature_weight"}
    | {"stage_ratio", "polish_steps"}
)
STAGES: tuple[Stage, ...] = get_args(Stage)
MAX_ROUNDS = 10_000  # of one measurement, so that a damaged line cannot ask for a list without end
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
    appended. A sweep can likewise resume from the journal of a search. And a search that may
    supersede whole plans keeps the scores of single layers of one with other settings of recovery:
    behind its fingerprint the whole plans before it no longer count.

    Each line ends with a checksum of what stands before it, and is flushed and synced before
    `append` returns. Opening only reads: an incomplete last line, left by a crash or still being
    written by another process, is passed over, and the next `append` replaces it.

    Args:
        path: the file; it is created if it does not exist.
        fingerprint: the checkpoint and the settings that the measurements depend on.
        supersede: called before whole plans that were measured with other settings are forgotten,
            to remove what else is left of them; None if that is not allowed.

    Raises:
        JournalError: the file has another fingerprint, is damaged before its last line, or scores
            one plan twice with different results.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: Mapping[str, Any],
        supersede: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        wanted = json.loads(json.dumps(fingerprint))
        lines = _complete_lines(path)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._begin(wanted)
            lines = _complete_lines(path)
        with _no_collection():
            records = _records(path, lines)
        prints = [UNSAID | r["fingerprint"] for r in records if "fingerprint" in r]
        self._known: dict[_Key, Measurement] = {}
        with _no_collection():
            self._replay(records)
        found = prints[-1] if prints and "fingerprint" in records[0] else None
        if found is not None and supersede is not None and _whole_differ(found, wanted):
            kept = {**found, **{n: v for n, v in wanted.items() if n in OF_WHOLE_PLANS}}
            if _agree(kept, wanted, []):
                supersede()
                self._write({"fingerprint": {**kept, **wanted}})
                self._forget_whole_plans()
                found = {**kept, **wanted}
        if found is None or not _agree(found, wanted, list(self._known.values())):
            raise JournalError(_difference(path.parent, found, wanted))
        if set(wanted) - set(found):
            self._write({"fingerprint": wanted})

    def append(self, measurement: Measurement) -> None:
        """Record one measurement; it is on disk when this returns.

        Raises:
            JournalError: it is not finite, its interval is not in order, or the journal holds
                another score of the same plan at the same stage.
            OSError: it cannot be written; the file is then as it was.
        """
        try:
            check_score(measurement.score)
            known = self._known.get(_key(measurement))
            if known is not None and known.score == measurement.score:
                return
            _check_same(known, measurement)
        except ValueError as error:
            raise JournalError(f"{self.path}: {error}") from error
        self._write(
            {
                "stage": measurement.stage,
                "plan": _plan_record(measurement.plan),
                "evaluation": to_record(measurement.score),
                **({"bank": measurement.bank} if measurement.bank else {}),
                **_history_record(measurement),
            }
        )
        self._remember(measurement)

    def measurements(self) -> Iterator[Measurement]:
        """All measurements, oldest first."""
        return iter(tuple(self._known.values()))

    def _replay(self, records: Sequence[Mapping[str, Any]]) -> None:
        read = _Reader()
        settings: Mapping[str, Any] = {}
        for n, record in enumerate(records, start=1):
            if "fingerprint" in record:
                if _whole_differ(settings, record["fingerprint"]):
                    self._forget_whole_plans()
                settings = {**settings, **record["fingerprint"]}
            elif n > 1:
                try:
                    self._remember(read.measurement(record))
                except (AttributeError, LookupError, TypeError, ValueError) as error:
                    raise JournalError(_unusable(self.path, n, error)) from error

    def _forget_whole_plans(self) -> None:
        self._known = {k: m for k, m in self._known.items() if m.stage in SINGLE_STAGES}

    def _remember(self, measurement: Measurement) -> None:
        known = self._known.setdefault(_key(measurement), measurement)
        if known is not measurement:
            _check_same(known, measurement)

    def _begin(self, fingerprint: Mapping[str, Any]) -> None:
        """Write the first line, unless another process has done so meanwhile.

        Raises:
            JournalError: the file holds something else than the beginning of a journal.
        """
        with _locked(self.path) as file:
            head = file.read(len(_FIRST))
            if not _FIRST.startswith(head) and b"\n" not in head:
                raise JournalError(_difference(self.path.parent, None, fingerprint))
            if not _end_of_lines(file):
                _append(file, _sealed({"fingerprint": fingerprint}))

    def _write(self, value: Mapping[str, Any]) -> None:
        with _locked(self.path) as file:
            _append(file, _sealed(value))


# How every journal begins, and how every line of it ends.
_FIRST = b'{"fingerprint"'
_SEAL, _END = b', "crc32": "', b'"}'
_SEALED = len(_SEAL) + 8 + len(_END)


def _sealed(value: Mapping[str, Any]) -> bytes:
    """A line with its checksum."""
    body = json.dumps(value).encode()[:-1]
    return body + _SEAL + b"%08x" % zlib.crc32(body) + _END + b"\n"


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The open file, which no other process writes meanwhile."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    with os.fdopen(handle, "rb+", buffering=0) as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _end_of_lines(file: IO[bytes]) -> int:
    """The position behind the last complete line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        piece = file.read(end - start)
        if b"\n" in piece:
            return start + piece.rindex(b"\n") + 1
        end = start
    return 0


def _append(file: IO[bytes], line: bytes) -> None:
    """Write a line behind the last complete one; on an error the file is as it was before."""
    end = _end_of_lines(file)
    file.truncate(end)
    file.seek(end)
    try:
        written = 0
        while written < len(line):
            written += file.write(line[written:])
        os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            file.truncate(end)
        raise


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for cycles: among thousands of plain values it takes longer than reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _complete_lines(path: Path) -> list[bytes]:
    """The lines of a journal; none if there is no file."""
    try:
        *complete, _cut_short = read_bytes(path, MAX_LOG_BYTES).split(b"\n")
    except MissingDataError:
        return []
    except UnreadableError as error:
        raise JournalError(f"{error}; use another run directory") from error
    return complete


def _records(path: Path, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Every line as a table, its checksum compared; journals of earlier versions have none."""
    sealed = _is_sealed(lines[0])
    bodies = []
    for n, line in enumerate(lines, start=1):
        try:
            # A journal of an earlier version goes on with sealed lines.
            bodies.append(_opened(line) if sealed or _is_sealed(line) else line)
        except ValueError as error:
            raise JournalError(_unusable(path, n, error)) from error
    records = _decoded(path, bodies)
    for n, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise JournalError(_unusable(path, n, ValueError("it is not a record")))
        if "fingerprint" in record and not _is_fingerprint(record):
            reason = ValueError("its fingerprint is not a table of settings")
            raise JournalError(_unusable(path, n, reason))
    return records


def _decoded(path: Path, bodies: Sequence[bytes]) -> list[Any]:
    """The values of all lines; at once, which is faster, and one by one to find a damaged one."""
    with suppress(ValueError, RecursionError):
        records: list[Any] = json.loads(b"[" + b",\n".join(bodies) + b"]")
        if len(records) == len(bodies):
            return records
    records = []
    for n, body in enumerate(bodies, start=1):
        try:
            records.append(json.loads(body))
        except (ValueError, RecursionError) as error:
            raise JournalError(_unusable(path, n, error)) from error
    return records


def _is_sealed(line: bytes) -> bool:
    return line.endswith(_END) and line[-_SEALED:].startswith(_SEAL)


def _opened(line: bytes) -> bytes:
    """A line without its checksum."""
    body, seal = line[:-_SEALED], line[-_SEALED:]
    if seal != _SEAL + b"%08x" % zlib.crc32(body) + _END:
        raise ValueError("its checksum is missing or another")
    return body + b"}"


def _is_fingerprint(record: Mapping[str, Any]) -> bool:
    return record.keys() == {"fingerprint"} and isinstance(record["fingerprint"], dict)


def _unusable(path: Path, number: int, error: Exception) -> str:
    reason = "lists lie in each other too deep" if isinstance(error, RecursionError) else error
    return f"{path}: line {number} is damaged: {reason}; use another run directory"


class _Reader:
    """Reads measurements, of which thousands name the same few choices."""

    def __init__(self) -> None:
        self._choices: dict[str, Replacement] = {}

    def measurement(self, record: Mapping[str, Any]) -> Measurement:
        """The measurement in a record, every value of which is checked."""
        if record.keys() - {"bank", "rounds", "history"} != {"stage", "plan", "evaluation"}:
            raise ValueError("a measurement has a stage, a plan and an evaluation")
        bank = record.get("bank", 0)
        if type(bank) is not int or bank < 0:
            raise ValueError(f"bank {bank!r} is not a count")
        rounds = record.get("rounds", 1)
        if type(rounds) is not int or not 1 <= rounds <= MAX_ROUNDS:
            raise ValueError(f"rounds {rounds!r} is not a count from 1 to {MAX_ROUNDS}")
        stage = record["stage"]
        if stage not in STAGES:
            raise ValueError(f"stage {stage!r} is none of {', '.join(STAGES)}")
        plan = self._plan(record["plan"])
        before = record.get("history")
        if before is None:
            history: History = (plan,) * (rounds - 1)
        elif isinstance(before, list) and len(before) == rounds - 1:
            history = tuple(self._plan(earlier) for earlier in before)
        else:
            raise ValueError(f"a history of {rounds} rounds lists the plans of {rounds - 1}")
        score = from_record(record["evaluation"])
        check_score(score)
        return Measurement(stage, plan, score, bank, history)

    def _plan(self, plan: Any) -> RankPlan:
        if not isinstance(plan, dict):
            raise ValueError(f"plan {plan!r} is not a table")
        choices = self._choices
        try:
            return RankPlan({name: choices[text] for name, text in plan.items()})
        except (KeyError, TypeError):
            return RankPlan({name: self._choice(text) for name, text in plan.items()})

    def _choice(self, text: Any) -> Replacement:
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is not a factorization")
        found = self._choices.get(text)
        if found is None:
            found = self._choices[text] = parse_replacement(text)
        return found


_Key = tuple[str, RankPlan, int, History]


def _key(measurement: Measurement) -> _Key:
    """What is measured once: a plan after some rounds of recovery, on a bank of latents."""
    return measurement.stage, measurement.plan, measurement.bank, measurement.history


def _plan_record(plan: RankPlan) -> dict[str, str]:
    return {name: str(choice) for name, choice in plan.items()}


def _history_record(measurement: Measurement) -> dict[str, Any]:
    """The rounds of a measurement, and their plans if they were not all its own."""
    history = measurement.history
    if not history:
        return {}
    rounds: dict[str, Any] = {"rounds": measurement.rounds}
    if any(plan != measurement.plan for plan in history):
        rounds["history"] = [_plan_record(plan) for plan in history]
    return rounds


def _check_same(known: Measurement | None, other: Measurement) -> None:
    """Raise ValueError if two measurements of one plan differ."""
    if known is not None and known.score != other.score:
        raise ValueError(
            f"{other.stage} {other.plan} is scored twice, as {known.score.value:g} and as "
            f"{other.score.value:g}"
        )


def _agree(found: Mapping[str, Any], wanted: Mapping[str, Any], lines: list[Measurement]) -> bool:
    """Whether measurements under one fingerprint are valid under another."""
    if any(found[name] != wanted[name] for name in found.keys() & wanted.keys()):
        return False
    more = wanted.keys() - found.keys()
    return not more or all(m.stage in SINGLE_STAGES for m in lines)


def _whole_differ(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two fingerprints differ in a setting of whole plans that both have."""
    return any(found[n] != wanted[n] for n in OF_WHOLE_PLANS & found.keys() & wanted.keys())


def _difference(run_dir: Path, found: Any, wanted: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return (
            f"{run_dir}: journal.jsonl does not begin with a fingerprint; use another run directory"
        )
    shared = [n for n in wanted if n in found and found[n] != wanted[n]]
    shared.sort(key=lambda n: n in OF_WHOLE_PLANS)  # those can be superseded, the others cannot
    name = next(iter(shared or [n for n in wanted if n not in found]))
    return (
        f"{run_dir} belongs to another run: {name} is {found.get(name)} there and "
        f"{wanted.get(name)} here; use another run directory"
    )
