"""The sensors of Jetson boards as their kernels show them, in a compact form.

Values are of the size that each board shows under load, rounded so that totals can be computed by
hand: volts times amperes.
"""

from __future__ import annotations

from pathlib import Path

# Board -> hwmon folder -> (chip, its files). `label: (mV, mA)` is the next channel of an INA3221.
Channels = dict[str, tuple[int, int]]

JETSONS: dict[str, dict[str, Channels]] = {
    "orin_nano": {
        "hwmon1": {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 400), "VDD_SOC": (5000, 300)},
    },
    "orin_nx": {
        "hwmon4": {"VDD_IN": (4800, 2500), "VDD_CPU_GPU_CV": (4800, 1250), "VDD_SOC": (4800, 500)},
    },
    "xavier_nx": {
        "hwmon6": {"VDD_IN": (5000, 2000), "VDD_CPU_GPU_CV": (5000, 900), "VDD_SOC": (5000, 400)},
    },
    "agx_orin": {
        "hwmon3": {
            "VDD_GPU_SOC": (20000, 500),
            "VDD_CPU_CV": (20000, 200),
            "VIN_SYS_5V0": (5000, 1000),
        },
        "hwmon4": {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 220), "NC ": (0, 0)},
    },
    "agx_xavier": {
        "hwmon1": {"GPU": (20000, 300), "CPU": (20000, 100), "SOC": (20000, 100)},
        "hwmon2": {"CV": (20000, 50), "VDDRQ": (20000, 50), "SYS5V": (5000, 600)},
    },
    "thor": {
        "hwmon2": {
            "VDD_GPU": (12000, 500),
            "VDD_CPU_SOC_MSS": (12000, 500),
            "VIN_SYS_5V0": (5000, 1300),
        },
        "hwmon3": {"VIN": (20000, 1550)},
    },
}

TOTALS_W = {
    "orin_nano": 6.0,
    "orin_nx": 12.0,
    "xavier_nx": 10.0,
    "agx_orin": 19.0,  # 10 + 4 + 5, without the 1.1 W that VIN_SYS_5V0 includes
    "agx_xavier": 15.0,  # 6 + 2 + 2 + 1 + 1 + 3
    "thor": 31.0,  # its other rails add up to 18.5
}


def write_jetson(root: Path, board: str) -> Path:
    """Write the sensors of a board below `root`; return `root`."""
    for folder, channels in JETSONS[board].items():
        write_chip(root, folder, channels)
    return root


def write_chip(root: Path, folder: str, channels: Channels, chip: str = "ina3221") -> Path:
    """One chip in hwmon; the single channel of `VIN` is an INA238, labelled as a whole."""
    path = root / "sys/class/hwmon" / folder
    path.mkdir(parents=True)
    if list(channels) == ["VIN"]:
        ((millivolts, milliamperes),) = channels.values()
        files = {
            "name": "ina238", "label": "VIN", "in0_input": 3, "in1_input": millivolts,
            "curr1_input": milliamperes, "power1_input": millivolts * milliamperes,
        }  # fmt: skip
    else:
        files = {"name": chip, "in7_label": "sum of shunt voltages", "in7_input": 9000}
        for number, (label, (millivolts, milliamperes)) in enumerate(channels.items(), start=1):
            files[f"in{number}_label"] = label
            files[f"in{number}_input"] = millivolts
            files[f"curr{number}_input"] = milliamperes
            files[f"in{number + 3}_input"] = 40
    for name, value in files.items():
        (path / name).write_text(f"{value}\n")
    return path
