from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from edge_bench.device import describe_device, read_state, throttled


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def orin(tmp_path):
    """The files of a Jetson Orin Nano under L4T 36.4.3, as its kernel writes them."""
    cpu, thermal = "sys/devices/system/cpu/cpu0/cpufreq", "sys/class/thermal"
    return write(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference\0",
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n",
            "proc/meminfo": "MemTotal:        7802996 kB\nMemFree: 1 kB\n",
            "proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN >\n",
            "var/lib/nvpmodel/status": "pmode:0002",
            "usr/local/cuda/version.json": '{"cuda": {"name": "SDK", "version": "12.6.68"}}',
            f"{cpu}/scaling_cur_freq": "1510400\n",
            f"{cpu}/scaling_min_freq": "729600\n",
            f"{cpu}/scaling_max_freq": "1510400\n",
            "sys/class/devfreq/17000000.gpu/cur_freq": "624750000\n",
            f"{thermal}/thermal_zone0/type": "cpu-thermal\n",
            f"{thermal}/thermal_zone0/temp": "48562\n",
            f"{thermal}/thermal_zone2/type": "cv0-thermal\n",
            f"{thermal}/thermal_zone2/temp": "-256000\n",
            f"{thermal}/cooling_device0/type": "cpu-throttle-alert\n",
            f"{thermal}/cooling_device0/cur_state": "0\n",
            "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
            "sys/class/hwmon/hwmon3/oc3_event_cnt": "4\n",
        },
    )


def test_a_jetson_is_described_by_its_own_files(orin):
    device = describe_device(orin, ask_gpu=lambda: "Orin (nvgpu)")
    assert device.model == "NVIDIA Jetson Orin Nano Engineering Reference"
    assert (device.l4t, device.jetpack, device.cuda) == ("36.4.3", "6.2", "12.6.68")
    assert device.nvpmodel == "2 (MAXN)"
    assert device.memory_bytes == 7802996 * 1024
    assert (device.cpu, device.gpu) == ("ARMv8 Processor rev 1 (v8l)", "Orin (nvgpu)")


def test_clocks_and_temperatures_are_in_megahertz_and_degrees(orin):
    state = read_state(orin)
    assert state.cpu_clocks_mhz == {"cpu0": 1510.4}
    assert state.devfreq_clocks_mhz == {"17000000.gpu": 624.75}
    # The zone of the powered-down CV block says -256 degrees and is left out.
    assert state.temperatures_c == {"cpu-thermal": 48.562}
    assert state.load_1min == 0.52


def test_clocks_are_locked_when_their_limits_are_the_same(orin):
    assert read_state(orin).clocks_locked is False
    write(orin, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "1510400"})
    assert read_state(orin).clocks_locked is True


GPU = "sys/class/devfreq/17000000.gpu"


@pytest.mark.parametrize(
    ("files", "locked"),
    [
        ({f"{GPU}/min_freq": "306000000", f"{GPU}/max_freq": "624750000"}, False),
        ({f"{GPU}/min_freq": "624750000", f"{GPU}/max_freq": "624750000"}, True),
        (
            {
                f"{GPU}/min_freq": "306000000",
                f"{GPU}/max_freq": "624750000",
                f"{GPU}/governor": "performance",
            },
            True,
        ),
        ({"sys/class/devfreq/15340000.vic/min_freq": "1",
          "sys/class/devfreq/15340000.vic/max_freq": "1"}, None),
    ],
)  # fmt: skip
def test_the_clocks_of_the_gpu_are_locked_by_themselves(orin, files, locked):
    state = read_state(write(orin, files))
    assert (state.gpu_clocks_locked, state.clocks_locked) == (locked, False)


def test_of_several_gpus_each_must_be_locked(tmp_path):
    write(tmp_path, {f"sys/class/devfreq/gpu-{part}-0/{end}_freq": "1575000000"
                     for part in ("gpc", "nvd") for end in ("min", "max")})  # fmt: skip
    assert read_state(tmp_path).gpu_clocks_locked is True
    write(tmp_path, {"sys/class/devfreq/gpu-nvd-0/min_freq": "315000000",
                     "sys/class/devfreq/gpu-nvd-0/governor": "nvhost_podgov"})  # fmt: skip
    state = read_state(tmp_path)
    assert state.gpu_clocks_locked is False
    assert state.devfreq_governors == {"gpu-nvd-0": "nvhost_podgov"}


@pytest.mark.parametrize(
    ("line", "l4t", "jetpack"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 33958178", "35.4.1", "5.1.2"),
        ("# R35 (release), REVISION: 6.4, GCID: 1", "35.6.4", "5.1.6"),
        ("# R36 (release), REVISION: 3.0, GCID: 36191598", "36.3.0", "6.0"),
        ("# R36 (release), REVISION: 4.7, GCID: 1", "36.4.7", "6.2.1"),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "38.2.0", "7.0"),
        ("# R39 (release), REVISION: 2.0, GCID: 1", "39.2.0", "7.2"),
        ("# R40 (release), REVISION: 0.0, GCID: 1", "40.0.0", None),
    ],
)
def test_an_l4t_release_has_the_name_of_its_jetpack_if_that_is_known(tmp_path, line, l4t, jetpack):
    device = describe_device(write(tmp_path, {"etc/nv_tegra_release": line}), ask_gpu=lambda: None)
    assert (device.l4t, device.jetpack) == (l4t, jetpack)


def test_only_new_over_current_events_mean_throttling(orin):
    start = read_state(orin)
    assert throttled(start, read_state(orin)) is False
    write(orin, {"sys/class/hwmon/hwmon3/oc3_event_cnt": "5"})
    assert throttled(start, read_state(orin)) is True


def test_a_thermal_alert_means_throttling(orin):
    start = read_state(orin)
    write(orin, {"sys/class/thermal/cooling_device0/cur_state": "1"})
    assert throttled(start, read_state(orin)) is True


def test_what_a_machine_does_not_tell_stays_unknown(tmp_path):
    device, state = describe_device(tmp_path, ask_gpu=lambda: None), read_state(tmp_path)
    assert (device.l4t, device.jetpack, device.nvpmodel, device.gpu) == (None,) * 4
    assert (state.clocks_locked, state.throttle_events, state.load_1min) == (None,) * 3
    assert throttled(state, state) is None


def test_an_unreadable_sensor_is_left_out(orin):
    write(orin, {"sys/class/thermal/thermal_zone0/temp": "not a number"})
    assert read_state(orin).temperatures_c == {}


def test_this_machine_can_be_described():
    device = describe_device()
    assert (device.machine, device.python) == (platform.machine(), platform.python_version())
    assert 1 <= device.usable_cores <= device.logical_cores == os.cpu_count()
    assert "onnxruntime" in device.packages
