"""What is in a remote folder, and bringing a file of it here, within limits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nas_gan.errors import RemoteError, UnreadableError
from nas_gan.files import atomic_path
from nas_gan.reading import plain_name
from nas_gan.remote.addresses import Place, translated

# More than any checkpoint and any data set that is read here.
MAX_FILE_BYTES = 64 << 30
MAX_FOLDER_BYTES = 1 << 40
MAX_FILES = 5_000_000
# Bytes that stay free on the disk of the copies.
_SPARE_BYTES = 256 << 20
_CHUNK = 1 << 20
# What drivers tell of a file that changes when its content does.
_MARKS = ("size", "ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified",
          "updated", "created", "Last-Modified")  # fmt: skip


@dataclass(frozen=True)
class RemoteFile:
    """A file in a remote folder.

    Attributes:
        path: on its file system.
        size: bytes.
        mark: another text if its content is another.
    """

    path: str
    size: int
    mark: str


def list_files(place: Place) -> dict[str, RemoteFile]:
    """The files of a remote folder and below by their names in it, or a file alone by its own.

    Nothing is there if the folder is not.

    Raises:
        RemoteError: it cannot be listed.
        UnreadableError: a name leads out of the folder, or there is more than is ever read.
    """
    with translated(place.address):
        place.files.invalidate_cache()
        try:
            found: Mapping[str, Any] = place.files.find(place.path, detail=True)
        except FileNotFoundError:
            return {}
    listed = {}
    total = 0
    root = place.path.rstrip("/")
    for path, told in found.items():
        if path != root and not path.startswith(f"{root}/"):  # of a store that lists by prefix
            continue
        info = told
        if not info:  # of a file that is listed alone
            with translated(place.address):
                info = place.files.info(path)
        if info.get("type", "file") != "file" or path.endswith("/"):
            continue
        size = info.get("size")
        if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
            raise UnreadableError(
                f"{place.address}: {PurePosixPath(path).name} has {size} bytes; at most "
                f"{MAX_FILE_BYTES:,} are read"
            )
        total += size
        listed[_name_in(place, path)] = RemoteFile(path, size, _mark(info))
        if total > MAX_FOLDER_BYTES or len(listed) > MAX_FILES:
            raise UnreadableError(
                f"{place.address}: over {MAX_FILES:,} files or {MAX_FOLDER_BYTES:,} bytes"
            )
    return listed


def _name_in(place: Place, path: str) -> str:
    """`b/c` of `bucket/a/b/c` in `bucket/a`; every part of it is the name of a file or folder."""
    inside = path.removeprefix(place.path.rstrip("/")).lstrip("/") or PurePosixPath(path).name
    return "/".join(plain_name(part, place.address) for part in inside.split("/"))


def _mark(info: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={info[key]}" for key in _MARKS if info.get(key) is not None)


def bring(place: Place, file: RemoteFile, target: Path) -> None:
    """Copy a remote file to `target`, which appears whole or not at all.

    Raises:
        RemoteError: it cannot be read, or is not as long as it was listed.
        OSError: the copy cannot be written.
    """
    left = file.size
    with atomic_path(target) as temporary, temporary.open("wb") as copy:
        for block in _blocks(place, file):
            left -= len(block)
            copy.write(block)
        if left:
            raise RemoteError(
                f"{place.address}: {target.name} is not the {file.size:,} bytes that were listed; "
                "try again"
            )


def _blocks(place: Place, file: RemoteFile) -> Iterator[bytes]:
    """The content of a remote file, at most a byte more of it than was listed."""
    left = file.size + 1
    with translated(place.address), place.files.open(file.path, "rb") as source:
        while left and (block := source.read(min(_CHUNK, left))):
            left -= len(block)
            yield block


def check_room(place: Place, needed: int, folder: Path) -> None:
    """Check that copies of so many bytes find room on the disk of `folder`, before the first.

    Raises:
        RemoteError: they do not.
    """
    free = shutil.disk_usage(folder).free
    if needed > max(0, free - _SPARE_BYTES):
        raise RemoteError(
            f"{place.address}: {needed:,} bytes are to be copied to {folder}, where {free:,} are "
            f"free; set XDG_CACHE_HOME to a larger disk (it is {os.environ.get('XDG_CACHE_HOME')})"
        )
