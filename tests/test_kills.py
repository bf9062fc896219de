"""Commands that are killed and started again end as if nothing had happened.

This is the short form, with two moments a command; `benchmarks/kills.py` has twenty.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_harness import (
    Inputs,
    Job,
    Nursery,
    Whole,
    check_kills,
    finish,
    half_written,
    jobs,
    left_over,
    log_of,
    make_inputs,
    moments,
    nursery,
    uninterrupted,
)

from nas_gan.locks import locked_by

pytest.importorskip("onnxsim", reason="onnxsim is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

NAMES = (
    *("sweep", "compress", "pareto", "train", "search"),
    *("export over a bundle", "build_engine"),
)


@pytest.fixture(scope="module")
def by() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


@pytest.fixture(scope="module")
def inputs(by: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"), by)


@pytest.fixture(scope="module")
def known() -> dict[str, Whole]:
    """What uninterrupted commands leave, by the names of the jobs."""
    return {}


def job_named(name: str, inputs: Inputs) -> Job:
    for job in jobs(inputs):
        if job.name == name:
            return job
    pytest.skip("tensorrt-rtx is not installed")


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_command_goes_on_to_the_same_end(
    name: str, inputs: Inputs, by: Nursery, known: dict[str, Whole], tmp_path: Path
) -> None:
    job = job_named(name, inputs)
    whole = known[name] = uninterrupted(job, tmp_path / "whole", by)
    assert not left_over(tmp_path / "whole")
    assert check_kills(job, whole, tmp_path / "killed", by, moments(name, 2, whole)) > 0


@pytest.mark.parametrize("name", ["train", "search"])
def test_a_terminated_training_goes_on_to_the_same_end(
    name: str, inputs: Inputs, by: Nursery, known: dict[str, Whole], tmp_path: Path
) -> None:
    job = job_named(name, inputs)
    whole = known.get(name) or uninterrupted(job, tmp_path / "whole", by)
    at = [whole.seconds / 2]
    assert check_kills(job, whole, tmp_path / "terminated", by, at, signal.SIGTERM) == 1


# -- other runs that end badly


def one_line(log: Path) -> str:
    """The error that ends what a command says, which is no traceback."""
    text = log.read_text()
    assert "Traceback" not in text, text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert errors == text.splitlines()[-1:], text
    return errors[0]


def run_to_error(job: Job, folder: Path, by: Nursery, **limits: Any) -> str:
    """Run a job that must fail; its error."""
    log = log_of(folder)
    log.unlink(missing_ok=True)
    code = by.start(job.arguments(folder), log, **limits).wait()
    assert code == 1, f"{code}: {log.read_text()}"
    return one_line(log)


@pytest.mark.parametrize("name", ["sweep", "compress", "pareto", "train", "search", "export"])
def test_a_second_process_is_refused_in_one_line(
    name: str, inputs: Inputs, by: Nursery, tmp_path: Path
) -> None:
    job, folder = job_named(name, inputs), tmp_path / "run"
    folder.mkdir()
    lock = folder / (".bundle.lock" if name == "export" else ".lock")
    with locked_by(lock, folder):
        error = run_to_error(job, folder, by)
        assert f" is in use by process {os.getpid()}; wait until it ends, or use anoth" in error
        assert list(folder.iterdir()) == [lock]


@pytest.mark.parametrize("name", ["sweep", "train"])
def test_of_two_that_start_at_once_one_does_it_all(
    name: str, inputs: Inputs, by: Nursery, known: dict[str, Whole], tmp_path: Path
) -> None:
    job, folder = job_named(name, inputs), tmp_path / "run"
    whole = known.get(name) or uninterrupted(job, tmp_path / "whole", by)
    logs = [tmp_path / "1.log", tmp_path / "2.log"]
    for _ in range(5):
        folder.mkdir()
        started = [by.start(job.arguments(folder), log) for log in logs]
        codes = [one.wait() for one in started]
        if codes != [0, 0]:
            break
        shutil.rmtree(folder)  # a busy machine began the second after the first had ended
    assert sorted(code or 0 for code in codes) == [0, 1]
    assert "in use by process" in one_line(logs[codes.index(1)])
    assert job.result(folder) == whole.result
    assert not left_over(folder)


@pytest.mark.parametrize("name", ["sweep", "train", "export over a bundle", "build_engine"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    name: str, inputs: Inputs, by: Nursery, known: dict[str, Whole], tmp_path: Path
) -> None:
    job, folder = job_named(name, inputs), tmp_path / "run"
    whole = known.get(name) or uninterrupted(job, tmp_path / "whole", by)
    folder.mkdir()
    job.prepare(folder)
    # A sweep fails at its journal, in the middle of a line.
    error = run_to_error(job, folder, by, largest=1500 if name == "sweep" else 20_000)
    assert "too large" in error
    assert not half_written(folder)
    assert not left_over(folder)
    finish(job, folder, by)
    assert job.result(folder) == whole.result


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", ["sweep", "compress", "pareto", "train", "search"])
def test_a_read_only_directory_is_one_line(
    name: str, inputs: Inputs, by: Nursery, tmp_path: Path
) -> None:
    job = job_named(name, inputs)
    with tempfile.TemporaryDirectory() as shared:  # which nobody may enter, unlike tmp_path
        Path(shared).chmod(0o755)
        folder = Path(shared) / "run"
        folder.mkdir()
        error = run_to_error(job, folder, by, nobody=True)
        assert "ermission denied" in error
        assert str(folder) in error
        assert list(folder.iterdir()) == []
