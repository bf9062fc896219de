from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_bench import TimingPlan, benchmark
from edge_bench.asked import Covers, RunSettings
from edge_bench.errors import BundleError, InvalidValueError, RunnerError
from edge_bench.load import MachineLoad
from edge_bench.processes import (
    measure_in_child,
    plain_request,
    plain_session,
    read_request,
    read_session,
)
from edge_bench.scenario import Scenario
from edge_bench.session import Request, Session, default_batches, measure_session
from edge_bench.timing import Timing

QUICK = TimingPlan(runs=12, warmup=0, duration_s=0, min_warmup_s=0, block=4, repeats=3)
ONE = QUICK.share()


def no_meter(on_gpu):
    return None


def asked(*bundles: Path, **changes) -> Request:
    return replace(Request(bundles, (2,), ONE, RunSettings(), "onnxruntime", seed=0), **changes)


def test_the_share_of_a_plan_adds_up_to_it():
    plan = TimingPlan(runs=200, warmup=20, duration_s=3.0, repeats=5)
    share = plan.share()
    assert (share.runs, share.warmup, share.max_runs, share.repeats) == (40, 4, 4000, 1)
    assert 5 * share.duration_s == pytest.approx(3.0)
    # Never less than a run each, and without a warm-up none is made up.
    assert TimingPlan(runs=2, warmup=0, repeats=5).share().runs == 1
    assert TimingPlan(runs=2, warmup=0, repeats=5).share().warmup == 0
    assert TimingPlan(repeats=1).share() == TimingPlan(repeats=1)


def test_a_child_measures_what_this_process_would(make_bundle):
    request = asked(make_bundle("a"), make_bundle("b", width=16))
    here = measure_session(request, time.perf_counter_ns)
    there = measure_in_child(request)
    assert (there.runtimes, there.batches) == (here.runtimes, here.batches)
    assert [(t.runner, t.batch, t.times_ns.shape, t.processor_ns.shape) for t in there.timings] == [
        (0, 2, (1, 4), (1,)),
        (1, 2, (1, 4), (1,)),
    ]
    assert all((t.times_ns > 0).all() and (t.processor_ns >= 0).all() for t in there.timings)
    assert there.load.cores == here.load.cores


class Counting:
    """A clock that moves a microsecond more at each look."""

    def __init__(self):
        self.looks = self.now = 0

    def __call__(self):
        self.looks += 1
        self.now += 1000 * self.looks
        return self.now


def test_each_turn_begins_with_another_bundle_and_reports_them_in_their_order(make_bundle):
    bundles = [make_bundle(name) for name in "abc"]
    starts = []
    for turn in range(4):
        session = measure_session(asked(*bundles, batches=(1, 4), turn=turn), Counting())
        assert [(t.batch, t.runner) for t in session.timings] == [
            (1, 0), (1, 1), (1, 2), (4, 0), (4, 1), (4, 2),
        ]  # fmt: skip
        # The clock runs ever slower, so the shortest times are those of the first in turn.
        first = min(session.timings[:3], key=lambda t: int(t.times_ns.min()))
        starts.append(first.runner)
    assert starts == [0, 1, 2, 0]


def test_processor_time_is_measured_beside_the_wall_clock(make_bundle):
    report = benchmark([make_bundle(width=512)], [64], plan=QUICK, find_meter=no_meter)
    [row] = report.rows
    assert row.processor_us is not None
    assert row.processor_us > 0
    # A single thread cannot compute for longer than it takes, but for what the clocks round off.
    assert row.processor_us <= 1.5 * row.latency.mean_us + 100


def test_repeats_are_processes_of_their_own_with_their_share_of_the_rounds(make_bundle):
    report = benchmark([make_bundle("a"), make_bundle("b")], [1], plan=QUICK, find_meter=no_meter)
    assert [row.rounds_by_process for row in report.rows] == [(1, 1, 1)] * 2
    assert [len(row.samples_us) for row in report.rows] == [3, 3]
    assert [(p.runner, p.turn) for p in report.processes] == [("onnxruntime", i) for i in range(3)]
    assert report.rows[1].verdict in ("faster", "slower", "undecided")
    assert report.rows[0].verdict is None


def test_another_process_does_not_see_the_clock_of_this_one(make_bundle):
    with pytest.raises(InvalidValueError, match=r"repeats .*do not see the clock"):
        benchmark([make_bundle()], plan=QUICK, clock=time.perf_counter_ns, find_meter=no_meter)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batches": (64,)}, RunnerError, "fixed batch of 2"),
        ({"runner": "tensorrt"}, RunnerError, "no TensorRT engine"),
        ({"bundles": (Path("nowhere"),)}, BundleError, "nowhere: no such file"),
        ({"batches": (10**14,)}, (MemoryError, RunnerError), None),
    ],
    ids=["batch", "runner", "bundle", "memory"],
)
def test_errors_of_a_child_are_raised_here(make_bundle, change, error, message):
    bundle = make_bundle(batch=2 if message == "fixed batch of 2" else "batch")
    with pytest.raises(error, match=message) as caught:
        measure_in_child(replace(asked(bundle), **change))
    assert "\n" not in str(caught.value)


def test_a_child_that_dies_is_one_line(make_bundle, monkeypatch):
    # A runtime that crashes takes its process along.
    monkeypatch.setenv("PYTHONMALLOC", "no such allocator")
    with pytest.raises(RunnerError, match=r"ended by (code|signal) \d+ without an answer"):
        measure_in_child(asked(make_bundle()))


def test_what_a_runtime_prints_is_no_answer(make_bundle, tmp_path, monkeypatch, capfd):
    # In place of the runtime, one that prints as the C++ below it does, and is then missing.
    printing = "import os\nos.write(1, b'hello from below\\n')\nraise ImportError\n"
    (tmp_path / "onnxruntime.py").write_text(printing)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunnerError, match="onnxruntime is not installed"):
        measure_in_child(asked(make_bundle()))
    assert "hello from below" in capfd.readouterr().err


def test_a_session_survives_its_way_between_processes():
    plan = TimingPlan(runs=3, scenario=Scenario("server", target_qps=5.0, latency_bound_s=0.1))
    request = Request(
        (Path("a"),), None, plan, RunSettings(2, "in", True), "onnxruntime", seed=0, turn=2
    )
    assert read_request(json.loads(json.dumps(plain_request(request)))) == request


def test_what_was_measured_survives_its_way_between_processes():
    timing = Timing(
        1, 2, np.array([[3, 4]]), np.array([5]), 6, True, device_ns=np.array([[1, 2]]), calls=7
    )
    covers = (Covers("in", no_cuda_graph="no"),)
    session = Session(("a",), (2,), (timing,), MachineLoad(1.0, 2, None, None, None, None), covers)
    back = read_session(json.loads(json.dumps(plain_session(session))))
    assert (back.covers, back.runtimes, back.load) == (covers, ("a",), session.load)
    assert back.timings[0].device_ns is not None
    assert back.timings[0].device_ns.tolist() == [[1, 2]]
    assert (back.timings[0].times_ns.tolist(), back.timings[0].calls) == ([[3, 4]], 7)


def test_a_worker_that_is_started_by_hand_says_what_to_start():
    done = subprocess.run(
        [sys.executable, "-m", "edge_bench.worker"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "python -m edge_bench" in done.stderr


def children_of(pid: int) -> set[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_process_is_left_behind_and_one_line_is_said(make_model, tmp_path, number, code):
    command = [sys.executable, "-m", "edge_bench", str(make_model()), "--runs", "100000000"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True
    ) as process:
        while not (children := children_of(process.pid)):
            time.sleep(0.02)
        time.sleep(1.0)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert len(errors.splitlines()) == (0 if number == signal.SIGKILL else 1), errors
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a process goes on without its parent"
        time.sleep(0.05)


class Takes:
    """A runner that takes these batch sizes."""

    def __init__(self, least, most):
        self.batch_range = (least, most)


class Stated:
    def __init__(self, most):
        self.name, self.max_batch = "a", most


@pytest.mark.parametrize(
    ("ranges", "stated", "expected"),
    [
        ([(1, None)], [None], (1, 64)),
        ([(1, None)], [64], (1, 64)),
        ([(1, None)], [256], (1, 64)),
        ([(1, None)], [16], (1, 16)),
        ([(1, 8)], [64], (1, 8)),
        ([(4, 32)], [None], (4, 32)),
        ([(1, 1)], [None], (1,)),
        ([(128, 128)], [None], (128,)),
        ([(1, 32), (1, None)], [None, 16], (1, 16)),
        ([(8, 8), (1, None)], [None, None], (8,)),
    ],
)
def test_batches_are_1_and_64_unless_a_bundle_or_an_engine_states_less(ranges, stated, expected):
    runners, bundles = [Takes(*r) for r in ranges], [Stated(most) for most in stated]
    assert default_batches(bundles, runners) == expected  # type: ignore[arg-type]


def test_bundles_without_a_common_batch_are_refused():
    runners = [Takes(2, 2), Takes(8, 8)]
    with pytest.raises(RunnerError, match="a takes 2, a takes 8"):
        default_batches([Stated(None)] * 2, runners)  # type: ignore[arg-type, list-item]


def test_a_bundle_says_its_largest_batch(make_bundle):
    bundle = make_bundle(changes={"batch": {"min": 1, "opt": 8, "max": 16}})
    plan = replace(QUICK, repeats=1)
    report = benchmark([bundle], plan=plan, find_meter=no_meter)
    assert [row.batch for row in report.rows] == [1, 16]
    fixed = benchmark([make_bundle("fixed", batch=4)], plan=plan, find_meter=no_meter)
    assert [row.batch for row in fixed.rows] == [4]
    for wrong in ("64", {"max": 0}, {"max": True}, [1, 64], 8):
        folder = make_bundle(f"wrong{wrong}", changes={"batch": wrong})
        with pytest.raises(BundleError, match="not a range"):
            benchmark([folder], plan=plan, find_meter=no_meter)


def test_timings_are_whole_numbers_in_json(make_bundle):
    session = measure_session(asked(make_bundle()), time.perf_counter_ns)
    value = json.loads(json.dumps(plain_session(session)))
    assert value["timings"][0]["times_ns"] == session.timings[0].times_ns.tolist()
    assert isinstance(session.timings[0], Timing)
    assert session.timings[0].times_ns.dtype == np.int64
    assert value["runtimes"][0].startswith("onnxruntime")
