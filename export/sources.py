"""The checkpoints that a run directory of `python -m ard.compress` stands for."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from export.errors import ExportError, MissingDenseError
from nas_gan.errors import MissingDataError, UnreadableError
from nas_gan.reading import Fields, read_json
from nas_gan.remote.fetching import local_file

COMPRESSED, SETTINGS = "compressed.pt", "config.json"


def checkpoint_of(given: Path) -> Path:
    """The checkpoint to export: that of a run directory, or the file itself.

    Raises:
        ExportError: the folder is not a run directory.
    """
    given = local_file(given)
    if not given.is_dir():
        return given
    if not (given / COMPRESSED).is_file():
        raise ExportError(
            f"{given}: there is no {COMPRESSED} in it; give a run directory of "
            "`python -m ard.compress`, or a checkpoint file"
        )
    return given / COMPRESSED


def dense_checkpoint_of(run_dir: Path) -> Path:
    """The checkpoint that was compressed in this run directory.

    Raises:
        MissingDenseError: the run directory does not name it, or it is no longer there.
    """
    settings = run_dir / SETTINGS
    try:
        written = Path(Fields(read_json(settings), str(settings)).text("checkpoint"))
    except (MissingDataError, UnreadableError) as error:
        raise MissingDenseError(
            f"{settings}: does not name the checkpoint that was compressed ({error!r})"
        ) from error
    # The path is relative to where the run was started: here, or in or beside the run directory.
    for dense in (local_file(written), run_dir / written, run_dir.parent / written):
        with suppress(OSError, ValueError):  # a text that no file can be called by
            if dense.is_file():
                return dense
    raise MissingDenseError(f"{written}: the checkpoint that {settings} names is not there")
