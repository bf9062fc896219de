"""A folder that one process has for itself: the lock dies with its owner, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas_gan.errors import InUseError
from nas_gan.files import partial_files, remove_leftovers

LOCK = ".lock"
# A process that was killed a moment ago may still be on its way out.
PATIENCE_S = 1.0
logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a run directory for this process alone, and remove what killed ones left in it.

    The folder is created if it is missing, and removed again if it stays empty.

    Raises:
        InUseError: another process has it; the error says which.
        OSError: the folder cannot be created or written to.
    """
    with locked_by(folder / LOCK, folder):
        remove_leftovers(partial_files(folder))
        yield


@contextmanager
def locked_by(path: Path, folder: Path) -> Iterator[None]:
    """Hold the lock file `path` while working in `folder`; it is gone afterwards.

    Where the file system has no locks there is a warning, and none is held.

    Raises:
        InUseError: another process holds it.
        OSError: the lock file cannot be created.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        handle = _acquire(path, folder)
    except BaseException:
        _remove_empty(missing)
        raise
    _HELD.add(handle)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held, or it could be the next owner's
        _HELD.discard(handle)
        os.close(handle)
        _remove_empty(missing)


def is_locked(folder: Path) -> bool | None:
    """Whether a process works in a folder; None where the file system has no locks.

    A process that was killed holds nothing, whatever file it has left behind.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Shared and for a moment: who wants the folder now tries for longer than that.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False


def _acquire(path: Path, folder: Path) -> int:
    started = time.monotonic()
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:  # its last owner has just removed the folder
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, handle):
                _sign(handle)
                return handle
        except BlockingIOError:
            if time.monotonic() - started > PATIENCE_S:
                owner = _owner(handle)
                os.close(handle)
                raise InUseError(
                    f"{folder} is in use by {owner}; wait until it ends, or use another folder"
                ) from None
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s); see to it that no other process uses it",
                folder,
                error.strerror,
            )
            return handle
        os.close(handle)
        time.sleep(0.02)


def _is_at(path: Path, handle: int) -> bool:
    """Whether a locked file is still the one with this name: its last owner removes it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    with contextlib.suppress(OSError):  # a full disk; the lock holds without a name
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {platform.node()}".encode(), 0)


def _owner(handle: int) -> str:
    pid, _, machine = os.pread(handle, 300, 0).decode(errors="replace").partition(" ")
    if not pid.isdecimal():
        return "another process"
    return f"process {pid}" + (f" on {machine}" if machine != platform.node() else "")


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that are empty, the innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


# A forked process would hold its parent's locks after the parent's end.
_HELD: set[int] = set()


def _let_go() -> None:
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)
