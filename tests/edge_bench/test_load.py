from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edge_bench.load import MachineLoad, load_between, load_over, read_load, why_busy

CORE = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
HZ = os.sysconf("SC_CLK_TCK")
QUIET = MachineLoad(10.0, 4, 0.1, 0.2, others_s=1.0, steal_s=0.0)


def machine(root: Path, stat: str, load: str = "0.50 0.4 0.3 1/2 3\n") -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/stat").write_text(stat)
    (root / "proc/loadavg").write_text(load)
    return root


def core(*seconds: float, number: int = CORE) -> str:
    """A line of /proc/stat: user nice system idle iowait irq softirq steal, in seconds."""
    return f"cpu{number} {' '.join(str(int(s * HZ)) for s in seconds)} 0 0\n"


def test_idle_and_waiting_are_not_busy_and_steal_is_apart(tmp_path):
    stat = "cpu  9 9 9 9 9 9 9 9 0 0\n" + core(1, 2, 3, 100, 50, 4, 5, 6)
    reading = read_load(machine(tmp_path, stat))
    # 1 + 2 + 3 + 4 + 5, of the one core that is listed; the sum in the first line is not used.
    assert (reading.busy_s, reading.steal_s, reading.cores) == (15, 6, 1)
    assert reading.load_1min == 0.5


def test_cores_that_this_process_may_not_use_do_not_count(tmp_path):
    stat = core(1, 0, 0, 0, 0, 0, 0, 0) + core(9, 9, 9, 9, 9, 9, 9, 9, number=4095)
    assert read_load(machine(tmp_path, stat)).busy_s == 1


@pytest.mark.parametrize("stat", ["", "cpu0 a b c\n", f"cpu{CORE} 1 2\n", "intr 5\n"])
def test_counters_that_cannot_be_read_are_unknown(tmp_path, stat):
    reading = read_load(machine(tmp_path, stat, load=""))
    assert (reading.busy_s, reading.steal_s, reading.load_1min) == (None, None, None)
    assert read_load(tmp_path / "nowhere").busy_s is None
    load = load_between(reading, reading)
    assert (load.others_s, load.others_share, load.steal_share) == (None, None, None)


def test_what_this_process_did_is_not_of_others():
    before = read_load()
    before = replace(before, cores=2, busy_s=100.0, steal_s=1.0, moment_s=0.0, own_s=5.0)
    after = replace(before, busy_s=114.0, steal_s=2.0, moment_s=10.0, own_s=13.0)
    load = load_between(before, after)
    # 14 s busy, 8 of them ours; 10 s on two cores are 20.
    assert (load.others_s, load.others_share) == (6, 0.3)
    assert (load.steal_s, load.steal_share) == (1, 0.05)
    # Counters are rounded apart from each other: ours may be a tick ahead.
    assert load_between(before, replace(after, own_s=99.0)).others_s == 0


def test_loads_of_several_measurements_add_up():
    later = replace(QUIET, seconds=30.0, others_s=3.0, load_after=2.0)
    load = load_over([QUIET, later])
    assert (load.seconds, load.others_s, load.load_before, load.load_after) == (40, 4, 0.1, 2)
    assert load_over([QUIET, replace(later, others_s=None)]).others_s is None


@pytest.mark.parametrize(
    ("change", "threads", "reason"),
    [
        ({}, 1, None),
        ({"others_s": 30.0}, 1, None),  # three of four cores: one is left
        ({"others_s": 32.0}, 1, "other programs took 3.2 of 4 cores"),
        ({"others_s": 30.0}, 2, "the models compute on 2"),
        ({"others_s": 3.0}, 4, None),
        ({"others_s": 5.0}, 4, "other programs took 0.5 of 4 cores"),
        ({"others_s": 5.0}, 16, "the models compute on 4"),
        ({"steal_s": 0.7}, 1, None),
        ({"steal_s": 0.9}, 1, "2% of the processor time to other guests"),
        ({"seconds": 0.1, "others_s": 0.4}, 4, None),  # too short to tell
        ({"others_s": None, "steal_s": None}, 1, None),
        ({"others_s": None, "steal_s": None, "load_before": 4.0}, 1, "the load was 4.0 on 4"),
    ],
)
def test_a_machine_is_busy_if_others_take_the_cores_that_the_models_need(change, threads, reason):
    found = why_busy(replace(QUIET, **change), threads)
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system has no /proc/stat")
def test_a_program_beside_this_one_is_seen():
    before = read_load()
    spin = "import time\nwhile time.process_time() < 1: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    load = load_between(before, read_load())
    assert load.others_s is not None
    # It takes a second of a core; the counters are exact to a few ticks.
    assert load.others_s > 0.9


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system has no /proc/stat")
def test_what_this_process_does_itself_is_subtracted():
    before, spent = read_load(), time.process_time()
    while time.process_time() - spent < 0.5:
        pass
    after = read_load()
    assert after.busy_s is not None
    assert before.busy_s is not None
    load = load_between(before, after)
    assert load.others_s is not None
    assert load.others_s < after.busy_s - before.busy_s - 0.4
