"""The folder of a bundle, which appears once it is complete and replaces the one before."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import BundleError
from export.manifest import MANIFEST, read_manifest


@contextmanager
def complete_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block succeeds."""
    out = out.resolve()
    kept = _foreign_files(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    replaced = temporary.with_name(f"{temporary.name}-replaced")
    try:
        temporary.chmod(0o755)
        yield temporary
        for path in kept:
            if path.is_dir():
                shutil.copytree(path, temporary / path.name)
            else:
                shutil.copy2(path, temporary / path.name)
        if out.exists():
            out.rename(replaced)
        try:
            temporary.rename(out)
        except OSError:
            if replaced.exists():
                replaced.rename(out)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
