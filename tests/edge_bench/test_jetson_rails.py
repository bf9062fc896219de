from __future__ import annotations

import itertools

import pytest
from jetsons import JETSONS, TOTALS_W, write_chip, write_jetson

from edge_bench.jetson_rails import find_rails, rails_sensor, total_rails
from edge_bench.power import NoPower, PowerReading, SampledMeter
from edge_bench.power_sources import find_power_meter


def measure(root):
    """The reading of one block; the clock ticks once a second."""
    sensor = rails_sensor(find_rails(root), interval_s=60)
    if isinstance(sensor, NoPower):
        return sensor
    meter = SampledMeter(sensor, clock=itertools.count().__next__)
    with meter:
        pass
    return meter.result()


@pytest.mark.parametrize("board", JETSONS)
def test_the_power_of_a_board_is_what_its_input_carries_each_part_counted_once(tmp_path, board):
    found = measure(write_jetson(tmp_path, board))
    assert isinstance(found, PowerReading)
    assert (found.mean_w, found.peak_w) == (TOTALS_W[board], TOTALS_W[board])
    assert found.rails_left_out == ()


@pytest.mark.parametrize("board", JETSONS)
def test_every_rail_is_reported_by_itself(tmp_path, board):
    found = measure(write_jetson(tmp_path, board))
    expected = {
        name: millivolts * milliamperes / 1e6
        for channels in JETSONS[board].values()
        for name, (millivolts, milliamperes) in channels.items()
        if name.strip() != "NC"
    }
    assert found.rails_mean_w == expected


@pytest.mark.parametrize(
    "files",
    [
        {"in1_label": "VIN"},
        {"label": "VIN"},
        {"../../../../proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0"},
    ],
    ids=["label of the channel", "label of the chip", "no label"],
)
@pytest.mark.parametrize("power", [True, False], ids=["power", "voltage and current"])
def test_the_input_of_thor_is_found_by_each_of_its_labels(tmp_path, files, power):
    chip = write_jetson(tmp_path, "thor") / "sys/class/hwmon/hwmon3"
    (chip / "label").unlink()
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    for name, text in files.items():
        (chip / name).write_text(text)
    if not power:
        (chip / "power1_input").unlink()
    found = measure(tmp_path)
    assert isinstance(found, PowerReading)
    assert (found.mean_w, found.rails_in_total) == (31.0, ("VIN",))


def test_an_ina238_of_which_nothing_says_what_it_measures_is_no_rail(tmp_path):
    chip = write_chip(tmp_path, "hwmon0", {"VIN": (12000, 1000)})
    (chip / "label").unlink()
    assert find_rails(tmp_path) == ()


def test_a_rail_is_its_voltage_times_its_current(tmp_path):
    write_jetson(tmp_path, "orin_nano")
    watts = {rail.name: rail.watts() for rail in find_rails(tmp_path)}
    assert watts == {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.5}


def test_chips_of_another_kind_are_no_rails(tmp_path):
    write_chip(tmp_path, "hwmon5", {"fan": (5000, 800)}, chip="pwmfan")
    assert find_rails(tmp_path) == ()


def test_older_jetsons_give_milliwatts_through_iio(tmp_path):
    folder = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    folder.mkdir(parents=True)
    for number, (label, milliwatts) in enumerate([("POM_5V_GPU", 400), ("POM_5V_IN", 2500)]):
        (folder / f"rail_name_{number}").write_text(label)
        (folder / f"in_power{number}_input").write_text(str(milliwatts))
    found = measure(tmp_path)
    assert (found.mean_w, found.rails_in_total) == (2.5, ("POM_5V_IN",))


@pytest.mark.parametrize(
    ("board", "file", "rail"),
    [
        ("orin_nano", "hwmon1/in3_input", "VDD_SOC"),
        ("agx_orin", "hwmon4/curr2_input", "VDDQ_VDD2_1V8AO"),
        ("thor", "hwmon2/curr1_input", "VDD_GPU"),
    ],
)
def test_a_rail_beside_the_total_that_does_not_answer_is_named_and_changes_nothing_else(
    tmp_path, board, file, rail
):
    write_jetson(tmp_path, board)
    (tmp_path / "sys/class/hwmon" / file).unlink()
    found = measure(tmp_path)
    assert isinstance(found, PowerReading)
    assert (found.mean_w, found.rails_left_out) == (TOTALS_W[board], (rail,))
    assert rail not in found.rails_mean_w


@pytest.mark.parametrize(
    ("board", "file", "rail"),
    [
        ("orin_nx", "hwmon4/in1_input", "VDD_IN"),
        ("agx_orin", "hwmon3/curr2_input", "VDD_CPU_CV"),
        ("agx_xavier", "hwmon2/in3_input", "SYS5V"),
        ("thor", "hwmon3/power1_input", "VIN"),
    ],
)
def test_without_a_part_of_the_total_there_is_no_power_rather_than_a_partial_sum(
    tmp_path, board, file, rail
):
    write_jetson(tmp_path, board)
    (tmp_path / "sys/class/hwmon" / file).write_text("")
    assert measure(tmp_path) == NoPower(
        f"{rail}, which the total needs, answered 0 of 2 times (not a number)"
    )


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"], "VIN, which is the total, is missing"),
        (["VDD_CPU_GPU_CV", "VDD_SOC"], "VDD_IN, which is the total, is missing"),
        (["VDD_GPU_SOC", "VIN_SYS_5V0"], "of the rails of the total, VDD_CPU_CV is missing"),
        (["GPU", "CPU", "SOC"], "of the rails of the total, CV is missing"),
        (["VDD_A", "VDD_B"], "it is not known which of these rails are the total: VDD_A, VDD_B"),
    ],
)
def test_rails_that_lack_the_total_say_what_is_missing(names, reason):
    found = total_rails(names)
    assert isinstance(found, NoPower)
    assert found.reason.startswith(reason)


def test_a_board_without_its_input_rail_has_no_meter_but_a_reason(tmp_path):
    write_chip(tmp_path, "hwmon2", JETSONS["thor"]["hwmon2"])
    found = find_power_meter(on_gpu=True, root=tmp_path)
    assert isinstance(found, NoPower)
    assert found.reason == (
        "VIN, which is the total, is missing; found only VDD_GPU, VDD_CPU_SOC_MSS, VIN_SYS_5V0"
    )
