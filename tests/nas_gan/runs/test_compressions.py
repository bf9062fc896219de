import json

import pytest

from nas_gan.locks import locked
from nas_gan.runs.compressions import (
    compared_plans,
    find_compressions,
    find_timings,
    read_compression,
)


def write_report(path, **changes):
    """A run of `ard.compress`: 4 times fewer parameters, a rise of 2 in [1, 3], and one trial."""
    path.mkdir(parents=True)
    score = {"fid": 12.0, "delta_fid": 2.0, "ci_low": 1.0, "ci_high": 3.0, "n_samples": 9}
    trial = {"plan": {"l1": "svd(3)"}, "params": 50, "macs": 100, "cost": 1.0} | {
        "evaluation": {**score, "delta_fid": 2.5},
        "within_budget": False,
    }
    content = {
        "format": "ard-gan report 1",
        "checkpoint": "net.pt",
        "metric": "fid",
        "budget_met": True,
        "extractor": "pixels",
        "comparable": False,
        "reference": "dense",
        "plan": {"l1": "svd(2)", "l2": "cp(4)"},
        "dense": {"params": 100, "macs": 300},
        "compressed": {"params": 25, "macs": 100},
        "recovered": score,
        "trials": [trial],
    }
    (path / "report.json").write_text(json.dumps(content | changes))
    (path / "config.json").write_text(json.dumps({"fid_budget": "5%", "checkpoint": "net.pt"}))
    (path / "journal.jsonl").write_text('{"fingerprint": {}}\n{}\n{}\n')
    return path


def test_a_report_becomes_its_result_and_its_trials(tmp_path):
    run = read_compression(write_report(tmp_path / "a"))
    assert (run.status, run.problems, run.asked, run.measured) == ("finished", (), "5%", 2)
    result, trial = run.plans
    assert (result.params_ratio, result.macs_ratio) == (4.0, 3.0)
    assert (result.rise, result.good, result.saved) == ((2.0, 1.0, 3.0), True, True)
    assert (trial.params_ratio, trial.rise[0], trial.good, trial.saved) == (2.0, 2.5, False, False)
    assert run.results == (result,)


def test_a_distance_in_other_features_is_not_called_fid(tmp_path):
    other = read_compression(write_report(tmp_path / "a")).space
    published = read_compression(write_report(tmp_path / "b", comparable=True)).space
    assert other is not None
    assert published is not None
    assert (other.label, published.label) == ("FD", "FID")
    assert other != published


def test_points_become_one_result_for_each_budget(tmp_path):
    (tmp_path / "budget-5pct").mkdir()
    plan = {"format": 1, "layers": {"l1": "svd(7)"}}
    (tmp_path / "budget-5pct" / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "journal.jsonl").write_text("{}\n")
    config = {"metric": "kid", "extractor": "pixels", "budgets": ["5%", "9%"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pareto.csv").write_text(
        "budget,met,params,macs,compression,macs_ratio,kid,delta_kid,ci_low,ci_high,"
        "factorized_delta_kid,plan\n"
        "5%,true,10,20,2.5,1.5,1,0.25,0.125,0.5,9,budget-5pct/plan.json\n"
        "9%,false,5,20,5.0,1.5,1,0.5,0.25,0.75,9,../../outside/plan.json\n"
    )
    run = read_compression(tmp_path)
    assert run.space is not None
    assert (run.problems, run.asked, run.space.metric) == ((), "5%, 9%", "kid")
    first, second = run.plans
    assert (first.name, first.params_ratio, first.rise) == ("5%", 2.5, (0.25, 0.125, 0.5))
    assert (dict(first.layers), first.good) == ({"l1": "svd(7)"}, True)
    assert (dict(second.layers), second.good) == ({}, False)


def test_a_plan_that_leads_out_of_the_run_is_a_problem(tmp_path):
    (tmp_path / "plan.json").write_text('{"layers": {"secret": "svd(1)"}}')
    run = tmp_path / "run"
    run.mkdir()
    (run / "pareto.csv").write_text(
        "budget,met,compression,macs_ratio,delta_fid,ci_low,ci_high,plan\n"
        "5%,true,2,2,1,0,2,../plan.json\n"
    )
    (run / "config.json").write_text("{}")
    found = read_compression(run)
    assert (found.status, found.plans) == ("damaged", ())
    assert "is not the name of a file beside it" in found.problems[0]


def test_the_lock_says_whether_a_search_goes_on(tmp_path):
    (tmp_path / "journal.jsonl").write_text("{}\n")
    (tmp_path / "config.json").write_text("{}")
    assert read_compression(tmp_path).status == "stopped"
    with locked(tmp_path):
        assert read_compression(tmp_path).status == "running"
    assert read_compression(tmp_path).status == "stopped"


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "another"},
        {"dense": {"params": 0, "macs": 1}},
        {"recovered": {"fid": 1}},
        {"trials": 3},
        {"plan": {"l1": 5}},
        {"comparable": False, "reference": None},
    ],
    ids=str,
)
def test_whatever_is_in_a_report_the_other_runs_are_shown(tmp_path, changes):
    write_report(tmp_path / "good")
    write_report(tmp_path / "bad", **changes)
    found = {run.name: run for run in find_compressions(tmp_path)}
    assert (found["good"].status, found["bad"].status) == ("finished", "damaged")
    assert "report.json" in found["bad"].problems[0]
    assert str(tmp_path) not in found["bad"].problems[0]


def test_plans_are_compared_layer_by_layer_and_differences_come_first(tmp_path):
    result, trial = read_compression(write_report(tmp_path / "a")).plans
    assert compared_plans({"a": result, "again": result}) == {
        "l1": ("svd(2)", "svd(2)"),
        "l2": ("cp(4)", "cp(4)"),
    }
    rows = compared_plans({"a": result, "b": trial})
    assert rows == {"l1": ("svd(2)", "svd(3)"), "l2": ("cp(4)", "dense")}


def test_timings_are_the_rows_of_every_bench_and_a_damaged_one_is_a_line(tmp_path):
    row = {
        "bundle": "small",
        "batch": 4,
        "runner": "onnxruntime",
        "latency": {"p50_us": 1500, "p99_us": 2500},
        "images_per_second": 640,
        "speedup": {"value": 2, "low": 1.5, "high": 2.5},
        "verdict": "faster",
        "energy": {"gross_j_per_image": 0.25},
    }
    for name, rows in (("good", [row]), ("bad", [{**row, "batch": -1}])):
        (tmp_path / name).mkdir()
        content = {"device": {"model": None, "cpu": "a processor"}, "rows": rows}
        (tmp_path / name / "bench.json").write_text(json.dumps(content))
    [found], [problem] = find_timings(tmp_path)
    assert (found.source, found.machine, found.bundle, found.batch) == (
        *("good", "a processor", "small"),
        4,
    )
    assert (found.p50_ms, found.p99_ms, found.speedup) == (1.5, 2.5, (2, 1.5, 2.5))
    assert (found.joules, found.verdict) == (0.25, "faster")
    assert problem.startswith("bad: bench.json: rows 1: batch must be a whole number")
