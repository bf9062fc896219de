from __future__ import annotations

import contextlib
import time

import pytest

from edge_bench.power import (
    SampledMeter,
    energy_per_image,
    find_power_meter,
    find_rails,
    reading,
    sysfs_meter,
    total_rails,
)


def write_chip(root, chip, channels, name="ina3221"):
    """`channels`: number -> (label, mV, mA), in the kernel's hwmon format."""
    folder = root / "sys/class/hwmon" / chip
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    for number, (label, millivolts, milliamperes) in channels.items():
        (folder / f"in{number}_label").write_text(label + "\n")
        (folder / f"in{number}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{number}_input").write_text(f"{milliamperes}\n")
    return folder


ORIN_NANO = {
    1: ("VDD_IN", 5000, 1200),
    2: ("VDD_CPU_GPU_CV", 5000, 400),
    3: ("VDD_SOC", 5000, 300),
    7: ("sum of shunt voltages", 9000, 9000),
}


def test_a_rail_is_its_voltage_times_its_current(tmp_path):
    write_chip(tmp_path, "hwmon1", ORIN_NANO)
    watts = {rail.name: rail.watts() for rail in find_rails(tmp_path)}
    assert watts == {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.5}


def test_the_input_rail_is_the_total_and_is_not_added_to_its_parts(tmp_path):
    write_chip(tmp_path, "hwmon1", ORIN_NANO)
    meter = sysfs_meter(tmp_path, interval_s=0.001)
    assert meter is not None
    with meter:
        time.sleep(0.01)
    found = meter.result()
    assert found is not None
    assert found.mean_w == pytest.approx(6.0, rel=1e-12)
    assert found.peak_w == 6.0
    assert found.rails_in_total == ("VDD_IN",)
    assert found.rails_mean_w["VDD_SOC"] == pytest.approx(1.5, rel=1e-12)


def test_a_board_without_an_input_rail_is_the_sum_over_its_chips(tmp_path):
    write_chip(tmp_path, "hwmon3", {1: ("VDD_GPU_SOC", 20000, 300), 2: ("NC", 20000, 300)})
    write_chip(tmp_path, "hwmon4", {2: ("VIN_SYS_5V0", 5000, 800)})
    write_chip(tmp_path, "hwmon5", {1: ("fan", 5000, 800)}, name="pwmfan")
    meter = sysfs_meter(tmp_path, interval_s=0.001)
    assert meter is not None
    with meter:
        time.sleep(0.01)
    found = meter.result()
    assert found is not None
    assert found.mean_w == pytest.approx(10.0, rel=1e-12)


def test_older_jetsons_give_milliwatts_through_iio(tmp_path):
    folder = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    folder.mkdir(parents=True)
    for number, (label, milliwatts) in enumerate([("POM_5V_IN", 2500), ("POM_5V_GPU", 400)]):
        (folder / f"rail_name_{number}").write_text(label)
        (folder / f"in_power{number}_input").write_text(str(milliwatts))
    assert [(rail.name, rail.watts()) for rail in find_rails(tmp_path)] == [
        ("POM_5V_IN", 2.5),
        ("POM_5V_GPU", 0.4),
    ]
    assert total_rails(["POM_5V_GPU", "POM_5V_IN"]) == ("POM_5V_IN",)


def test_the_mean_weighs_samples_by_the_time_between_them():
    # 2 W for 9 s, then up to 4 W within 1 s: (18 + 3) / 10.
    found = reading([0.0, 9.0, 10.0], [{"a": 2.0}, {"a": 2.0}, {"a": 4.0}], "test")
    assert found is not None
    assert (found.mean_w, found.peak_w, found.sample_rate_hz) == (2.1, 4.0, 0.2)


def test_a_single_sample_is_no_reading():
    assert reading([1.0], [{"a": 2.0}], "test") is None
    assert reading([], [], "test") is None


def test_energy_is_power_times_time_shared_by_the_images():
    energy = energy_per_image(mean_w=6.0, duration_s=2.0, images=100, idle_w=4.5)
    assert (energy.gross_j_per_image, energy.net_j_per_image) == (0.12, 0.03)
    assert energy_per_image(6.0, 2.0, 100, None).net_j_per_image is None


def test_a_meter_starts_afresh_in_each_block():
    watts = iter([1.0, 1.0, 9.0, 9.0])
    clock = iter([0.0, 1.0, 2.0, 3.0])
    meter = SampledMeter(
        lambda: contextlib.nullcontext(lambda: {"a": next(watts)}), "test", 60.0, clock.__next__
    )
    found = []
    for _ in range(2):
        with meter:
            pass
        result = meter.result()
        assert result is not None
        found.append(result.mean_w)
    assert found == [1.0, 9.0]


def test_a_sensor_that_fails_once_misses_one_sample(tmp_path):
    folder = write_chip(tmp_path, "hwmon1", {1: ("VDD_IN", 5000, 1000)})
    meter = sysfs_meter(tmp_path, interval_s=60)
    assert meter is not None
    with meter:
        (folder / "in1_input").write_text("")
    assert meter.result() is None


def test_the_sensor_is_closed_and_the_thread_ended_after_the_block():
    events: list[str] = []

    def read():
        events.append("read")
        return {"a": 1.0}

    @contextlib.contextmanager
    def source():
        events.append("open")
        yield read
        events.append("closed")

    with SampledMeter(source, "test", 60.0):
        pass
    assert events == ["open", "read", "read", "closed"]


def test_a_machine_without_sensors_has_no_meter(tmp_path):
    assert sysfs_meter(tmp_path) is None
    assert find_power_meter(on_gpu=False, root=tmp_path) is None
