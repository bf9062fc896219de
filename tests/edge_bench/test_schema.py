"""`bench.schema.json` and what the program writes are the same thing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import edge_bench
from edge_bench import TimingPlan, benchmark
from edge_bench.power import PowerReading
from edge_bench.report import to_json
from edge_bench.scenario import Scenario

SCHEMA = json.loads((Path(edge_bench.__file__).parent / "bench.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
QUICK = TimingPlan(runs=4, warmup=1, duration_s=0, min_warmup_s=0, block=2, repeats=2)


def as_read(value: Any) -> Any:
    return json.loads(json.dumps(value))


def errors(value: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(value)]


class SixWatts:
    """A meter of a board that draws 6 W."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def result(self):
        return PowerReading(6.0, 7.0, 3, 1.0, {"VDD_IN": 6.0}, ("VDD_IN",), "test")


@pytest.fixture
def full(make_bundle) -> dict[str, Any]:
    """A result in which nothing is empty: two bundles, a runtime that failed, and power."""
    found = benchmark(
        [make_bundle("a"), make_bundle("b", changes={"batch": {"max": 8}})],
        plan=QUICK, runner=["onnxruntime", "tensorrt"], find_meter=lambda on_gpu: SixWatts(),
    )  # fmt: skip
    return as_read(to_json(found))


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_what_a_benchmark_writes_is_valid(full):
    assert full["failed"]
    assert full["processes"]
    assert full["rows"][0]["energy"]
    assert errors(full) == []


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("single-stream"),
        Scenario("offline", samples=8),
        Scenario("server", target_qps=500.0, latency_bound_s=0.5),
    ],
    ids=str,
)
def test_what_a_scenario_writes_is_valid_and_described(make_bundle, scenario):
    plan = replace(QUICK, scenario=scenario)
    value = as_read(to_json(benchmark([make_bundle()], plan=plan, find_meter=lambda on_gpu: None)))
    assert errors(value) == []
    for key, name in {"scenario": "scenario_result", "covers": "covers"}.items():
        assert set(value["rows"][0][key]) == set(SCHEMA["$defs"][name]["properties"])
    value["rows"][0]["scenario"]["metric"] = "p50_us"
    assert errors(value)


def test_a_result_from_before_repeats_is_valid(full):
    for key in ("failed", "processes"):
        del full[key]
    for key in ("repeats", "scenario"):
        del full["plan"][key]
    for one in full["rows"]:
        for key in ("runner", "rounds_by_process", "processor_us", "processor_speedup", "verdict",
                    "busy", "covers", "gpu_latency", "gpu_speedup", "scenario"):  # fmt: skip
            del one[key]
    assert errors(full) == []


def test_every_key_that_is_written_is_described(full):
    assert set(full) <= set(SCHEMA["properties"])
    for key, name in {"rows": "row", "failed": "failed", "processes": "process",
                      "bundles": "bundle"}.items():  # fmt: skip
        assert set(full[key][-1]) <= set(SCHEMA["$defs"][name]["properties"]), key


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (["format"], 2),
        (["format"], "1"),
        (["rows"], []),
        (["rows", 0, "batch"], 0),
        (["rows", 0, "latency", "p50_us"], 0),
        (["rows", 0, "latency"], None),
        (["rows", 0, "samples_us"], [[]]),
        (["rows", 1, "speedup", "low"], None),
        (["rows", 1, "verdict"], "better"),
        (["threads"], 1.5),
        (["created"], "yesterday"),
        (["processes", 0, "others_share"], 1.2),
        (["failed", 0, "reason"], None),
        (["device", "packages"], []),
    ],
    ids=str,
)
def test_a_wrong_value_is_found(full, path, wrong):
    inner: Any = full
    for key in path[:-1]:
        inner = inner[key]
    assert path[-1] in inner or isinstance(inner, list)
    inner[path[-1]] = wrong
    assert errors(full)
