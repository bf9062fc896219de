from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nas_gan.runs.experiments import run_experiment
from nas_gan.runs.grid import Grid, PlannedRun, plan_runs
from nas_gan.runs.spreading import Cell, DoCell, read_files, run_all, write_files
from nas_gan.workers.executors import Item, Result, SerialExecutor


def train(folder: Path) -> str:
    """Adds a line to what is there, and ends."""
    with (folder / "log.jsonl").open("a") as log:
        log.write(f'{{"step": {1 + len(read_files(folder))}, "fid": 2.5}}\n')
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / "1.png").write_bytes(b"\x89PNG")
    return ""


def planned(folder: Path) -> PlannedRun:
    [run] = plan_runs(Grid(("smoke",), (3,)), folder)
    return run


def test_a_run_on_another_file_system_goes_on_from_its_files_and_comes_back_whole(
    tmp_path: Path,
) -> None:
    run = planned(tmp_path / "runs")
    write_files(run.folder, {"log.jsonl": b'{"step": 1, "fid": 9}\n', "state/old.pt": b"weights"})
    do = DoCell(("fid",), tmp_path / "not-there", train)
    outcome, files = do(Cell(run, read_files(run.folder)))
    assert outcome.metrics == {"fid": 2.5}
    assert files is not None
    assert files.keys() == {
        *("log.jsonl", "state/old.pt", "samples/1.png", "settings.toml", "outcome.json")
    }
    assert files["log.jsonl"].count(b"\n") == 2
    assert read_files(run.folder).keys() == {"log.jsonl", "state/old.pt"}  # nothing was done here


def test_a_run_on_the_same_file_system_happens_in_its_place(tmp_path: Path) -> None:
    run, mark = planned(tmp_path / "runs"), tmp_path / "mark"
    mark.touch()
    outcome, files = DoCell(("fid",), mark, train)(Cell(run, {}))
    assert files is None
    assert outcome.metrics == {"fid": 2.5}
    assert (run.folder / "samples" / "1.png").is_file()


class Elsewhere:
    """Runs its items as a machine does that cannot see the driver's files."""

    n_workers = n_trainers = 1

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        assert isinstance(function, DoCell)
        there: Any = DoCell(function.metrics, Path("/nowhere"), train)
        yield from SerialExecutor().run(there, items)


def test_finished_runs_are_not_sent_and_others_are_written_where_they_belong(
    tmp_path: Path,
) -> None:
    runs = plan_runs(Grid(("smoke",), (1, 2)), tmp_path)
    first = run_experiment(runs[0], ["fid"], train=train)
    before = read_files(runs[0].folder)
    outcomes = {run.seed: outcome for run, outcome in run_all(runs, ["fid"], tmp_path, Elsewhere())}
    assert outcomes[1] == first
    assert read_files(runs[0].folder) == before
    assert outcomes[2].metrics == {"fid": 2.5}
    assert "outcome.json" in read_files(runs[1].folder)
    assert not list(tmp_path.glob(".here-*"))
