"""Strict reading of CSV tables with a header.

The readers of single cells raise a plain `ValueError`, to which `at_line` adds the line number.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ard.errors import TableError
from nas_gan.errors import UnreadableError
from nas_gan.reading import read_text

Cells = Mapping[str, str | None]
# More digits than any size here can have; int() of thousands of digits is slow.
MAX_DIGITS = 18


def read_table_text(path: Path, needs: Sequence[str]) -> str:
    """The text of a table, without a byte order mark; an error names the columns it `needs`.

    Raises:
        TableError: the file is empty, too large, no regular file, or not text in UTF-8.
        MissingDataError: there is no such file.
    """
    try:
        text = read_text(path, encoding="utf-8-sig")
    except UnreadableError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise TableError(f"{path}: not a CSV table in UTF-8 ({reason})") from error
    if not text.strip():
        raise TableError(f"{path}: the table is empty; it needs {', '.join(needs)}")
    return text


def header(text: str) -> tuple[str, ...]:
    """The names of the columns.

    Raises:
        TableError: the first line is not the header of a CSV table.
    """
    try:
        return tuple(csv.DictReader(io.StringIO(text)).fieldnames or ())
    except csv.Error as error:
        raise TableError(f"line 1: not the header of a CSV table: {error}") from error


def require_columns(text: str, needs: Sequence[str]) -> None:
    """Check that the table has every column that it `needs`.

    Raises:
        TableError: a column is missing, or comes twice.
    """
    names = header(text)
    if double := [name for name in needs if names.count(name) > 1]:
        raise TableError(f"the table has {names.count(double[0])} columns {double[0]!r}")
    if missing := [name for name in needs if name not in names]:
        raise TableError(f"the table has no column {missing[0]!r}; it needs {', '.join(needs)}")


def numbered_rows(text: str) -> Iterator[tuple[int, Cells]]:
    """Every row with the number of its last line.

    Raises:
        TableError: a row cannot be split into cells.
    """
    reader = csv.DictReader(io.StringIO(text))
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise TableError(f"line {reader.line_num}: not a row of a CSV table: {error}") from error


@contextmanager
def at_line(line: int) -> Iterator[None]:
    """Attribute errors inside the block to this line of the table.

    Raises:
        TableError: the block raised a `ValueError`.
    """
    try:
        yield
    except ValueError as error:
        raise TableError(f"line {line}: {error}") from error


def text_cell(cells: Cells, name: str) -> str:
    """The text of a cell that must not be empty, stripped."""
    text = (cells.get(name) or "").strip()
    if not text:
        raise ValueError(f"{name} is empty")
    return text


def whole_cell(cells: Cells, name: str) -> int:
    """A whole number of 1 or more."""
    text = text_cell(cells, name)
    if not _is_whole(text):
        raise ValueError(f"{name} is {text!r}, not a whole number of 1 or more")
    return int(text)


def whole_cells(cells: Cells, name: str, separator: str = "x") -> tuple[int, ...]:
    """Whole numbers of 1 or more in one cell, such as the ranks `64x32`."""
    text = text_cell(cells, name)
    parts = text.split(separator)
    if not all(map(_is_whole, parts)):
        raise ValueError(f"{name} is {text!r}, not made of whole numbers of 1 or more")
    return tuple(map(int, parts))


def number_cell(cells: Cells, name: str) -> float:
    """A finite number."""
    text = text_cell(cells, name)
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}, not finite")
    return number


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS and int(text) > 0
