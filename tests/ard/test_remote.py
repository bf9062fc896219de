"""Runs of `ard` whose checkpoint, reference and directory are addresses of fsspec."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ard.compress import CompressConfig
from ard.compress import main as compress
from ard.pareto import ParetoConfig
from ard.pareto import main as pareto
from nas_gan.checkpoint import load_checkpoint
from nas_gan.remote.addresses import Place, open_place

Call = Callable[..., tuple[int, str, str]]
QUICK = (
    *("--samples", "64", "--sweep-samples", "32", "--anchors", "4"),
    *("--recover-steps", "2", "--recover-lr", "1e-4", "--max-trials", "1"),
    *("--features", "efficientnet-lite0", "--threads", "1"),
    *("--methods", "svd", "--fractions", "0.5", "0.2"),
)
COMMANDS = {
    "compress": (compress, CompressConfig, ("--fid-budget", "900%", "--no-bundle"), ""),
    "pareto": (pareto, ParetoConfig, ("--budgets", "900%"), "budget-900pct/"),
}


@pytest.fixture(params=["memory", "file"])
def remote(
    request: pytest.FixtureRequest, tmp_path: Path, checkpoint: Path, statistics: Path
) -> Iterator[Place]:
    """A remote folder with a checkpoint and the statistics of a reference."""
    there = f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/there"
    place = open_place(Path(there))
    place.files.makedirs(place.path, exist_ok=True)
    place.files.put_file(str(checkpoint), f"{place.path}/ckpt.pt")
    place.files.put_file(str(statistics), f"{place.path}/reference.npz")
    yield place
    place.files.rm(place.path, recursive=True)


def write(place: Place, name: str, content: str) -> None:
    target = f"{place.path}/{name}"
    place.files.makedirs(target.rpartition("/")[0], exist_ok=True)
    place.files.pipe_file(target, content.encode())


def names_in(place: Place) -> set[str]:
    place.files.invalidate_cache()
    found = place.files.find(f"{place.path}/run")
    return {path.partition("/run/")[2] for path in found}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_that_was_cut_off_goes_on_on_another_machine(
    command: str,
    remote: Place,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main, config, goal, folder = COMMANDS[command]
    there, local = remote.address, tmp_path / "local"
    arguments = (f"{there}/ckpt.pt", "--reference", f"{there}/reference.npz", *QUICK, *goal)
    assert call(main, config, *arguments, "--run-dir", local)[0] == 0
    # What is there of a process that was killed after its fourth measurement.
    journal = (local / "journal.jsonl").read_text().splitlines(keepends=True)
    write(remote, "run/journal.jsonl", "".join(journal[:5]))
    write(remote, "run/config.json", (local / "config.json").read_text())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    code, out, err = call(main, config, *arguments, "--run-dir", f"{there}/run")
    assert code == 0, err
    # It measured what was missing and nothing else, and found the same.
    sent = remote.files.cat_file(f"{remote.path}/run/journal.jsonl").decode()
    assert sent.splitlines(keepends=True)[:5] == journal[:5]
    assert [measured(line) for line in sent.splitlines()] == [measured(line) for line in journal]
    here = {str(path.relative_to(local)) for path in local.rglob("*") if path.is_file()}
    assert names_in(remote) == here
    saved = [load_checkpoint(Path(f"{p}/{folder}compressed.pt")) for p in (local, f"{there}/run")]
    first, second = (checkpoint.generator for checkpoint in saved)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The last line names a file where the user asked for it, not a copy of this machine.
    assert re.fullmatch(rf"{re.escape(there)}/run/\S+", out.splitlines()[-1])


def measured(line: str) -> tuple[Any, ...]:
    record = json.loads(line)
    return tuple(record.get(key) for key in ("stage", "plan", "score"))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_names_the_remote_directory_and_not_its_copy(
    command: str, remote: Place, call: Call
) -> None:
    main, config, goal, _ = COMMANDS[command]
    there = remote.address
    write(remote, "run/config.json", '{"seed": 0}')
    write(remote, "run/journal.jsonl", "not a journal\n")
    arguments = (f"{there}/ckpt.pt", "--reference", f"{there}/reference.npz", *QUICK, *goal)
    code, _, err = call(main, config, *arguments, "--run-dir", f"{there}/run")
    assert code == 1
    [last] = err.splitlines()[-1:]
    assert last.startswith("error: ")
    assert f"{there}/run" in last
    assert "ard-gan" not in last
