from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ard.forecast import Demand, Speed, Stage, stages_of
from ard.session.config import SweepConfig
from ard.sweep import main

Call = Callable[..., tuple[int, str, str]]
QUICK = (
    *("--samples", "64", "--sweep-samples", "32", "--anchors", "4", "--batch-size", "8"),
    *("--features", "efficientnet-lite0", "--threads", "1"),
    *("--methods", "svd", "--fractions", "0.5", "0.2"),
)
# A second an image, and half a second for its features; a score takes ten.
SPEED = Speed(1.0, 0.5, lambda n: 10.0)
DEMAND = Demand(
    choices=20,
    anchors=5,
    sweep_images=100,
    trials=0,
    images=1000,
    reference_images=0,
    updates=0,
    update_images=8,
    share=0.25,
    moments=32,
    ranked=3.0,
    decomposed=0.0,
)


def test_workers_share_a_stage_in_whole_evaluations() -> None:
    stage = Stage("one", evaluations=10, images=0, seconds=100.0)
    assert [stage.on(n) for n in (1, 2, 4, 10, 50)] == [100, 50, 30, 10, 10]
    alone = Stage("dense", evaluations=3, images=0, seconds=7.0, spread=False)
    assert alone.on(50) == 7


def test_a_sweep_is_every_movement_the_anchors_and_the_dense_generator() -> None:
    stages = {stage.name: stage for stage in stages_of(DEMAND, SPEED)}
    assert stages["dense scores"].images == 100
    assert stages["movement of images"].evaluations == 20
    assert stages["one layer at a time"].evaluations == 6
    assert stages["one layer at a time"].images == 600
    # 32 images for batch statistics, of which a quarter runs; 100 with features, and the score
    assert stages["one layer at a time"].seconds == 6 * (32 / 4 + 150 + 10)
    assert stages["movement of images"].seconds == 20 * ((32 + 32) / 4 + 32 / 2)


def test_more_updates_and_more_trials_take_longer() -> None:
    def seconds(**changes: int) -> float:
        return sum(s.seconds for s in stages_of(Demand(**{**vars(DEMAND), **changes}), SPEED))

    assert seconds(trials=2) < seconds(trials=3) < seconds(trials=3, updates=10)


def test_a_dry_run_writes_nothing_and_counts_at_least_what_the_run_does(
    call: Call,
    checkpoint: Path,
    statistics: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (checkpoint, "--reference", statistics, *QUICK, "--run-dir", tmp_path / "run")
    code, out, err = call(main, SweepConfig, *arguments, "--dry-run")
    assert code == 0, err
    assert list(tmp_path.iterdir()) == []
    found = dict(re.findall(r"^(\D+?) +(\d+) ", out, re.MULTILINE))
    assert call(main, SweepConfig, *arguments)[0] == 0
    journal = (tmp_path / "run" / "journal.jsonl").read_text()
    stages = Counter(re.findall(r'"stage": "(\w+)"', journal))
    assert stages["proxy"] <= int(found["movement of images"])
    assert stages["single"] == int(found["one layer at a time"])
