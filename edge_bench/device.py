"""What the machine is, and the state it is in, read from /proc, /sys and /etc; nothing is set.

Every function takes the root folder, so that the files of another machine can be read instead.
What cannot be read is `None` or absent, never guessed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/")
CPUS = "sys/devices/system/cpu"
DEVFREQ = "sys/class/devfreq"

# From L4T release to the JetPack that ships it.
JETPACK = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "35.6.3": "5.1.5",
    "35.6.4": "5.1.6",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}

# The devices under devfreq that are a GPU: the integrated ones by their chips, Thor's two by role.
GPU_DEVFREQ = re.compile(r"gpu|gm20b|gp10b|gv11b|ga10b|gb10b")

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt")


@dataclass(frozen=True)
class DeviceDescription:
    """What does not change during a run."""

    machine: str
    model: str | None
    cpu: str | None
    logical_cores: int
    physical_cores: int | None
    usable_cores: int
    memory_bytes: int | None
    os: str
    python: str
    packages: dict[str, str]
    gpu: str | None
    cuda: str | None
    l4t: str | None
    jetpack: str | None
    nvpmodel: str | None


@dataclass(frozen=True)
class DeviceState:
    """What may change during a run; read at its start and at its end.

    `clocks_locked` says that the lowest and the highest allowed clock of each CPU are the same;
    `gpu_clocks_locked` says it of each GPU in devfreq, or that its governor is `performance`, which
    always asks for the highest. `throttle_events` counts since boot, so only its increase means
    something.
    """

    load_1min: float | None
    temperatures_c: dict[str, float]
    cpu_clocks_mhz: dict[str, float]
    devfreq_clocks_mhz: dict[str, float]
    clocks_locked: bool | None
    throttle_alerts: tuple[str, ...] | None
    throttle_events: int | None
    gpu_clocks_locked: bool | None = None
    devfreq_governors: dict[str, str] = field(default_factory=dict)


def describe_device(
    root: Path = ROOT, ask_gpu: Callable[[], str | None] | None = None
) -> DeviceDescription:
    """Read what the machine is; `ask_gpu` names its GPU (default: nvidia-smi)."""
    l4t = _l4t_release(root)
    return DeviceDescription(
        machine=platform.machine(),
        model=_read(root / "proc/device-tree/model")
        or _read(root / "sys/class/dmi/id/product_name"),
        cpu=_cpu_model(root),
        logical_cores=os.cpu_count() or 1,
        physical_cores=_physical_cores(),
        usable_cores=_usable_cores(),
        memory_bytes=_memory_bytes(root),
        os=_os_name(root),
        python=platform.python_version(),
        packages=_package_versions(),
        gpu=(ask_gpu or ask_nvidia_smi)(),
        cuda=_cuda_version(root),
        l4t=l4t,
        jetpack=JETPACK.get(l4t) if l4t else None,
        nvpmodel=_nvpmodel(root),
    )


def read_state(root: Path = ROOT) -> DeviceState:
    """Read the current clocks, temperatures, load and throttling."""
    return DeviceState(
        load_1min=_load(root),
        temperatures_c=_temperatures(root),
        cpu_clocks_mhz=_clocks(root, CPUS, "cpu*/cpufreq/scaling_cur_freq", 1e3),
        devfreq_clocks_mhz=_clocks(root, DEVFREQ, "*/cur_freq", 1e6),
        clocks_locked=_clocks_locked(root),
        throttle_alerts=_throttle_alerts(root),
        throttle_events=_throttle_events(root),
        gpu_clocks_locked=_gpu_clocks_locked(root),
        devfreq_governors=_governors(root),
    )


def throttled(start: DeviceState, end: DeviceState) -> bool | None:
    """Whether the machine throttled between two states; `None` if it does not say."""
    signs: list[bool] = []
    for state in (start, end):
        if state.throttle_alerts is not None:
            signs.append(bool(state.throttle_alerts))
    if start.throttle_events is not None and end.throttle_events is not None:
        signs.append(end.throttle_events > start.throttle_events)
    return any(signs) if signs else None


def ask_nvidia_smi() -> str | None:
    """The GPUs that nvidia-smi lists, or `None` without it or without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ", ".join(line.strip() for line in answer.stdout.splitlines() if line.strip()) or None


def _read(path: Path) -> str | None:
    """The stripped text of a file; device-tree strings end in a NUL."""
    try:
        return path.read_text(errors="replace").strip().strip("\0") or None
    except OSError:
        # Sensors that are powered down answer with an I/O error.
        return None


def _read_number(path: Path) -> float | None:
    text = _read(path)
    try:
        return float(text.split()[0]) if text else None
    except ValueError:
        return None


def _cpu_model(root: Path) -> str | None:
    text = _read(root / "proc/cpuinfo") or ""
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or None


def _usable_cores() -> int:
    """Cores that this process may use, which a container or taskset can restrict."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical_cores() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return psutil.cpu_count(logical=False)


def _memory_bytes(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _os_name(root: Path) -> str:
    found = re.search(
        r'^PRETTY_NAME="?([^"\n]+)', _read(root / "etc/os-release") or "", re.MULTILINE
    )
    name = found.group(1) if found else platform.system()
    return f"{name}, {platform.system()} {platform.release()}"


def _package_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cuda_version(root: Path) -> str | None:
    text = _read(root / "usr/local/cuda/version.json") or ""
    found = re.search(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([^"]+)"', text)
    return found.group(1) if found else None


def _l4t_release(root: Path) -> str | None:
    """`# R36 (release), REVISION: 4.3, ...` is release 36.4.3."""
    text = _read(root / "etc/nv_tegra_release") or ""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found.group(1)}.{found.group(2)}" if found else None


def _nvpmodel(root: Path) -> str | None:
    """The power mode: `pmode:0002` in the status file, its name from the configuration."""
    status = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    mode = int(status.group(1))
    table = _read(root / "etc/nvpmodel.conf") or ""
    name = re.search(rf"<\s*POWER_MODEL\s+ID={mode}\s+NAME=(\S+)\s*>", table)
    return f"{mode} ({name.group(1)})" if name else str(mode)


def _load(root: Path) -> float | None:
    return _read_number(root / "proc/loadavg")


def _temperatures(root: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        millidegrees = _read_number(zone / "temp")
        # Zones of a powered-down block report -256 degrees.
        if millidegrees is not None and millidegrees > -100_000:
            name = _read(zone / "type") or zone.name
            found[name if name not in found else f"{name} ({zone.name})"] = millidegrees / 1000
    return found


def _clocks(root: Path, folder: str, pattern: str, per_mhz: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for path in sorted((root / folder).glob(pattern)):
        value = _read_number(path)
        if value is not None:
            found[path.relative_to(root / folder).parts[0]] = value / per_mhz
    return found


def _clocks_locked(root: Path) -> bool | None:
    low = _clocks(root, CPUS, "cpu*/cpufreq/scaling_min_freq", 1e3)
    high = _clocks(root, CPUS, "cpu*/cpufreq/scaling_max_freq", 1e3)
    return low == high if low and high else None


def _governors(root: Path) -> dict[str, str]:
    paths = sorted((root / DEVFREQ).glob("*/governor"))
    return {path.parent.name: text for path in paths if (text := _read(path))}


def _gpu_clocks_locked(root: Path) -> bool | None:
    governors = _governors(root)
    low = _clocks(root, DEVFREQ, "*/min_freq", 1e6)
    high = _clocks(root, DEVFREQ, "*/max_freq", 1e6)
    gpus = [name for name in low if name in high and GPU_DEVFREQ.search(name)]
    if not gpus:
        return None
    return all(low[gpu] == high[gpu] or governors.get(gpu) == "performance" for gpu in gpus)


def _throttle_alerts(root: Path) -> tuple[str, ...] | None:
    """The active `*-throttle-alert` cooling devices of a Jetson."""
    known, active = False, []
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = _read(device / "type") or ""
        if "throttle-alert" in kind:
            known = True
            if _read_number(device / "cur_state"):
                active.append(kind)
    return tuple(active) if known else None


def _throttle_events(root: Path) -> int | None:
    """Over-current events of a Jetson, and thermal events of x86 cores, since boot."""
    paths = [
        *(root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"),
        *(root / CPUS).glob("cpu*/thermal_throttle/core_throttle_count"),
    ]
    counts = [count for path in paths if (count := _read_number(path)) is not None]
    return int(sum(counts)) if counts else None
