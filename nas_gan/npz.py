"""Arrays in `.npz` files from outside, of which only those that are asked for are read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from nas_gan.errors import InvalidValueError, MissingDataError, NasGanError, UnreadableError
from nas_gan.reading import check_array, check_expansion, open_file, read_array

# What reading a damaged archive raises: the last two for encrypted members and unknown methods.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error,
            OverflowError, RuntimeError, NotImplementedError)  # fmt: skip


class NpzArrays:
    """The arrays of an open `.npz` file by their names.

    Attributes:
        files: the names.
    """

    def __init__(self, archive: zipfile.ZipFile, where: str) -> None:
        self._archive, self._where = archive, where
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        self.files = list(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Read one array.

        Raises:
            InvalidValueError: it is damaged, declares more than it holds, or holds objects.
        """
        if name not in self._members:
            raise UnreadableError(f"{self._where}: there is no array {name}")
        info, where = self._members[name], f"{self._where}: {name}"
        check_expansion(info.file_size, info.compress_size, where)
        try:
            with self._archive.open(info) as file:
                check_array(file, info.file_size, where)
            with self._archive.open(info) as file:
                return read_array(file, where)
        except NasGanError:
            raise
        except _DAMAGED as error:
            raise UnreadableError(f"{where}: damaged ({error}); get it again") from error


@contextmanager
def open_npz(path: Path, what: str) -> Iterator[NpzArrays]:
    """An `.npz` file, whose arrays are read when the block asks for them.

    Args:
        path: the file.
        what: what it should hold, in the plural, for the messages.

    Yields:
        The open file; nothing in it is unpickled.

    Raises:
        MissingDataError: there is no such file.
        InvalidValueError: it is not an `.npz` file, or an array in it is damaged or holds objects.
    """
    try:
        with open_file(path) as raw, zipfile.ZipFile(raw) as archive:
            yield NpzArrays(archive, f"{path}: not an .npz file of {what}")
    except MissingDataError as error:
        if str(error).startswith(f"{path}: no such file"):
            raise MissingDataError(f"{path}: no such file of {what}") from error
        raise
    except NasGanError:
        raise
    except _DAMAGED as error:
        single = path.is_file() and _is_array(path)
        reason = "it is a single array, as numpy.save writes it" if single else error
        raise InvalidValueError(f"{path}: not an .npz file of {what} ({reason})") from error


def _is_array(path: Path) -> bool:
    with open_file(path) as file:
        return file.read(6) == b"\x93NUMPY"
