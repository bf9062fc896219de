from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from edge_bench.power import NoPower, PowerReading, SampledMeter
from edge_bench.power_sources import find_power_meter
from edge_bench.rapl import rapl_sensor


def write_zones(root, **zones):
    """`zones`: `z0` or `z0_1` (intel-rapl:0:1) -> (name, microjoules)."""
    for key, (name, microjoules) in zones.items():
        folder = root / "sys/class/powercap" / ("intel-rapl:" + key[1:].replace("_", ":"))
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")
        (folder / "max_energy_range_uj").write_text("262143000000\n")
    return root / "sys/class/powercap"


def measure(root, change):
    """The reading of two seconds, during which `change` was called."""
    sensor = rapl_sensor(root, interval_s=60)
    if isinstance(sensor, NoPower):
        return sensor
    meter = SampledMeter(sensor, clock=iter([0.0, 2.0]).__next__)
    with meter:
        change()
    return meter.result()


def test_power_is_the_rise_of_the_packages_counters_and_of_nothing_inside_of_them(tmp_path):
    zones = write_zones(
        tmp_path, z0=("package-0", 1_000_000), z0_0=("core", 5), z0_1=("dram", 5),
        z1=("package-1", 0), z2=("psys", 7),
    )  # fmt: skip

    def change():
        (zones / "intel-rapl:0/energy_uj").write_text("41000000\n")  # 40 J
        (zones / "intel-rapl:1/energy_uj").write_text("10000000\n")  # 10 J
        (zones / "intel-rapl:0:1/energy_uj").write_text("9000000\n")

    found = measure(tmp_path, change)
    assert isinstance(found, PowerReading)
    assert (found.mean_w, found.peak_w) == (25.0, 25.0)
    assert found.rails_mean_w == {"package-0": 20.0, "package-1": 5.0}


def test_a_counter_that_starts_again_at_zero_has_risen_nevertheless(tmp_path):
    zones = write_zones(tmp_path, z0=("package-0", 262_140_000_000))
    found = measure(tmp_path, lambda: (zones / "intel-rapl:0/energy_uj").write_text("17000000\n"))
    # 3 J up to the range of the counter, and 17 J after it.
    assert found.mean_w == pytest.approx(10.0, rel=1e-9)


def test_a_package_that_stops_answering_is_no_power(tmp_path):
    zones = write_zones(tmp_path, z0=("package-0", 0), z1=("package-1", 0))
    found = measure(tmp_path, (zones / "intel-rapl:1/energy_uj").unlink)
    assert found == NoPower(
        "package-1, which the total needs, answered 1 of 2 times (No such file or directory)"
    )


@pytest.fixture
def as_a_user():
    """A folder below one that everybody may enter, and no rights of root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = os.geteuid() == 0

        @contextlib.contextmanager
        def without_rights():
            if root:
                os.seteuid(65534)
            try:
                yield
            finally:
                if root:
                    os.seteuid(0)

        yield Path(name), without_rights


def test_counters_that_only_root_can_read_are_no_power_and_say_so(as_a_user):
    root, without_rights = as_a_user
    zones = write_zones(root, z0=("package-0", 0), z1=("package-1", 0))
    (zones / "intel-rapl:1/energy_uj").chmod(0o400 if os.geteuid() == 0 else 0)
    with without_rights():
        found = rapl_sensor(root)
    assert found == NoPower(
        "only root can read /sys/class/powercap/intel-rapl:1/energy_uj; run this as root, or "
        "before it: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
    )


def test_a_counter_that_holds_no_number_is_named(tmp_path):
    zones = write_zones(tmp_path, z0=("package-0", 0))
    (zones / "intel-rapl:0/energy_uj").write_text("off\n")
    assert rapl_sensor(tmp_path) == NoPower(
        "/sys/class/powercap/intel-rapl:0/energy_uj cannot be read: not a number"
    )


def test_the_processors_are_measured_only_if_the_models_run_on_them(tmp_path):
    write_zones(tmp_path, z0=("package-0", 0))
    assert isinstance(find_power_meter(on_gpu=False, root=tmp_path), SampledMeter)
    (tmp_path / "empty").mkdir()
    found = find_power_meter(on_gpu=False, root=tmp_path / "empty")
    assert isinstance(found, NoPower)
    assert found.reason.startswith("no known sensor")
