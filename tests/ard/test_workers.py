"""The commands on the workers of a Ray cluster: what they find is what one process finds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_ray import small_ray

from ard.compress import CompressConfig
from ard.compress import main as compress

Call = Callable[..., tuple[int, str, str]]
QUICK = (
    *("--samples", "64", "--sweep-samples", "32", "--recover-steps", "2", "--max-trials", "2"),
    *("--features", "efficientnet-lite0", "--threads", "1", "--no-bundle", "--fid-budget", "20%"),
    *("--methods", "svd", "--fractions", "0.5", "0.2", "--trials-at-once", "2"),
)
TIMINGS = {"timings"}  # what may differ between two reports


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with small_ray():
        yield


def lines_of(run_dir: Path) -> list[str]:
    return sorted((run_dir / "journal.jsonl").read_text().splitlines())


def report_of(run_dir: Path) -> dict[str, Any]:
    report = json.loads((run_dir / "report.json").read_text())
    return {name: value for name, value in report.items() if name not in TIMINGS}


@pytest.mark.ray
def test_two_workers_find_and_write_what_one_process_does(
    call: Call, cluster: None, checkpoint: Path, statistics: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    arguments = (checkpoint, "--reference", statistics, *QUICK)
    alone = call(compress, CompressConfig, *arguments, "--run-dir", here)
    spread = call(
        *(compress, CompressConfig, *arguments, "--run-dir", there),
        *("--executor", "ray", "--workers", "2"),
    )
    assert (alone[0], spread[0]) == (0, 0), spread[2]
    assert lines_of(there) == lines_of(here)
    assert report_of(there) == report_of(here)
    one, other = (load_file(folder / "compressed.safetensors") for folder in (here, there))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_command_without_ray_says_in_one_line_how_to_get_it(
    call: Call,
    checkpoint: Path,
    statistics: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = call(
        *(compress, CompressConfig, checkpoint, "--reference", statistics, *QUICK),
        *("--run-dir", tmp_path / "run", "--executor", "ray"),
    )
    assert code == 1
    assert err.splitlines() == [
        'error: --executor needs Ray, which is not installed: pip install "ard-gan[ray]"'
    ]
    assert not (tmp_path / "run").exists()
