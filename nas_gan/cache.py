"""The user's cache folder, which a run can do without."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


def cache_dir() -> Path | None:
    """The folder for statistics of data sets: `ard-gan` in the user's cache folder.

    None without such a folder, as for a user without a home, with a warning.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # others are to be ignored, by the XDG specification
        return named / "ard-gan"
    try:
        return Path.home() / ".cache" / "ard-gan"
    except RuntimeError:
        logger.warning(
            "there is no home folder and no XDG_CACHE_HOME; nothing is cached for the next run"
        )
        return None


def is_cached(path: Path) -> bool:
    """Whether there is such a file; false too if the folder may not be looked into."""
    try:
        return path.is_file()
    except OSError:
        return False


@contextmanager
def caching(path: Path) -> Iterator[None]:
    """Inside, `path` is written; if that fails there is a warning, and the run goes on."""
    try:
        yield
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s); its content is made again in the next run",
            path,
            error.strerror or error,
        )
