"""The energy counters of x86 processors, which Linux shows in powercap: one for each package."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from edge_bench.power import NoPower, Sensor, why

FOLDER = "sys/class/powercap"


def rapl_sensor(root: Path, interval_s: float = 0.1) -> Sensor | NoPower:
    """A sensor of all packages, or why there is none.

    Zones inside of a package (core, dram) are left out, and so are those of another kind (psys, and
    intel-rapl-mmio, which shows the same packages again).
    """
    zones: dict[str, Path] = {}
    for folder in sorted((root / FOLDER).glob("intel-rapl:*")):
        if re.fullmatch(r"intel-rapl:\d+", folder.name):
            with contextlib.suppress(OSError):
                name = (folder / "name").read_text().strip()
                if name.startswith("package"):
                    zones[name] = folder
    if not zones:
        return NoPower(
            "no known sensor; there are neither INA3221 or INA238 rails in /sys/class/hwmon "
            f"nor packages in /{FOLDER}"
        )
    wraps_j: dict[str, float] = {}
    for name, folder in zones.items():
        for path in (folder / "energy_uj", folder / "max_energy_range_uj"):
            try:
                wraps_j[name] = _joules(path)
            except PermissionError:
                return NoPower(
                    f"only root can read /{path.relative_to(root)}; run this as root, or before "
                    f"it: sudo chmod a+r /{FOLDER}/intel-rapl:*/{path.name}"
                )
            except (OSError, ValueError) as error:
                return NoPower(f"/{path.relative_to(root)} cannot be read: {why(error)}")
    errors: dict[str, str] = {}

    def read() -> dict[str, float]:
        joules = {}
        for name, folder in zones.items():
            try:
                joules[name] = _joules(folder / "energy_uj")
            except (OSError, ValueError) as error:
                errors[name] = why(error)
        return joules

    return Sensor(
        source=lambda: contextlib.nullcontext(read),
        method="rapl, processor packages only",
        in_total=tuple(zones),
        interval_s=interval_s,
        wraps_j=wraps_j,
        errors=errors,
    )


def _joules(path: Path) -> float:
    return int(path.read_text()) / 1e6
