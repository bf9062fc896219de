from __future__ import annotations

import json
from pathlib import Path

import pytest

from ard.errors import DeliveryError
from ard.measuring.score import Score, to_record
from ard.plan import DENSE
from ard.report.delivery import (
    Demand,
    NetworkTimer,
    batches_to_time,
    compare_latency,
    export_bundle,
    read_precision,
)
from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.generators import GeneratorOptions


def test_a_failed_export_is_reported_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"^python -m export: .*nothing-here") as caught:
        export_bundle(tmp_path / "nothing-here", tmp_path / "bundle", GeneratorOptions(), Demand())
    assert "\n" not in str(caught.value)
    assert "error:" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_failed_timing_is_reported_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"^python -m edge_bench: .*nothing-here"):
        compare_latency(tmp_path / "nothing-here", tmp_path / "bench", batches=[1], threads=1)


def score(rise: float) -> Score:
    return Score(metric="fid", value=40 + rise, rise=rise, ci_low=rise - 1, ci_high=rise + 1,
                 n_images=100, features="pixels", measured=True)  # fmt: skip


def test_a_precision_is_demanded_with_what_the_ranks_leave_of_the_budget() -> None:
    demand = Demand.after("auto", 5.0, score(3.0), threads=2)
    assert demand.arguments() == [
        *("--precision", "auto", "--quality-budget", "1.0", "--total-budget", "5.0"),
        *("--threads", "2"),
    ]
    assert Demand.after("int8", 5.0, score(7.0)).left == 0.0
    assert Demand.after("fp32", 5.0, score(3.0)).arguments() == []


def test_the_precision_of_a_bundle_is_read_from_its_manifest(tmp_path: Path) -> None:
    record = {
        **{"wanted": "auto", "int8_nodes": ["a", "b"], "runtime": "onnxruntime", "missed": False},
        **{"rise": to_record(score(0.5)), "rise_over_dense": to_record(score(3.5))},
    }
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"precision": "int8", "conversion": record}))
    found = read_precision(tmp_path)
    assert (found.precision, found.int8_nodes, found.missed) == ("int8", 2, False)
    assert (found.rise, found.total) == (score(0.5), score(3.5))


@pytest.mark.parametrize("content", ["{}", "[]", '{"precision": "int8", "conversion": {}}'])
def test_a_manifest_that_says_nothing_of_it_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DeliveryError, match=r"manifest\.json") as caught:
        read_precision(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_precision_beyond_the_budget_is_no_failure_of_the_export(
    checkpoint: Path, statistics: Path, tmp_path: Path
) -> None:
    (tmp_path / "compressed.pt").write_bytes(checkpoint.read_bytes())
    settings = {
        **{"checkpoint": str(checkpoint), "metric": "fid", "reference": str(statistics)},
        **{"features": "efficientnet-lite0", "samples": 16, "seed": 0, "batch_size": 16},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    demand = Demand("int8", left=0.0, total=1e9)
    found = export_bundle(tmp_path, tmp_path / "bundle", GeneratorOptions(), demand)
    assert found is not None
    assert (found.wanted, found.precision, found.missed) == ("int8", "fp32", True)
    assert (tmp_path / "bundle" / "model.onnx").is_file()


def test_a_network_is_timed_once_and_a_resumed_run_finds_its_time(
    tmp_path: Path, checkpoint: Path
) -> None:
    dense = load_checkpoint(checkpoint)

    def timer() -> NetworkTimer:
        return NetworkTimer(tmp_path / "timing", dense, GeneratorOptions(), batch=2, threads=1)

    milliseconds = timer()(build_generator(dense), DENSE)
    assert 0 < milliseconds < 60_000
    assert json.loads((tmp_path / "timing" / "times.json").read_text()) == {
        DENSE.to_json(): milliseconds
    }
    timed = (tmp_path / "timing" / "bench.json").stat().st_mtime_ns
    assert timer()(build_generator(dense), DENSE) == milliseconds
    assert (tmp_path / "timing" / "bench.json").stat().st_mtime_ns == timed


@pytest.mark.parametrize(
    ("seconds", "batches"),
    [
        (0.004, (1, 64)),  # a small network
        (3 / 64, (1, 64)),
        (3 / 63, (1, 32)),
        (0.6, (1, 4)),  # 2.4 s
        (1.5, (1, 2)),
        (1.6, (1,)),
        (20.0, (1,)),
        (0.0, (1, 64)),  # faster than the clock ticks
    ],
)
def test_a_slow_generator_is_timed_at_a_batch_that_takes_a_few_seconds_at_most(
    seconds: float, batches: tuple[int, ...]
) -> None:
    now = 0.0

    def draw() -> None:
        nonlocal now
        now += seconds

    assert batches_to_time(draw, clock=lambda: now) == batches
