"""Commands that are killed and started again end as if nothing had happened.

This is the short form, with two moments a command; `benchmarks/kills.py` has twenty.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_harness import (
    Inputs,
    Job,
    Nursery,
    Whole,
    check_kills,
    jobs,
    left_over,
    make_inputs,
    moments,
    nursery,
    uninterrupted,
)

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
