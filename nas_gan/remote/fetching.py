"""Remote files and folders as local ones: copied once, and again when they have changed."""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from nas_gan.cache import cache_dir
from nas_gan.errors import InUseError, RemoteError
from nas_gan.files import write_text
from nas_gan.locks import LOCK, locked_by
from nas_gan.reading import read_text
from nas_gan.remote.addresses import is_remote, open_place
from nas_gan.remote.listing import bring, check_room, list_files
from nas_gan.zoo import local_path

# Beside a copy, in a folder of its own: what its original was like when it was copied.
_COPY, _MARKS = "copy", "marks"
logger = logging.getLogger(__name__)


def local_file(path: Path) -> Path:
    """The file that a path stands for: a shipped one, a copy of a remote one, or the path itself.

    Raises:
        CheckpointError: no checkpoint of that name is shipped.
        RemoteError: an address cannot be reached or read, or there is nothing.
        UnreadableError: there is more than is ever read.
    """
    return local_path(local_copy(path))


def local_copy(path: Path) -> Path:
    """A copy of the file or the folder at an address; any other path as it is.

    Raises:
        RemoteError: an address cannot be reached or read, or there is nothing.
        UnreadableError: there is more than is ever read.
    """
    return fetched(path) if is_remote(path) else path


def fetched(path: Path, cache: Path | None = None) -> Path:
    """A local copy of what is at an address, made anew where the original has changed.

    Args:
        path: the address.
        cache: folder of the copies; that of the user by default.

    Raises:
        RemoteError: it cannot be reached or read, or there is nothing.
        UnreadableError: there is more than is ever read.
    """
    place = open_place(path)
    files = list_files(place)
    if not files:
        raise RemoteError(f"{place.address}: no such file or folder, or an empty one")
    folder = copies_of(place.address, cache)
    target = folder / _COPY / PurePosixPath(place.path).name
    single = len(files) == 1 and next(iter(files.values())).path.rstrip("/") == place.path
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):  # two commands may want the same copy, as may all processes of a run
        targets = {name: target if single else target / name for name in files}
        known = _read_marks(folder / _MARKS)
        missing = [
            name
            for name, file in files.items()
            if known.get(name) != file.mark or not _has_size(targets[name], file.size)
        ]
        if missing:
            check_room(place, sum(files[name].size for name in missing), folder)
        if not single and target.is_file():
            target.unlink()
        if single and target.is_dir():
            shutil.rmtree(target)
        for name in known.keys() - files.keys():  # what is gone there is gone here
            (target / name).unlink(missing_ok=True)
        kept = {name: mark for name, mark in known.items() if name in files}
        for name in missing:
            kept.pop(name, None)
        _write_marks(folder / _MARKS, kept)
        for name in missing:
            bring(place, files[name], targets[name])
        _write_marks(folder / _MARKS, {name: file.mark for name, file in files.items()})
    return target


def copies_of(address: str, cache: Path | None = None) -> Path:
    """The folder on this machine for the copies of an address."""
    digest = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()
    return (cache or _cache()) / "remote" / digest[:24]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Have a folder for this process alone, as soon as the one that has it is done."""
    with ExitStack() as stack:
        waiting = False
        while True:
            try:
                stack.enter_context(locked_by(folder / LOCK, folder))
                break
            except InUseError as error:
                if not waiting:
                    logger.warning("waiting for a copy: %s", error)
                waiting = True
        yield


def _cache() -> Path:
    return cache_dir() or _for_this_process()


@functools.cache
def _for_this_process() -> Path:
    folder = tempfile.mkdtemp(prefix="ard-gan-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _read_marks(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    pairs = (line.partition("\t") for line in read_text(path).splitlines())
    return {name: mark for name, _, mark in pairs}


def _write_marks(path: Path, marks: dict[str, str]) -> None:
    write_text(path, "".join(f"{name}\t{mark}\n" for name, mark in sorted(marks.items())))
