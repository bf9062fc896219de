"""What the benchmark of repeats makes of its runs, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmark_modules import load_benchmark

from edge_bench import TimingPlan, benchmark

HEAD = {"settings": {"seed": 0}}


@pytest.fixture(scope="module")
def repeats() -> ModuleType:
    return load_benchmark("repeats")


def run(low: float, high: float, **changes: Any) -> dict[str, Any]:
    value = (low * high) ** 0.5
    alone = {"value": value, "low": value, "high": value}
    values = {"value": value, "low": low, "high": high, "first_process": alone}
    return {"pair": "same", "busy_core": False, "verdict": "undecided", **values, **changes}


def test_intervals_that_contain_1_are_counted(repeats: ModuleType) -> None:
    runs = [
        run(0.5, 2), run(0.9, 1.2, busy_core=True), run(1.1, 1.2, busy_core=True),
        run(0.7, 0.8, verdict="slower"),
    ]  # fmt: skip
    [summary] = repeats.summarize(runs).values()
    assert summary["contained"] == 0.5
    assert summary["contained_beside_a_busy_core"] == 0.5
    assert summary["contained_by_the_first_process"] == 0.25  # only 0.5 to 2 is centred on 1
    assert summary["wrong_verdicts"] == 1
    assert summary["met"] is False


def test_two_networks_are_held_against_the_mean_of_all_runs(repeats: ModuleType) -> None:
    runs = [run(1, 4, pair="half"), run(2, 8, pair="half"), run(0.5, 2, pair="half")]
    summary = repeats.summarize(runs)["half"]
    assert summary["true"] == pytest.approx(2)  # of 2, 4 and 1
    assert summary["contained"] == 1
    assert "bar" not in summary


def test_a_stopped_benchmark_measures_only_what_is_missing(
    repeats: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "repeats.json"
    measured: list[tuple[str, bool]] = []

    def measure(pair: str, busy: bool) -> dict[str, Any]:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append((pair, busy))
        return run(0.9, 1.1)

    wanted = repeats.schedule(4, 1)
    assert wanted == [("same", False), ("same", True)] * 2 + [("half", False)]
    with pytest.raises(KeyboardInterrupt):
        repeats.measure_runs(path, HEAD, wanted, measure)
    assert len(json.loads(path.read_text())["runs"]) == 3
    measured.clear()
    result = repeats.measure_runs(path, HEAD, wanted, measure)
    assert measured == [("same", True), ("half", False)]
    assert json.loads(path.read_text()) == result
    with pytest.raises(SystemExit, match="other settings"):
        repeats.measure_runs(path, {"settings": {"seed": 1}}, wanted, measure)


def test_a_real_run_is_kept_with_the_first_process_and_the_load(
    repeats: ModuleType, tmp_path: Path
) -> None:
    net = repeats.write_net(tmp_path / "net.onnx", channels=2, layers=1)
    plan = TimingPlan(runs=4, warmup=0, duration_s=0, min_warmup_s=0, block=1, repeats=2)
    with repeats.busy_core(True):
        kept = repeats.outcome(benchmark([net, net], [1], plan=plan, runner="onnxruntime"))
    assert kept["low"] <= kept["value"] <= kept["high"]
    assert kept["first_process"]["low"] <= kept["first_process"]["high"]
    assert len(kept["others_share"]) == 2
    json.dumps(kept, allow_nan=False)
