"""The folder of a bundle, which appears once it is complete and replaces the one before."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import BundleError
from export.manifest import MANIFEST, read_manifest
from nas_gan.locks import locked_by

# Of linux/fs.h and fcntl.h.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_NEW, _OLD = ".partial", ".replaced"


@contextmanager
def complete_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block succeeds.

    Whatever a killed process left behind of the same bundle is put right first.

    Raises:
        BundleError: `out` is neither a bundle nor an empty folder.
        InUseError: another process writes this bundle.
    """
    out = out.resolve()
    with locked_by(out.with_name(f".{out.name}.lock"), out):
        _put_right(out)
        kept = _foreign_files(out)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-", suffix=_NEW))
        try:
            temporary.chmod(0o755)
            yield temporary
            for path in kept:
                if path.is_dir():
                    shutil.copytree(path, temporary / path.name)
                else:
                    shutil.copy2(path, temporary / path.name)
            _take_the_place(temporary, out)
        finally:
            # By now what was replaced, or what was not finished.
            shutil.rmtree(temporary, ignore_errors=True)


def _take_the_place(new: Path, out: Path) -> None:
    """Put `new` where `out` is, by one rename; what was there is then at `new`."""
    if not out.exists() or not any(out.iterdir()):
        new.rename(out)
        return
    try:
        exchange(new, out)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
        # This file system cannot. A kill in between leaves the old bundle to the next run.
        old = new.with_suffix(_OLD)
        out.rename(old)
        try:
            new.rename(out)
        except OSError:
            old.rename(out)
            raise
        old.rename(new)


def exchange(one: Path, other: Path) -> None:
    """Exchange the names of two files or folders, so that there is no moment without either.

    Raises:
        OSError: ENOSYS or EINVAL where the kernel or the file system cannot.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = (os.fsencode(one), os.fsencode(other))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(other))


def _put_right(out: Path) -> None:
    """Bring back a bundle that was on its way out, and remove what is left of others."""
    left = re.compile(rf"\.{re.escape(out.name)}-[a-z0-9_]{{8}}({_NEW}|{_OLD})")
    found = sorted(path for path in out.parent.iterdir() if left.fullmatch(path.name))
    for path in found:
        if path.suffix == _OLD and not out.exists():
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _foreign_files(out: Path) -> list[Path]:
    """Files in the folder `out` that do not belong to the bundle, such as benchmark results.

    An engine that a device built from the bundle does belong to it, since it would not fit the next
    bundle.
    """
    if not out.exists() and not out.is_symlink():
        return []
    if not out.is_dir():
        raise BundleError(f"{out}: a file, not a folder; choose another folder")
    if not any(out.iterdir()):
        return []
    if not (out / MANIFEST).is_file():
        raise BundleError(f"{out}: not empty and not a bundle; choose another folder or empty it")
    old = read_manifest(out)
    own = {MANIFEST, *old.files, old.dense, f"{old.name}.engine", "engine.json"}
    return sorted(path for path in out.iterdir() if path.name not in own)
