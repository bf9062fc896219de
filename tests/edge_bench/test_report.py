from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from edge_bench.bundle import Bundle
from edge_bench.device import DeviceDescription, DeviceState
from edge_bench.errors import InvalidValueError
from edge_bench.markdown import to_markdown
from edge_bench.power import Energy, PowerReading
from edge_bench.report import NO_POWER, BenchReport, BenchRow, table, to_json, write_report
from edge_bench.statistics import LatencyStatistics, Ratio
from edge_bench.timing import TimingPlan

STATE = DeviceState(0.1, {"cpu": 40.0}, {}, {}, None, None, None)
DEVICE = DeviceDescription(
    "aarch64", None, None, 6, None, 6, None, "Linux", "3.10", {}, None, None, None, None, None
)
POWER = PowerReading(6.0, 7.0, 11, 2.0, {"VDD_IN": 6.0}, ("VDD_IN",), "sysfs ina3221")


def row(bundle, batch, ms, **changes):
    us = ms * 1000
    values = dict(
        latency=LatencyStatistics(200, us, us, us * 2, us * 3, us * 4, us, us * 5, 1.0),
        images_per_second=batch / ms * 1000,
        speedup=None, power=None, energy=None, warmup_runs=20, settled=True, warnings=(),
        samples_us=((us, us + 0.123456),),
    )  # fmt: skip
    return BenchRow(
        **{"bundle": bundle, "batch": batch, "runner": "onnxruntime", **values, **changes}
    )


def report(*rows, **changes):
    bundles = tuple(
        Bundle(name, Path(name), None, None, None, None, n_classes=None)
        for name in dict.fromkeys(r.bundle for r in rows)
    )
    values = dict(
        created="2026-01-01T00:00:00Z", bundles=bundles, runtimes=("onnxruntime 1",) * len(bundles),
        plan=TimingPlan(), threads=1, seed=0, device=DEVICE, state_at_start=STATE,
        state_at_end=STATE, throttled=None, idle=None, rows=rows, warnings=(),
    )  # fmt: skip
    return BenchReport(**{**values, **changes})


PAIR = report(row("dense", 1, 5.0), row("small", 1, 2.0, speedup=Ratio(2.5, 2.4, 2.6, 0.95, 2.5)))


def test_the_table_has_a_row_for_each_bundle_and_batch():
    lines = table(PAIR).splitlines()
    assert [" ".join(line.split()) for line in (lines[0], *lines[2:4])] == [
        "bundle batch mean ms p50 ms p90 ms p95 ms p99 ms images/s ratio",
        "dense 1 5.000 5.000 10.00 15.00 20.00 200.0 1",
        "small 1 2.000 2.000 4.000 6.000 8.000 500.0 2.50×",
    ]


def test_the_ratio_is_told_with_its_interval():
    expected = "small, batch 1: 2.50× the speed of dense (95% interval 2.40 to 2.60)"
    assert expected in table(PAIR).splitlines()


def test_one_bundle_alone_has_no_ratio():
    assert "ratio" not in table(report(row("dense", 1, 5.0)))


def test_without_a_sensor_the_table_says_so_and_has_no_joules():
    text = table(PAIR)
    assert NO_POWER in text.splitlines()
    assert "J/image" not in text


def test_the_reason_why_there_is_no_power_is_in_the_table_and_in_the_file():
    absent = report(row("dense", 1, 5.0), no_power="only root can read it")
    assert "power: not available: only root can read it" in table(absent).splitlines()
    assert to_json(absent)["no_power"] == "only root can read it"


def test_a_row_without_power_among_others_is_told():
    measured = row("dense", 1, 5.0, power=POWER, energy=Energy(0.03, 0.01))
    text = table(report(measured, row("dense", 2, 5.0), no_power="the bus is gone"))
    assert "power: not available for some rows: the bus is gone" in text.splitlines()


def test_rails_that_did_not_answer_are_named():
    power = dataclasses.replace(POWER, rails_left_out=("VDD_SOC",))
    text = table(report(row("dense", 1, 5.0, power=power, energy=Energy(0.03, 0.01))))
    assert "power: VDD_SOC left out, as it did not answer" in text.splitlines()


@pytest.mark.parametrize(
    ("cpu", "gpu", "line"),
    [
        (True, False, "clocks: CPU locked, GPU not locked"),
        (False, None, "clocks: CPU not locked"),
        (None, True, "clocks: GPU locked"),
    ],
)
def test_the_table_says_which_clocks_are_locked(cpu, gpu, line):
    state = dataclasses.replace(STATE, clocks_locked=cpu, gpu_clocks_locked=gpu)
    assert line in table(report(row("dense", 1, 5.0), state_at_start=state)).splitlines()
    assert "clocks:" not in table(PAIR)


def test_with_a_sensor_the_table_has_joules_and_the_rails_they_come_from():
    measured = row("dense", 1, 5.0, power=POWER, energy=Energy(0.03, 0.01))
    text = table(report(measured, idle=POWER))
    assert text.splitlines()[2].split()[-1] == "0.03"
    assert "power: sysfs ina3221 (VDD_IN), idle 6.00 W; J/image is gross" in text


@pytest.mark.parametrize("width", [60, 70, 80, 100])
@pytest.mark.parametrize("name", ["dense", "a_rather_long_name_of_a_run/bundle"])
def test_the_table_fits_the_terminal_and_says_what_it_left_out(width, name):
    energy = Energy(0.0123, None)
    wide = report(*(row(name, batch, 123.456, power=POWER, energy=energy) for batch in (1, 64)))
    lines = table(wide, width).split("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= width
    assert ("see bench.json" in lines[-1]) == ("p90 ms" not in lines[0])
    for column in ("p50 ms", "images/s", "J/image"):
        assert column in lines[0]


def test_warnings_are_one_line_for_each_row_and_one_remedy():
    noisy = report(*(row("dense", b, 5.0, warnings=("unstable", "drifting")) for b in (1, 8)))
    lines = table(noisy).splitlines()
    assert lines[-3:-1] == [
        "warning: dense, batch 1: unstable; drifting",
        "warning: dense, batch 8: unstable; drifting",
    ]
    assert "jetson_clocks" in lines[-1]


def test_the_file_keeps_raw_samples_units_and_unknowns(tmp_path):
    path = write_report(report(row("dense", 1, 5.0, power=POWER)), tmp_path / "new" / "folder")
    value = json.loads(path.read_text())
    assert path.name == "bench.json"
    assert value["rows"][0]["samples_us"] == [[5000.0, 5000.12]]
    assert value["rows"][0]["latency"]["p50_us"] == 5000.0
    assert value["rows"][0]["power"]["sample_rate_hz"] == 5.0
    assert (value["idle"], value["rows"][0]["energy"], value["device"]["l4t"]) == (None,) * 3
    assert [file.name for file in path.parent.iterdir()] == ["bench.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_report(PAIR, tmp_path)
    before = path.read_text()
    broken = report(row("dense", 1, 5.0, images_per_second=float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        write_report(broken, tmp_path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_is_found_by_bundle_and_batch():
    assert PAIR.row("small", 1) is PAIR.rows[1]
    with pytest.raises(InvalidValueError, match="only dense at 1, small at 1"):
        PAIR.row("small", 64)


def test_plain_values_only():
    assert json.loads(json.dumps(to_json(PAIR)))["bundles"][1]["name"] == "small"


def test_a_busy_machine_leaves_no_verdict_and_says_why():
    why = "other programs took 1.5 of 2 cores, and the models compute on 1"
    busy = [replace(one, verdict=one.speedup and "busy", busy=why) for one in PAIR.rows]
    text = table(report(*busy))
    assert "faster" not in text.replace("no model is called faster or slower", "")
    assert "× the speed of" not in text
    assert text.splitlines()[3].split()[-1] == "(2.50×)"
    [warning] = [line for line in text.splitlines() if "this machine was busy" in line]
    assert why in warning
    assert "small, batch 1: no verdict; measured 2.50×" in text
    spent = [replace(one, processor_speedup=Ratio(2.6, 2.58, 2.62, 0.95, 2.6)) for one in busy]
    assert "2.60× in processor time (2.58 to 2.62)" in table(report(*spent))


def test_a_busy_machine_is_told_of_one_bundle_alone_too():
    text = table(report(row("dense", 1, 5.0, busy="others took it"), row("dense", 2, 5.0)))
    expected = "warning: this machine was busy: others took it; its times are too long"
    assert expected in text.splitlines()


def test_an_interval_around_1_shows_no_difference():
    same = row("small", 1, 2.0, speedup=Ratio(1.01, 0.98, 1.04, 0.95, 1.0), verdict="undecided")
    text = table(report(row("dense", 1, 5.0), same))
    assert "interval 0.98 to 1.04), which shows no difference" in text


def test_markdown_has_the_cells_and_the_notes_of_the_table():
    text = to_markdown(report(row("a|b", 1, 5.0), row("small_1", 1, 2.0)))
    lines = text.splitlines()
    assert lines[0].startswith("| bundle | batch |")
    assert lines[1].startswith("| :-- | --: |")
    assert lines[2].startswith("| a\\|b | 1 |")
    assert lines[3].startswith("| small\\_1 | 1 |")
    assert len({line.replace("\\|", "").count("|") for line in lines[:4]}) == 1
    assert f"- {NO_POWER}" in lines
    assert text.endswith("\n")
