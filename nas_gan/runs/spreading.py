"""Runs of a grid on workers, whose file system may be another one."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nas_gan.files import write_bytes
from nas_gan.runs.experiments import Outcome, is_done, run_experiment, train_in_process
from nas_gan.runs.grid import PlannedRun
from nas_gan.workers.executors import Executor

Files = dict[str, bytes]  # by path relative to the folder of a run


@dataclass(frozen=True)
class Cell:
    """A run on its way to a worker.

    Attributes:
        run: the run.
        files: what its folder holds so far.
    """

    run: PlannedRun
    files: Files

    def __str__(self) -> str:
        return f"{self.run.preset}, {self.run.variant}, seed {self.run.seed}"


@dataclass(frozen=True)
class DoCell:
    """A function that does a run where it is called.

    If the folder of all runs is there too, the run happens in its place and can be resumed even
    after this process was killed. Elsewhere it happens in a temporary folder, and comes back whole.

    Attributes:
        metrics: what to read off the logs.
        mark: a file that only the file system of the driver has.
        train: trains what settings.toml in a directory says; returns why it failed, or "".
    """

    metrics: tuple[str, ...]
    mark: Path
    train: Callable[[Path], str] = train_in_process

    def __call__(self, cell: Cell) -> tuple[Outcome, Files | None]:
        """The outcome, and the files of the run if the driver cannot see them."""
        if self.mark.exists():
            return run_experiment(cell.run, self.metrics, train=self.train), None
        with tempfile.TemporaryDirectory() as folder:
            here = replace(cell.run, folder=Path(folder))
            write_files(here.folder, cell.files)
            outcome = run_experiment(here, self.metrics, train=self.train)
            return outcome, read_files(here.folder)


def run_all(
    runs: Sequence[PlannedRun], metrics: Sequence[str], run_dir: Path, executor: Executor
) -> Iterator[tuple[PlannedRun, Outcome]]:
    """Do runs on workers; pairs of a run and its outcome as they end, with its folder up to date.

    Args:
        runs: the runs.
        metrics: what to read off their logs.
        run_dir: the folder of all runs.
        executor: does the runs.
    """
    left = []
    for run in runs:
        if is_done(run):
            yield run, run_experiment(run, metrics)
        else:
            left.append(run)
    with _mark(run_dir) as mark:
        cells = [Cell(run, read_files(run.folder)) for run in left]
        for cell, (outcome, files) in executor.run(DoCell(tuple(metrics), mark), cells):
            if files is not None:
                write_files(cell.run.folder, files)
            yield cell.run, outcome


def read_files(folder: Path) -> Files:
    """Every file of a folder; none if there is no folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write_files(folder: Path, files: Files) -> None:
    """Write files into a folder, each whole or not at all."""
    for name, content in files.items():
        write_bytes(folder / name, content)


@contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """A file whose name no other file system has."""
    mark = folder / f".here-{secrets.token_hex(8)}"
    write_bytes(mark, b"")
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
