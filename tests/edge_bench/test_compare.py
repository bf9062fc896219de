from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edge_bench import TimingPlan, benchmark
from edge_bench.__main__ import main
from edge_bench.compare import Key, compare, read_result, to_markdown, to_text
from edge_bench.errors import BundleError, InvalidValueError
from edge_bench.report import to_json

QUICK = TimingPlan(runs=8, warmup=0, duration_s=0, min_warmup_s=0, block=2, repeats=1)


def latency(us: float) -> dict[str, float]:
    return {"p50_us": us}


def row(bundle: str, batch: int, *us: float, **changes: Any) -> dict[str, Any]:
    """A row whose processes measured one round each, of two equal times."""
    values = {
        "bundle": bundle, "batch": batch, "runner": "onnxruntime", "latency": latency(us[0]),
        "samples_us": [[value, value] for value in us], "rounds_by_process": [1] * len(us),
        "busy": None,
    }  # fmt: skip
    return values | changes


def result(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    names = dict.fromkeys(one["bundle"] for one in rows)
    return {
        "format": 1,
        "bundles": [{"name": n, "model_sha256": "a" * 64, "engine_sha256": None} for n in names],
        "runtimes": ["onnxruntime 1.0 on CPU, 1 thread" for _ in names],
        "rows": list(rows),
        "plan": {"runs": 8, "duration_s": 0.0, "repeats": 2},
        "threads": 1,
        "device": {"cpu": "a core", "gpu": None, "packages": {"onnxruntime": "1.0"}},
        "throttled": None,
        **changes,
    }


@pytest.fixture
def write(tmp_path: Path):
    def write_(name: str, value: Any) -> Path:
        path = tmp_path / name / "bench.json"
        path.parent.mkdir()
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write_


def test_rows_are_joined_by_bundle_batch_and_runtime(write):
    first = write("a", result(row("x", 1, 30, 30), row("x", 64, 90, 90), row("y", 1, 5, 5)))
    second = write("b", result(row("z", 1, 1, 1), row("x", 64, 45, 45), row("x", 1, 10, 10)))
    found = compare(read_result(first), read_result(second.parent))
    assert [(r.key.bundle, r.key.batch) for r in found.compared] == [("x", 1), ("x", 64)]
    assert [r.ratio for r in found.compared] == pytest.approx([3, 2])
    assert (found.compared[0].first_ms, found.compared[0].second_ms) == (0.03, 0.01)
    assert found.only_first == (Key("y", 1, "onnxruntime"),)
    assert found.only_second == (Key("z", 1, "onnxruntime"),)
    assert found.differences == ()


def test_the_interval_is_about_the_processes_of_both(write):
    quiet, noisy = result(row("x", 1, 30, 30)), result(row("x", 1, 9, 11))
    alone = result(row("x", 1, 10))
    [a, b, c] = [read_result(write(n, v)) for n, v in (("a", quiet), ("b", noisy), ("c", alone))]
    [pair] = compare(a, b).compared
    assert pair.low is not None
    assert pair.high is not None
    assert pair.low < pair.ratio < pair.high
    [single] = compare(a, c).compared
    assert (single.ratio, single.low, single.high) == (3, None, None)
    assert "no interval" in to_text(compare(a, c))


def test_what_a_time_covers_differs_only_from_what_earlier_results_always_had(write):
    before = result(row("x", 1, 30, 30))
    same = copy.deepcopy(before) | {"transfers": "both", "cuda_graph": False}
    found = compare(read_result(write("a", before)), read_result(write("b", same)))
    assert found.differences == ()
    after = copy.deepcopy(same) | {"transfers": "none"}
    after["plan"]["scenario"] = {"name": "offline", "target_qps": None, "samples": 64}
    found = compare(read_result(write("d", same)), read_result(write("c", after)))
    assert found.differences == (
        ("scenario", "not stated", "offline"),
        ("images at once", "not stated", "64"),
        ("transfers", "not stated", "none"),
    )


def test_what_differs_between_machines_and_settings_is_listed(write):
    before = result(row("x", 1, 30, 30))
    after = copy.deepcopy(before)
    after["device"] |= {"cpu": "another core", "gpu": "Orin", "packages": {"numpy": "2"}}
    after["threads"] = 4
    after["bundles"][0]["model_sha256"] = "b" * 64
    found = compare(read_result(write("a", before)), read_result(write("b", after)))
    assert found.differences == (
        ("processor", "a core", "another core"),
        ("threads", "1", "4"),
        ("onnxruntime", "1.0", "not stated"),
        ("GPU", "not stated", "Orin"),
        ("numpy", "not stated", "2"),
        ("model of x", "a" * 12, "b" * 12),
    )
    assert "differs: threads: 1 / 4" in to_text(found).splitlines()


def test_a_busy_machine_leaves_no_verdict(write):
    a = write("a", result(row("x", 1, 30, 30, busy="others took it")))
    b = write("b", result(row("x", 1, 10, 10)))
    text = to_text(compare(read_result(a), read_result(b)))
    assert "(3.00×)" in text
    assert "a machine was busy" in text


def test_results_from_before_runners_had_names_are_read(write):
    old = result(row("x", 1, 30), row("y", 1, 20))
    for one in old["rows"]:
        for key in ("runner", "rounds_by_process", "busy"):
            del one[key]
    old["runtimes"] = ["tensorrt 10.3 on GPU, transfers included"] * 2
    found = read_result(write("old", old))
    assert list(found.rows) == [Key("x", 1, "tensorrt"), Key("y", 1, "tensorrt")]


def test_a_real_result_against_its_own_copy_has_ratios_of_1(make_bundle, write):
    report = benchmark([make_bundle()], [1, 2], plan=QUICK, find_meter=lambda on_gpu: None)
    a, b = (write(name, to_json(report)) for name in "ab")
    found = compare(read_result(a), read_result(b))
    assert [one.ratio for one in found.compared] == [1, 1]
    assert "machine and settings are the same" in to_text(found)


WHOLE = result(row("x", 1, 30, 30))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "[]",
        "{",
        "{}",
        '{"format": 1}',
        {**WHOLE, "format": 2},
        {**WHOLE, "rows": []},
        {**WHOLE, "rows": 5},
        {**WHOLE, "rows": [5]},
        {**WHOLE, "rows": None},
        {**WHOLE, "bundles": [{}]},
        {**WHOLE, "device": None},
        {**WHOLE, "device": {"packages": []}},
        result(row("x", 1, 30, latency={})),
        result(row("x", 1, 30, latency=latency(-1))),
        result(row("x", 1, 30, latency={"p50_us": "30"})),
        result(row("x", 1, 30, latency={"p50_us": True})),
        result(row("x", 0, 30)),
        result(row("x", 1, 30) | {"batch": "1"}),
        result(row("x", 1, 30, rounds_by_process=[2])),
        result(row("x", 1, 30, rounds_by_process=[10**9])),
        result(row("x", 1, 30, rounds_by_process=["1"])),
        result(row("x", 1, 30, samples_us=[[]], rounds_by_process=[1])),
        result(row("x", 1, 30, 30, samples_us=[[1], [1, 2]], rounds_by_process=[2])),
        result(row("x", 1, 30, samples_us=[[0]])),
        result(row("x", 1, 30, samples_us=7)),
        "[" * 100_000,
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_result_is_one_line(write, value):
    path = write("bad", value)
    with pytest.raises(BundleError) as caught:
        read_result(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_results_that_share_nothing_say_what_each_has(write):
    a = read_result(write("a", result(*(row("x", n, 1, 1) for n in (1, 2, 3, 4, 5)))))
    b = read_result(write("b", result(row("y", 1, 1, 1))))
    with pytest.raises(InvalidValueError, match=r"no row in common") as caught:
        compare(a, b)
    assert "x at 3 in onnxruntime and 2 more" in str(caught.value)
    assert "y at 1 in onnxruntime" in str(caught.value)
    with pytest.raises(InvalidValueError, match="given twice"):
        compare(a, a)


def test_the_command_prints_and_writes_markdown(write, tmp_path, capsys):
    a = write("a", result(row("a|b_c", 1, 30, 30)))
    b = write("b", result(row("a|b_c", 1, 10, 10)))
    out = tmp_path / "new" / "table.md"
    assert main(["compare", str(a), str(b), "--markdown", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "3.00×" in printed
    assert printed.endswith(f"wrote {out}\n")
    lines = out.read_text().splitlines()
    assert lines[0].count("|") == lines[1].count("|") == 8
    # A bar in a name must not begin another cell.
    assert lines[2].replace("\\|", "").count("|") == 8
    assert to_markdown(compare(read_result(a), read_result(b))) == out.read_text()


@pytest.mark.parametrize("names", [("a", "nowhere"), ("nowhere", "a"), ("a", "a"), ("a", ".")])
def test_nonsense_is_one_line_and_exit_code_1(write, tmp_path, capsys, names):
    write("a", WHOLE)
    assert main(["compare", *(str(tmp_path / name) for name in names)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "c"], ["a", "b", "--runs", "3"]])
def test_usage_of_compare_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compare", *arguments])
    assert caught.value.code == 2
    assert "usage: python -m edge_bench compare" in capsys.readouterr().err
