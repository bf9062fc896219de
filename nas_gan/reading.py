"""Files from outside, read within stated limits.

What is in a file decides nothing before it has been checked: how large it is, how deep it nests,
how large its numbers are, and whether the sizes that it declares are those of the bytes that are
there. A file that fails is an `UnreadableError`, one line that names the file and, inside it, the
key.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
import tokenize
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from nas_gan.errors import MissingDataError, UnreadableError

# Settings, plans, manifests and tables are kilobytes; a log of a million steps is 100 MB.
MAX_TEXT_BYTES = 64 << 20
MAX_LOG_BYTES = 512 << 20
# How deep lists and tables may lie in each other, and how long a whole number may be: a seed of
# 128 bits has 39 digits.
MAX_DEPTH = 64
MAX_DIGITS = 40
# What an array may hold beyond 100 times the bytes of its file; zeros compress a thousand times.
MAX_EXPANDED_BYTES = 256 << 20
MAX_RATIO = 100

# What numpy raises for the damaged head of an array, some of it from the parser of Python.
_DAMAGED_ARRAY = (
    ValueError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    ArithmeticError,
    MemoryError,
    struct.error,
)


# -- whole files


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file; a pipe or a device, which may have no end, is refused unread.

    Raises:
        MissingDataError: there is no such file.
        UnreadableError: it is no file, or must not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise MissingDataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableError(f"{path}: cannot be opened ({reason})") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnreadableError(f"{path}: not a regular file; give the path of a file")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, most: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a file of at most `most` bytes.

    Raises:
        MissingDataError: there is no such file.
        UnreadableError: it is no regular file, or is larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UnreadableError(f"{path}: {size:,} bytes; at most {most:,} are read")
        return file.read(most)


def read_text(path: Path, most: int = MAX_TEXT_BYTES, encoding: str = "utf-8") -> str:
    """The text of a file in UTF-8.

    Raises:
        MissingDataError: there is no such file.
        UnreadableError: it is too large, no regular file, or not UTF-8.
    """
    try:
        return read_bytes(path, most).decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path}: not text in UTF-8 (byte {error.start + 1})") from error


def read_json(path: Path, *, finite: bool = True) -> Any:
    """The content of a JSON file; see `parse_json`.

    Raises:
        MissingDataError: there is no such file.
        UnreadableError: it is not JSON, or beyond a limit.
    """
    return parse_json(read_text(path), str(path), finite=finite)


def parse_json(text: str | bytes, where: str, *, finite: bool = True) -> Any:
    """Plain values from JSON.

    Args:
        text: the JSON.
        where: the file it comes from, which begins the message of an error.
        finite: refuse NaN and infinity, which JSON does not have and Python writes all the same.

    Raises:
        UnreadableError: it is not JSON, nests deeper than `MAX_DEPTH`, or holds a number of more
            than `MAX_DIGITS` digits.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise UnreadableError(
            f"{where}: lists lie in each other more than {MAX_DEPTH} deep"
        ) from error
    except ValueError as error:
        raise UnreadableError(f"{where}: not JSON ({error})") from error
    return check_plain(value, where, finite=finite)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        MissingDataError: there is no such file.
        UnreadableError: it is not TOML, or beyond a limit.
    """
    text = read_text(path)
    try:
        value = tomllib.loads(text)
    except RecursionError as error:
        raise UnreadableError(
            f"{path}: lists lie in each other more than {MAX_DEPTH} deep"
        ) from error
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise UnreadableError(f"{path}: not a TOML file ({error})") from error
    return cast("dict[str, Any]", check_plain(value, str(path)))


def check_plain(value: Any, where: str, *, finite: bool = True) -> Any:
    """Plain values as they are, within the limits of depth and of numbers.

    Raises:
        UnreadableError: naming the key at which they are not.
    """
    level: list[tuple[Any, Any]] = [("", value)]
    for _ in range(MAX_DEPTH):
        inner: list[tuple[Any, Any]] = []
        for key, item in level:
            if isinstance(item, dict):
                inner += item.items()
            elif isinstance(item, list):
                inner += [(key, each) for each in item]
            elif type(item) is int:
                if abs(item) >= 10**MAX_DIGITS:
                    raise UnreadableError(
                        f"{_at(where, key)}: a number of over {MAX_DIGITS} digits"
                    )
            elif finite and isinstance(item, float) and not math.isfinite(item):
                raise UnreadableError(f"{_at(where, key)}: {item} is not a finite number")
        if not inner:
            return value
        level = inner
    raise UnreadableError(f"{where}: lists lie in each other more than {MAX_DEPTH} deep")


def _at(where: str, key: Any) -> str:
    return f"{where}: {key}" if key != "" else where


# -- arrays


def check_array(file: IO[bytes], size: int, where: str) -> None:
    """Check that the array at the start of a file is as large as it declares.

    Args:
        file: a file in the format of `numpy.save`.
        size: its bytes.
        where: names it in messages.

    Raises:
        UnreadableError: it is another file, declares more values than it holds, or holds objects.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version} of the format is not read")
        start = file.tell()
    except _DAMAGED_ARRAY as error:
        reason = " ".join(str(error).split())[:200]
        raise UnreadableError(
            f"{where}: not an array as numpy.save writes it ({reason})"
        ) from error
    if dtype.hasobject:
        raise UnreadableError(f"{where}: holds Python objects, which are not read")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise UnreadableError(f"{where}: an array of shape {shape}")
    declared = math.prod(shape) * dtype.itemsize
    if declared != size - start or (not dtype.itemsize and math.prod(shape) > 1):
        raise UnreadableError(
            f"{where}: an array {tuple(shape)} of {dtype} has {declared:,} bytes, and the file "
            f"holds {size - start:,}; get it again"
        )


def read_array(file: IO[bytes], where: str) -> npt.NDArray[Any]:
    """The array that `check_array` has checked, read from the start of the file.

    Raises:
        UnreadableError: it is damaged.
    """
    try:
        return cast("npt.NDArray[Any]", np.lib.format.read_array(file, allow_pickle=False))
    except _DAMAGED_ARRAY as error:
        raise UnreadableError(f"{where}: damaged ({error}); get it again") from error


def read_npy(path: Path, most: int | None = None) -> npt.NDArray[Any]:
    """The array in an `.npy` file of at most `most` bytes; nothing is unpickled.

    Raises:
        MissingDataError: there is no such file.
        UnreadableError: it is not such a file, or declares more values than it holds.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UnreadableError(f"{path}: {size:,} bytes; at most {most:,} are read")
        check_array(file, size, str(path))
        file.seek(0)
        return read_array(file, str(path))


def map_npy(path: Path) -> npt.NDArray[Any]:
    """The array in an `.npy` file, whose values are read when they are used.

    Raises:
        MissingDataError: there is no such file.
        UnreadableError: it is not such a file, or declares more values than it holds.
    """
    with open_file(path) as file:
        check_array(file, os.fstat(file.fileno()).st_size, str(path))
    try:
        return cast("npt.NDArray[Any]", np.load(path, mmap_mode="r", allow_pickle=False))
    except (*_DAMAGED_ARRAY, OSError) as error:
        raise UnreadableError(f"{path}: damaged ({error}); get it again") from error


def check_expansion(expanded: int, stored: int, where: str) -> None:
    """Check that what is compressed does not become out of proportion large.

    Raises:
        UnreadableError: it would take more than `MAX_EXPANDED_BYTES` and `MAX_RATIO` times the
            bytes it is stored in.
    """
    if expanded > max(MAX_EXPANDED_BYTES, MAX_RATIO * stored):
        raise UnreadableError(
            f"{where}: {stored:,} bytes that become {expanded:,}; more than {MAX_RATIO} times as "
            "many are not read"
        )


# -- the values of a table of settings


class Fields:
    """A table of plain values whose entries are checked as they are taken.

    Args:
        data: the table.
        where: the file and the keys that lead to it, which begin the message of an error.

    Raises:
        UnreadableError: `data` is not a table.
    """

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, Mapping):
            raise UnreadableError(f"{where}: a table of values is expected; found {_kind(data)}")
        self.data, self.where = data, where

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def any(self, key: str) -> Any:
        """A value of any type.

        Raises:
            UnreadableError: there is no such key.
        """
        if key not in self.data:
            raise UnreadableError(f"{self.where}: {key} is missing")
        return self.data[key]

    def _take(self, key: str, good: Callable[[Any], bool], what: str) -> Any:
        value = self.any(key)
        if not good(value):
            raise UnreadableError(f"{self.where}: {key} must be {what}; found {_kind(value)}")
        return value

    def text(self, key: str) -> str:
        """A text."""
        return cast(str, self._take(key, lambda v: isinstance(v, str), "a text"))

    def choice(self, key: str, choices: Iterable[str]) -> str:
        """One of some texts."""
        names = tuple(choices)
        what = f"one of {', '.join(names)}"
        return cast(str, self._take(key, lambda v: isinstance(v, str) and v in names, what))

    def count(self, key: str, least: int = 0) -> int:
        """A whole number of at least `least`; a truth value is none."""
        what = f"a whole number from {least} on"
        return cast(int, self._take(key, lambda v: type(v) is int and v >= least, what))

    def number(self, key: str) -> float:
        """A finite number; a truth value is none."""
        return float(self._take(key, is_number, "a finite number"))

    def texts(self, key: str) -> dict[str, str]:
        """A table of texts."""
        return {name: self.table(key).text(name) for name in self.table(key).data}

    def table(self, key: str) -> Fields:
        """A table within this one."""
        return Fields(self.any(key), f"{self.where}: {key}")

    def tables(self, key: str) -> list[Fields]:
        """A list of tables."""
        items = self._take(key, lambda v: isinstance(v, list | tuple), "a list")
        return [Fields(item, f"{self.where}: {key} {n}") for n, item in enumerate(items, start=1)]

    def sizes(self, key: str) -> tuple[int | str, ...]:
        """A list of whole numbers from 1 on, or of names for sizes that vary."""
        items: Sequence[Any] = self._take(
            key,
            lambda v: isinstance(v, list | tuple) and all(map(_is_size, v)),
            "a list of sizes",
        )
        return tuple(items)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and not a truth value."""
    if type(value) is float:
        return math.isfinite(value)
    try:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return plain and math.isfinite(value)
    except OverflowError:
        return False


def _is_size(value: Any) -> bool:
    return (type(value) is int and value > 0) or (isinstance(value, str) and value.isidentifier())


def _kind(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:57]}..."


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path in a folder is a link to something that is not in it."""
    try:
        return path.is_symlink() and folder.resolve() not in path.resolve().parents
    except (OSError, RuntimeError):  # a link to itself
        return True


def plain_name(name: Any, where: str) -> str:
    """A name that stays in its folder: no separator, no `..`, nothing that cannot be shown.

    Raises:
        UnreadableError: it is another text, or no text.
    """
    good = (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
        and len(name.encode("utf-8", "surrogateescape")) <= 255
    )
    if not good:
        raise UnreadableError(f"{where}: {_kind(name)} is not the name of a file beside it")
    return cast(str, name)
