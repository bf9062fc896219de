from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ard.compress import CompressConfig
from ard.compress import main as compress
from ard.measuring.journal import FileJournal
from ard.measuring.sensitivity import SensitivityTable
from ard.session.config import SweepConfig
from ard.sweep import main
from nas_gan.cli import run

Call = Callable[..., tuple[int, str, str]]
QUICK = (
    *("--samples", "64", "--sweep-samples", "32", "--anchors", "4"),
    *("--features", "efficientnet-lite0", "--threads", "1"),
    *("--methods", "svd", "--fractions", "0.5", "0.2"),
)


@pytest.fixture(scope="module")
def arguments(checkpoint: Path, statistics: Path) -> tuple[str | Path, ...]:
    return (checkpoint, "--reference", statistics, *QUICK)


@pytest.fixture(scope="module")
def finished(arguments: tuple[str | Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("sweep") / "run"
    args = [str(argument) for argument in (*arguments, "--run-dir", run_dir)]
    assert run(main, SweepConfig, prog="python -m ard.sweep", description="", args=args) == 0
    return run_dir


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def stages(run_dir: Path) -> Counter[str]:
    lines = (run_dir / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return Counter(record["stage"] for record in records if "stage" in record)


def test_the_run_directory_holds_the_table_its_picture_and_the_record(finished: Path) -> None:
    found = {path.name for path in finished.iterdir()}
    assert found == {"config.json", "journal.jsonl", "sensitivity.csv", "sensitivity.png"}


def test_every_choice_moves_images_and_only_the_anchors_are_scored(finished: Path) -> None:
    table = SensitivityTable.from_csv((finished / "sensitivity.csv").read_text())
    measured = [row for row in table.rows if row.score.measured]
    assert len(measured) == 4
    assert {row.score.n_images for row in measured} == {32}
    assert len(table.rows) > 4
    assert stages(finished) == {"proxy": len(table.rows), "single": 4 + 1}  # and the dense one


def test_the_same_command_again_measures_nothing(
    copied: Path, arguments: tuple[str | Path, ...], call: Call
) -> None:
    before = {name: (copied / name).read_bytes() for name in ("journal.jsonl", "sensitivity.csv")}
    code, out, err = call(main, SweepConfig, *arguments, "--run-dir", copied)
    assert code == 0, err
    assert all((copied / name).read_bytes() == content for name, content in before.items())
    head, *_, smallest, last = out.splitlines()
    assert head.startswith("reachable")
    assert smallest.startswith("smallest")
    assert last == str(copied / "sensitivity.csv")


def test_compress_goes_on_from_the_directory_of_a_sweep(
    copied: Path, arguments: tuple[str | Path, ...], call: Call
) -> None:
    before, table = stages(copied), (copied / "sensitivity.csv").read_bytes()
    search = ("--recover-steps", "0", "--max-trials", "1", "--no-bundle", "--fid-budget", "900%")
    code, _, err = call(compress, CompressConfig, *arguments, *search, "--run-dir", copied)
    assert code == 0, err
    after = stages(copied)
    assert {stage: after[stage] for stage in before} == before
    assert after.keys() - before.keys() == {"recovered", "final", "factorized"}
    assert (copied / "sensitivity.csv").read_bytes() == table
    # And the sweep of before still belongs there.
    assert call(main, SweepConfig, *arguments, "--run-dir", copied)[0] == 0
    assert stages(copied) == after


def test_no_anchors_score_every_choice(
    copied: Path, arguments: tuple[str | Path, ...], call: Call
) -> None:
    code, _, err = call(main, SweepConfig, *arguments, "--anchors", "0", "--run-dir", copied)
    assert code == 0, err
    table = SensitivityTable.from_csv((copied / "sensitivity.csv").read_text())
    assert all(row.score.n_images == 32 for row in table.rows)
    assert stages(copied)["single"] == len(table.rows) + 1


def test_a_sweep_of_other_settings_is_refused(
    copied: Path, arguments: tuple[str | Path, ...], call: Call
) -> None:
    code, out, err = call(main, SweepConfig, *arguments, "--seed", "1", "--run-dir", copied)
    assert (code, out) == (1, "")
    assert "seed is 0 there and 1 here; use another run directory" in err.splitlines()[-1]
    assert err.count("error: ") == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [("--anchors=-1", "--anchors must be at least 0"), ("--fractions=2", "--fractions must lie")],
)
def test_a_bad_setting_is_one_line_and_leaves_no_directory(
    option: str, message: str, arguments: tuple[str | Path, ...], tmp_path: Path, call: Call
) -> None:
    code, out, err = call(main, SweepConfig, *arguments, option, "--run-dir", tmp_path / "run")
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_record_can_be_read_by_its_fingerprint_alone(copied: Path) -> None:
    first = json.loads((copied / "journal.jsonl").read_text().splitlines()[0])
    made = list(FileJournal(copied / "journal.jsonl", first["fingerprint"]).measurements())
    assert Counter(m.stage for m in made) == stages(copied)


def test_a_remote_sweep_of_a_remote_checkpoint_measures_nothing_twice(
    call: Call,
    arguments: tuple[str | Path, ...],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint, *others = arguments
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(checkpoint, there / "tiny.pt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    remote = (f"file://{there}/tiny.pt", *others, "--run-dir", f"file://{there}/run")
    code, out, err = call(main, SweepConfig, *remote)
    assert code == 0, err
    assert out.endswith(f"file://{there}/run/sensitivity.csv\n")
    table = (there / "run" / "sensitivity.csv").read_text()
    assert table == (finished / "sensitivity.csv").read_text()
    settings = json.loads((there / "run" / "config.json").read_text())
    assert settings["checkpoint"] == f"file://{there}/tiny.pt"
    measured = (there / "run" / "journal.jsonl").read_bytes()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    monkeypatch.setattr(FileJournal, "append", lambda *args: pytest.fail("measured again"))
    code, _, err = call(main, SweepConfig, *remote)
    assert code == 0, err
    assert (there / "run" / "journal.jsonl").read_bytes() == measured


def test_a_folder_of_images_is_a_reference_and_a_run_notices_when_it_changes(
    checkpoint: Path, tmp_path: Path, call: Call
) -> None:
    folder = tmp_path / "Bilder eins"
    folder.mkdir()
    for row, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3))):
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{row}.png")
    run_dir = tmp_path / "run"
    arguments = (checkpoint, *QUICK, "--reference", folder, "--run-dir", run_dir)
    code, _, err = call(main, SweepConfig, *arguments)
    assert code == 0, err
    lines = (run_dir / "journal.jsonl").read_bytes()
    Image.new("RGB", (32, 32)).save(folder / "3.png")  # as many as before, under the same names
    code, out, err = call(main, SweepConfig, *arguments)
    assert (code, out) == (1, "")
    assert "belongs to another run: reference_sha256" in err.splitlines()[-1]
    assert (run_dir / "journal.jsonl").read_bytes() == lines
