"""Arrays in `.npz` files from outside."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from nas_gan.errors import InvalidValueError, MissingDataError, NasGanError


@contextmanager
def open_npz(path: Path, what: str) -> Iterator[NpzFile]:
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
        # Opened here, because numpy leaves its own handle open if the file is damaged.
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, NpzFile):
                raise ValueError("it is a single array, as numpy.save writes it")
            with file:
                yield file
    except NasGanError:
        raise
    except FileNotFoundError as error:
        raise MissingDataError(f"{path}: no such file of {what}") from error
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidValueError(f"{path}: not an .npz file of {what} ({error})") from error
