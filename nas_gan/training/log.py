"""The log of a run: JSON lines and TensorBoard events to write, JSON lines to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_gan.errors import InvalidValueError
from nas_gan.files import write_text
from nas_gan.reading import MAX_LOG_BYTES, is_number, read_bytes
from nas_gan.training.pace import seconds_spent

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LogContent:
    """What could be read of a log.jsonl, and how much could not.

    Attributes:
        rows: scalars by name, each row with its `step`, in the order in which they were written.
        n_lines: whole lines in the file.
        n_broken: whole lines that are no row. A last line without its end is still being written,
            or was cut short by a crash, and is neither.
    """

    rows: tuple[Mapping[str, Any], ...] = ()
    n_lines: int = 0
    n_broken: int = 0


def read_log(path: Path) -> LogContent:
    """Read the log of a run; a run that has not logged yet has an empty one.

    Raises:
        InvalidValueError: the file is there and cannot be opened, is no regular file, or is larger
            than `MAX_LOG_BYTES`.
    """
    if not path.exists():
        return LogContent()
    lines = read_bytes(path, MAX_LOG_BYTES).split(b"\n")
    rows = [_row(line) for line in lines]
    n_broken = sum(
        row is None for row, line in zip(rows[:-1], lines[:-1], strict=True) if line.strip()
    )
    return LogContent(tuple(row for row in rows if row is not None), len(lines) - 1, n_broken)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        step = row["step"]
        # A step beyond 2^53 would not survive as a number of the page.
        return row | {"step": int(step)} if is_number(step) and 0 <= step < 2**53 else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


class RunLog:
    """Scalars as JSON lines and as TensorBoard events; rows past the resumed step are dropped.

    Raises:
        InvalidValueError: TensorBoard cannot write to a folder of this name.
    """

    def __init__(self, run_dir: Path, first: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        try:
            str(run_dir.absolute()).encode()
        except UnicodeEncodeError as error:
            raise InvalidValueError(
                f"must have a name in UTF-8, for TensorBoard; got {run_dir}", setting="run_dir"
            ) from error
        self.path, self.first, self.spent = run_dir / "log.jsonl", first, 0.0
        if self.path.exists():
            kept = [row for row in read_log(self.path).rows if row["step"] <= first]
            write_text(self.path, "".join(map(_line, kept)))
            self.spent = seconds_spent(tuple(kept))
        self.writer = SummaryWriter(run_dir / "tensorboard", purge_step=first + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(_line({"step": step, **values}))
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, image: Tensor) -> None:
        self.writer.add_image("samples", image, step)

    def close(self) -> None:
        self.writer.close()


def _line(row: Mapping[str, Any]) -> str:
    return f"{json.dumps(row)}\n"
