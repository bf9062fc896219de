"""Scenarios after MLPerf Inference: how queries come in, and what is asked of their times."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from edge_bench import TimingPlan, benchmark
from edge_bench.__main__ import main
from edge_bench.command import Duration
from edge_bench.errors import InvalidValueError, RunnerError
from edge_bench.markdown import to_markdown
from edge_bench.page import to_html
from edge_bench.report import table
from edge_bench.rows import row_of
from edge_bench.scenario import Scenario, arrivals_ns, bound_verdict
from edge_bench.serving import serve
from edge_bench.timing import Timing, measure, measure_server

MS = 1_000_000
FEED = (np.zeros((1, 1), np.float32),)


def no_meter(on_gpu):
    return None


class Machine:
    """A clock that moves while a model runs, and while it is waited for; reading it takes 1 ns."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 1
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9)


class Model:
    """Takes `cost_ns` for each call."""

    def __init__(self, machine, cost_ns):
        self.machine, self.cost_ns, self.calls = machine, cost_ns, 0

    def infer(self, *feed):
        self.machine.now += self.cost_ns
        self.calls += 1
        return feed[0]


# -- server


def test_a_query_that_waits_counts_from_its_arrival():
    machine = Machine()
    arrivals = np.array([10, 11, 12, 40]) * MS
    served = serve(Model(machine, 5 * MS), FEED, arrivals, machine, machine.sleep)
    # Answered at 15, 20, 25 and 45 ms.
    expected = np.array([5, 9, 13, 5]) * MS
    np.testing.assert_allclose(served.latencies_ns, expected, atol=0.01 * MS)
    assert served.answered == 4
    assert served.seconds == pytest.approx(0.045, abs=1e-5)


def test_a_model_that_falls_behind_is_given_up_on_and_what_waited_counts_as_waiting():
    machine = Machine()
    arrivals = np.arange(100) * MS  # 0.1 s of queries
    model = Model(machine, 400 * MS)
    served = serve(model, FEED, arrivals, machine, machine.sleep)
    # Three calls end at 1.2 s, beyond twice the schedule and a second.
    assert served.answered == model.calls == 3
    assert served.latencies_ns[-1] == pytest.approx(1200 * MS - 99 * MS, abs=0.01 * MS)
    assert (served.latencies_ns > 0).all()


def test_arrivals_are_a_poisson_process_of_the_rate_and_of_the_seed():
    times = arrivals_ns(200.0, 20_000, np.random.default_rng(3))
    gaps = np.diff(times) / 1e9
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    # Exponential: the deviation is the mean, and e^-1 of the gaps are longer than it.
    assert gaps.std() == pytest.approx(1 / 200, rel=0.05)
    assert (gaps > 1 / 200).mean() == pytest.approx(math.exp(-1), abs=0.015)
    again = arrivals_ns(200.0, 20_000, np.random.default_rng(3))
    assert (times == again).all()
    assert (times != arrivals_ns(200.0, 20_000, np.random.default_rng(4))).any()


def test_every_model_serves_the_same_arrivals_alone():
    machine = Machine()
    models = [Model(machine, cost * MS) for cost in (1, 2)]
    plan = TimingPlan(
        runs=20, warmup=0, duration_s=0, block=5, scenario=Scenario("server", target_qps=100.0)
    )
    rng = np.random.default_rng(0)
    found = measure_server(models, [FEED, FEED], [1], machine, plan, rng, machine.sleep)
    assert [timing.times_ns.shape for timing in found] == [(4, 5), (4, 5)]
    assert [timing.answered for timing in found] == [20, 20]
    # The faster one is never the later one, because the queries are the same.
    assert (found[0].times_ns < found[1].times_ns).all()
    assert found[0].times_ns.min() == pytest.approx(MS, rel=0.01)


def test_a_server_gets_whole_blocks_of_queries_for_the_runs_and_the_seconds():
    def plan(**changes: Any) -> TimingPlan:
        settings = {"runs": 25, "block": 10, "duration_s": 2.0, "max_runs": 500, **changes}
        return TimingPlan(scenario=Scenario("server", target_qps=1.0), **settings)

    assert plan().queries(1.0) == 30
    assert plan().queries(33.3) == 70
    assert plan().queries(1e6) == 500


# -- the bound


@pytest.mark.parametrize(
    ("over", "queries", "verdict"),
    [
        # 0.99^458 is just above 1 %, and 0.99^459 just below.
        (0, 458, "undecided"),
        (0, 459, "holds"),
        # 0.99^661 + 661 * 0.01 * 0.99^660 = 1.00 %, the next is below.
        (1, 661, "undecided"),
        (1, 662, "holds"),
        # At 1 %, one or more of 2 are seen in 2 % of the cases, and both once in 10,000.
        (1, 2, "undecided"),
        (2, 2, "missed"),
        (100, 10_000, "undecided"),
        (130, 10_000, "missed"),
        (70, 10_000, "holds"),
    ],
)
def test_a_bound_holds_or_is_missed_with_the_confidence_of_early_stopping(over, queries, verdict):
    assert bound_verdict(over, queries) == verdict


def served(latencies_ms, answered=None, seconds=1.0) -> Timing:
    times = (np.array(latencies_ms, np.float64) * MS).astype(np.int64).reshape(-1, 10)
    n = times.size if answered is None else answered
    spent = np.zeros(len(times), np.int64)
    return Timing(0, 1, times, spent, 0, True, answered=n, seconds=seconds)


def test_a_server_reports_its_99th_percentile_and_the_bound():
    scenario = Scenario("server", target_qps=500.0, latency_bound_s=0.0505)
    timings = [served(np.arange(1, 501) / 10, seconds=1.0)] * 2  # 0.1 to 50 ms
    row = row_of(timings, None, None, scenario, np.random.default_rng(0))
    assert row.scenario is not None
    assert row.scenario.metric == "p99_us"
    assert row.scenario.value == pytest.approx(49_500, rel=1e-3)
    assert row.scenario.low == row.scenario.high == row.scenario.value  # two equal processes
    assert (row.scenario.over_bound, row.scenario.bound) == (0, "holds")
    assert row.images_per_second == row.scenario.answered_per_second == 500.0
    assert row.warnings == ()
    assert row.processor_us is None


def test_a_model_that_falls_behind_is_warned_of_and_misses_its_bound():
    scenario = Scenario("server", target_qps=1000.0, latency_bound_s=10.0)
    timings = [served(np.full(500, 1.0), answered=100, seconds=1.0)]
    row = row_of(timings, None, None, scenario, np.random.default_rng(0))
    assert row.scenario is not None
    # What was not answered is over any bound.
    assert (row.scenario.unanswered, row.scenario.over_bound) == (400, 400)
    assert row.scenario.bound == "missed"
    assert "400 of 500 were given up on" in row.warnings[0]
    slow = row_of([served(np.full(500, 1.0), seconds=1.0)], None, None, scenario,
                  np.random.default_rng(0))  # fmt: skip
    assert slow.warnings[0].startswith("fell behind: 500 of 1000 queries a second")


def test_a_bound_that_a_busy_machine_missed_is_no_verdict():
    scenario = Scenario("server", target_qps=500.0, latency_bound_s=0.001)
    row = row_of([served(np.full(500, 5.0))], None, "others", scenario, np.random.default_rng(0))
    assert row.scenario is not None
    assert row.scenario.bound == "busy"


# -- offline and single-stream


def test_offline_times_all_samples_at_once_and_reports_images_per_second():
    machine = Machine()
    model = Model(machine, 2 * MS)
    plan = TimingPlan(
        runs=40, warmup=0, duration_s=0, block=10, scenario=Scenario("offline", samples=100)
    )
    [timing] = measure([model], [(np.zeros((16, 1), np.float32),)], [16], machine, plan)
    # 100 samples are 7 batches of 16, and 40 batches are 6 runs of 7.
    assert (timing.calls, timing.times_ns.shape, model.calls) == (7, (6, 1), 42)
    assert (timing.times_ns >= 14 * MS).all()
    row = row_of([timing], None, None, plan.scenario, np.random.default_rng(0))
    assert row.images_per_second == pytest.approx(7 * 16 / 14e-3, rel=1e-3)
    assert row.scenario is not None
    assert (row.scenario.metric, row.scenario.low) == ("images_per_second", None)
    assert row.scenario.value == pytest.approx(row.images_per_second, rel=1e-9)


def test_single_stream_reports_the_90th_percentile():
    times = np.arange(1, 102).reshape(1, -1) * MS  # 1 to 101 ms: rank 90 of 0 to 100 is 91
    timing = Timing(0, 1, times, np.full(1, MS), 0, True)
    row = row_of([timing], None, None, Scenario("single-stream"), np.random.default_rng(0))
    assert row.scenario is not None
    assert (row.scenario.metric, row.scenario.value) == ("p90_us", 91_000.0)


@pytest.mark.parametrize(("name", "batches"), [("single-stream", [1]), ("offline", [64])])
def test_a_scenario_has_one_batch_size_of_its_own(make_bundle, name, batches):
    plan = TimingPlan(
        runs=4, warmup=0, duration_s=0, min_warmup_s=0, block=2, repeats=2, scenario=Scenario(name)
    )
    bundles = [make_bundle("a"), make_bundle("b")]
    report = benchmark(bundles, plan=plan, find_meter=no_meter)
    assert [row.batch for row in report.rows] == batches * 2
    for text in (table(report), to_markdown(report).replace("\\", ""), to_html(report)):
        assert f"scenario: {name}" in text
    assert all(row.scenario and row.scenario.low is not None for row in report.rows)
    assert report.rows[1].speedup is not None


def test_a_query_larger_than_the_fixed_batch_is_refused_before_anything_is_timed(make_model):
    plan = TimingPlan(repeats=1, scenario=Scenario("server", target_qps=5.0))
    with pytest.raises(RunnerError, match="use batch size 2"):
        benchmark([make_model(batch=2)], [4], plan=plan, find_meter=no_meter)
    quick = TimingPlan(runs=2, warmup=0, duration_s=0, block=1, repeats=1,
                       scenario=Scenario("offline", samples=5))  # fmt: skip
    [row] = benchmark([make_model(batch=2)], plan=quick, find_meter=no_meter).rows
    assert row.batch == 2


# -- options


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({"name": "multi-stream"}, "scenario"),
        ({"name": "server"}, "target_qps"),
        ({"name": "server", "target_qps": 0.0}, "target_qps"),
        ({"name": "server", "target_qps": math.inf}, "target_qps"),
        ({"name": "server", "target_qps": 1e7}, "target_qps"),
        ({"name": "server", "target_qps": 5.0, "latency_bound_s": -1.0}, "latency_bound"),
        ({"name": "server", "target_qps": 5.0, "samples": 9}, "samples"),
        ({"name": "offline", "target_qps": 5.0}, "target_qps"),
        ({"name": "offline", "samples": 0}, "samples"),
        ({"name": "offline", "samples": 10**20}, "samples"),
        ({"name": "single-stream", "latency_bound_s": 1.0}, "latency_bound"),
    ],
    ids=str,
)
def test_numbers_out_of_range_or_of_another_scenario_are_refused(values, setting):
    with pytest.raises(InvalidValueError) as caught:
        Scenario(**values)
    assert caught.value.setting == setting


def test_queries_that_would_take_hours_are_refused():
    with pytest.raises(InvalidValueError, match=r"means 55\.6 hours"):
        TimingPlan(runs=200, scenario=Scenario("server", target_qps=0.001))


@pytest.mark.parametrize(
    ("text", "expected"), [("50ms", 0.05), ("0.2s", 0.2), ("1e3us", 1e-3), (" 3s ", 3.0)]
)
def test_a_time_is_written_with_its_unit(text, expected):
    assert float(Duration(text)) == pytest.approx(expected)
    assert str(Duration(text)) == text.strip()


@pytest.mark.parametrize("text", ["50", "50 m", "-5ms", "0s", "1e999s", "ms", "nans", "1e-400s"])
def test_what_is_no_time_is_a_usage_error(text, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["x.onnx", f"--latency-bound={text}"])
    assert caught.value.code == 2
    assert "is not a time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--scenario", "server"], "--target-qps is needed"),
        (["--latency-bound", "5ms"], "--latency-bound is of a scenario"),
        (["--scenario", "offline", "--target-qps", "3"], "--target-qps is for the scenario server"),
        (["--scenario", "server", "--target-qps", "1e-9"], "--target-qps 1e-09 a second means"),
    ],
    ids=str,
)
@pytest.mark.parametrize("host", [[], ["--host", "nowhere.invalid"]], ids=["here", "there"])
def test_a_wrong_scenario_is_one_line_before_anything_is_read(given, message, host, capsys):
    assert main(["absent", *given, *host]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_the_command_serves_and_writes_what_it_found(make_model, tmp_path, capsys):
    given = [str(make_model()), "--out", str(tmp_path), "--repeats", "2", "--runs", "20"]
    given += ["--duration", "0", "--warmup", "1", "--scenario", "server", "--target-qps", "400"]
    assert main([*given, "--latency-bound", "5s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-1] == "bound"
    assert lines[2].split()[-1] == "undecided"
    assert any("too few queries to tell" in line for line in lines)
    value = json.loads((tmp_path / "bench.json").read_text())
    assert value["plan"]["scenario"] == {
        "name": "server", "target_qps": 400.0, "latency_bound_s": 5.0, "samples": None,
    }  # fmt: skip
    assert value["rows"][0]["scenario"]["queries"] == 20
