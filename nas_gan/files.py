"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# .NAME-8 characters.partial and the suffix of the file; no file of a user has such a name.
PARTIAL = re.compile(r"\.(?P<name>.+)-[a-z0-9_]{8}\.partial(\.[^.]*)?")
# A name of 255 bytes must leave room for the rest.
_KEPT_OF_NAME = 50


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it, synced to disk, when the block succeeds.

    On an exception (a full disk, an interrupt) the temporary file is removed and `path` keeps
    whatever it held before. What a killed process left behind of the same `path` is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.stem[:_KEPT_OF_NAME]
    remove_leftovers(_partial_files(path.parent, stem))
    # The suffix stays: writers such as numpy and matplotlib choose or append a format by it.
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{stem}-", suffix=f".partial{path.suffix}"
    )
    temporary = Path(name)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def remove_leftovers(files: Iterable[Path]) -> None:
    """Remove those of the temporary files that no process is writing any more.

    A writer locks its temporary file, and the lock dies with it. Where nothing can be locked,
    nothing is removed.
    """
    for path in files:
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def partial_files(folder: Path) -> list[Path]:
    """The temporary files in a folder and in the folders in it."""
    found = (*folder.glob(".*.partial*"), *folder.glob("*/.*.partial*"))
    return sorted(path for path in found if PARTIAL.fullmatch(path.name))


def _partial_files(folder: Path, stem: str) -> list[Path]:
    try:
        found = [PARTIAL.fullmatch(path.name) for path in folder.iterdir()]
    except OSError:
        return []
    return [folder / match[0] for match in found if match and match["name"] == stem]


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; the bytes of a file's name that are no text stay bytes."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write plain values as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
