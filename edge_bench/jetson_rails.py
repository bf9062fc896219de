"""The power sensors of a Jetson: INA3221 and INA238 channels in sysfs, and what they measure."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_bench.power import NoPower, Sensor, why

# The rails that add up to all that is drawn, by family of boards. Others are inside of these:
# NVIDIA's developer guide states that VIN_SYS_5V0 includes VDDQ_VDD2_1V8AO, for example.
TOTALS = (
    ("VIN",),  # Thor: the input of the carrier board, measured by an INA238
    ("VDD_IN",),  # Orin Nano, Orin NX, Xavier NX, TX2, TX1
    ("POM_5V_IN",),  # Nano
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)

# Rails that are measured on boards of which another rail is the total.
PARTS_OF = {"VDD_CPU_SOC_MSS": "VIN", "VDD_CPU_GPU_CV": "VDD_IN", "POM_5V_CPU": "POM_5V_IN"}

# How an hwmon channel of each chip is numbered; the others are shunt voltages and their sum.
CHANNELS = {"ina3221": ("1", "2", "3"), "ina238": ("1",)}


@dataclass(frozen=True)
class Rail:
    """The files of one channel: its power, or voltage in mV and current in mA."""

    name: str
    power: Path | None
    per_watt: float = 1e3
    millivolts: Path | None = None
    milliamperes: Path | None = None

    def watts(self) -> float:
        """The power at this moment.

        Raises:
            OSError: The sensor does not answer.
            ValueError: What it answers is no number.
        """
        if self.power is not None:
            return int(self.power.read_text()) / self.per_watt
        assert self.millivolts is not None
        assert self.milliamperes is not None
        return int(self.millivolts.read_text()) * int(self.milliamperes.read_text()) / 1e6


def find_rails(root: Path) -> tuple[Rail, ...]:
    """The channels in hwmon (L4T 34 and later, mainline), or else in iio (L4T 32)."""
    return _hwmon_rails(root) or _iio_rails(root)


def rails_sensor(rails: Sequence[Rail], interval_s: float = 0.02) -> Sensor | NoPower:
    """A sensor of these rails, or why their total is not known."""
    in_total = total_rails([rail.name for rail in rails])
    if isinstance(in_total, NoPower):
        return in_total
    errors: dict[str, str] = {}

    def read() -> dict[str, float]:
        watts = {}
        for rail in rails:
            try:
                watts[rail.name] = rail.watts()
            except (OSError, ValueError) as error:
                errors[rail.name] = why(error)
        return watts

    return Sensor(
        source=lambda: contextlib.nullcontext(read),
        method="sysfs",
        in_total=in_total,
        interval_s=interval_s,
        others=tuple(rail.name for rail in rails if rail.name not in in_total),
        errors=errors,
    )


def total_rails(names: Sequence[str]) -> tuple[str, ...] | NoPower:
    """The rails that add up to the total, or which one is missing."""
    for total in TOTALS:
        if set(total) <= set(names):
            return total
    listed = ", ".join(names)
    for total in TOTALS:
        if found := [name for name in total if name in names and len(total) > 1]:
            missing = next(name for name in total if name not in found)
            # VIN_SYS_5V0 is on other boards too, where it says nothing about the total.
            if found != ["VIN_SYS_5V0"]:
                return NoPower(f"of the rails of the total, {missing} is missing; found {listed}")
    for part, whole in PARTS_OF.items():
        if part in names:
            return NoPower(f"{whole}, which is the total, is missing; found only {listed}")
    return NoPower(f"it is not known which of these rails are the total: {listed}")


def _hwmon_rails(root: Path) -> tuple[Rail, ...]:
    rails: list[Rail] = []
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        kind = _text(chip / "name")
        for number in CHANNELS.get(kind, ()):
            name = _text(chip / f"in{number}_label")
            if not name and kind == "ina238":  # the label of its only channel is the chip's
                name = _text(chip / "label") or ("VIN" if _is_thor(root) else "")
            if name in {"", "NC"} or name in {rail.name for rail in rails}:
                continue
            power = chip / f"power{number}_input"
            if power.exists():
                rails.append(Rail(name, power, 1e6))
            else:
                volts, amperes = chip / f"in{number}_input", chip / f"curr{number}_input"
                rails.append(Rail(name, None, millivolts=volts, milliamperes=amperes))
    return tuple(rails)


def _is_thor(root: Path) -> bool:
    """Whether this is a Thor, whose only INA238 is at the input."""
    return "Thor" in _text(root / "proc/device-tree/model")


def _iio_rails(root: Path) -> tuple[Rail, ...]:
    rails: list[Rail] = []
    for label in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/rail_name_*")):
        number = label.name.removeprefix("rail_name_")
        name = _text(label)
        if name not in {"", "NC"} and name not in {rail.name for rail in rails}:
            rails.append(Rail(name, label.parent / f"in_power{number}_input"))
    return tuple(rails)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return ""
