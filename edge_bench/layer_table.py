"""The table of layer times, `latency.csv`, from which ranks are chosen on any machine."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from edge_bench.errors import BundleError
from edge_bench.reading import read_text

TABLE = "latency.csv"
# An interval wider than this share of its time means that the machine was busy with other work.
UNCERTAIN = 0.1


@dataclass(frozen=True)
class Place:
    """The conditions of a measurement, apart from the batch size."""

    runtime: str
    device: str
    threads: int
    precision: str


@dataclass(frozen=True)
class LayerTime:
    """A row of the table: a layer's median time for one batch, and its 95 % interval."""

    signature: str
    choice: str
    batch: int
    milliseconds: float
    ci_low: float
    ci_high: float
    runtime: str
    device: str
    threads: int
    precision: str

    @property
    def key(self) -> tuple[object, ...]:
        """What was timed, and where; equal keys are the same measurement."""
        place = Place(self.runtime, self.device, self.threads, self.precision)
        return key_of(self.signature, self.choice, self.batch, place)


def key_of(signature: str, choice: str, batch: int, place: Place) -> tuple[object, ...]:
    """The key of the time that this measurement would give."""
    return (signature, choice, batch, place)


COLUMNS = tuple(field.name for field in fields(LayerTime))


def read_times(path: Path) -> tuple[LayerTime, ...]:
    """The times of an earlier run; none if there is no file.

    Raises:
        BundleError: the file is not a table of times.
    """
    if not path.exists():
        return ()
    try:
        reader = csv.DictReader(io.StringIO(read_text(path)))
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"no column {missing[0]!r}")
        return tuple(_read_time(cells) for cells in reader)
    except (ValueError, TypeError, KeyError, AttributeError, csv.Error) as error:
        raise BundleError(
            f"{path}: not a table of layer times ({error}); remove it to start over"
        ) from None


def _read_time(cells: dict[str, str]) -> LayerTime:
    if any(cells[name] is None for name in COLUMNS):
        raise ValueError("a row is cut short")
    times = [float(cells[name]) for name in ("milliseconds", "ci_low", "ci_high")]
    if not all(math.isfinite(time) and time > 0 for time in times) or times[1] > times[2]:
        raise ValueError(f"{times} are not a time and its interval in milliseconds")
    batch, threads = int(cells["batch"]), int(cells["threads"])
    if min(batch, threads) < 1:
        raise ValueError(f"batch {batch} and {threads} threads are not counts")
    return LayerTime(
        cells["signature"],
        cells["choice"],
        batch,
        *(times[0], times[1], times[2]),
        cells["runtime"],
        cells["device"],
        threads,
        cells["precision"],
    )


def to_csv(times: Sequence[LayerTime]) -> str:
    """The times as CSV with the columns `COLUMNS`; milliseconds, rounded to a nanosecond."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in times:
        cells = (round(cell, 6) if isinstance(cell, float) else cell for cell in astuple(row))
        writer.writerow(cells)
    return text.getvalue()


def summary(path: Path, known: Sequence[LayerTime], times: Sequence[LayerTime]) -> str:
    """How many times were written to `path`, and how many of them are uncertain."""
    new = len(set(times) - set(known))
    wide = [t for t in times if t.ci_high - t.ci_low > UNCERTAIN * t.milliseconds]
    lines = [f"wrote {path}: {len(times)} times, {new} of them new"]
    if wide:
        lines.append(
            f"note: {len(wide)} are uncertain by more than {UNCERTAIN:.0%}, because of other "
            "programs or unlocked clocks; a duration of a second per layer measures more precisely"
        )
    return "\n".join(lines) + "\n"
