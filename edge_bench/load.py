"""What else the machine did while models were timed: other programs, and its host.

The numbers come from /proc/stat and /proc/loadavg. What cannot be read is `None`, never guessed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
# If other programs leave less than this share of the cores that the runtime computes on, it had to
# share them.
ENOUGH = 0.9
# More than this share of the processor time went to other guests of the same host.
STOLEN = 0.02
# /proc/stat counts in hundredths of a second: a shorter measurement says little about shares.
SHORTEST_S = 0.5


@dataclass(frozen=True)
class LoadReading:
    """Counters at a moment, in seconds, summed over the cores that this process may use.

    `busy_s` is the time in which anything ran, `steal_s` that in which the host ran something else,
    and `own_s` the processor time of this process.
    """

    moment_s: float
    cores: int
    load_1min: float | None
    busy_s: float | None
    steal_s: float | None
    own_s: float


@dataclass(frozen=True)
class MachineLoad:
    """What happened beside a measurement of `seconds` on `cores` cores.

    Attributes:
        seconds: Duration of the measurement.
        cores: Number of cores that it could use.
        load_before: Load average over a minute when it began; None if it cannot be read.
        load_after: The same when it ended.
        others_s: Processor time of other programs in seconds, over all of these cores.
        steal_s: Processor time in seconds that the host gave to other guests.
    """

    seconds: float
    cores: int
    load_before: float | None
    load_after: float | None
    others_s: float | None
    steal_s: float | None

    @property
    def others_share(self) -> float | None:
        """Share of the processor time that other programs took, 0 to 1."""
        return self._share(self.others_s)

    @property
    def steal_share(self) -> float | None:
        """Share of the processor time that the host gave to other guests, 0 to 1."""
        return self._share(self.steal_s)

    def _share(self, seconds: float | None) -> float | None:
        if seconds is None or self.seconds <= 0:
            return None
        return min(seconds / (self.seconds * self.cores), 1.0)


def read_load(root: Path = ROOT) -> LoadReading:
    """Read the counters of this machine, or of the files under another root."""
    busy_s, steal_s, cores = _processor_times(root)
    spent = os.times()
    return LoadReading(
        moment_s=time.monotonic(),
        cores=cores,
        load_1min=_load_average(root),
        busy_s=busy_s,
        steal_s=steal_s,
        own_s=spent.user + spent.system,
    )


def load_between(before: LoadReading, after: LoadReading) -> MachineLoad:
    """What happened between two readings of the same process."""
    others_s = steal_s = None
    if before.busy_s is not None and after.busy_s is not None:
        own_s = after.own_s - before.own_s
        # The counters of the machine and of the process are rounded apart from each other.
        others_s = max(after.busy_s - before.busy_s - own_s, 0.0)
    if before.steal_s is not None and after.steal_s is not None:
        steal_s = max(after.steal_s - before.steal_s, 0.0)
    return MachineLoad(
        seconds=after.moment_s - before.moment_s,
        cores=after.cores,
        load_before=before.load_1min,
        load_after=after.load_1min,
        others_s=others_s,
        steal_s=steal_s,
    )


def load_over(loads: Sequence[MachineLoad]) -> MachineLoad:
    """The load over several measurements, one after the other."""

    def total(seconds: Sequence[float | None]) -> float | None:
        known = [value for value in seconds if value is not None]
        return sum(known) if len(known) == len(seconds) else None

    return MachineLoad(
        seconds=sum(load.seconds for load in loads),
        cores=loads[0].cores,
        load_before=loads[0].load_before,
        load_after=loads[-1].load_after,
        others_s=total([load.others_s for load in loads]),
        steal_s=total([load.steal_s for load in loads]),
    )


def why_busy(load: MachineLoad, threads: int) -> str | None:
    """Why times under this load are no ground for a verdict; `None` if nothing speaks against it.

    Args:
        load: What happened beside the measurement.
        threads: Number of cores that the runtime computes on.
    """
    if load.seconds < SHORTEST_S:
        return None
    if load.steal_share is not None and load.steal_share > STOLEN:
        return f"its host gave {load.steal_share:.0%} of the processor time to other guests"
    if load.others_s is not None:
        others = (load.others_s + (load.steal_s or 0.0)) / load.seconds
        wanted = min(threads, load.cores)
        if load.cores - others < ENOUGH * wanted:
            return (
                f"other programs took {others:.1f} of {load.cores} cores, and the models "
                f"compute on {wanted}"
            )
        return None
    if load.load_before is not None and load.load_before + threads > load.cores + 0.5:
        return f"the load was {load.load_before:.1f} on {load.cores} cores"
    return None


def _processor_times(root: Path) -> tuple[float | None, float | None, int]:
    """Busy and stolen seconds over the usable cores since boot, and the number of these cores."""
    usable = _usable()
    try:
        lines = (root / "proc/stat").read_text().splitlines()
        per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None, None, len(usable)
    busy = steal = 0.0
    found = 0
    for line in lines:
        name, *counts = line.split() or [""]
        if not (name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in usable):
            continue
        try:
            # user nice system idle iowait irq softirq steal; the guests' time is in user and nice.
            user, nice, system, _, _, irq, softirq, stolen = map(int, counts[:8])
        except ValueError:
            return None, None, len(usable)
        busy += (user + nice + system + irq + softirq) / per_second
        steal += stolen / per_second
        found += 1
    return (busy, steal, found) if found else (None, None, len(usable))


def _usable() -> set[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _load_average(root: Path) -> float | None:
    try:
        return float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
