"""Power while something runs: the board's own sensors, sampled by a thread.

There are three sources, and the first one that answers is used: INA3221 rails in sysfs (Jetson),
`jtop` if its service runs, and NVML on other NVIDIA GPUs. Without a source, power is `None`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Self

ROOT = Path("/")

# Rails that carry everything the module draws. Without one, the total is the sum of all rails.
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")

ReadRails = Callable[[], Mapping[str, float]]
"""Watts at this moment, by rail; empty if the sensor did not answer."""

Source = Callable[[], AbstractContextManager[ReadRails]]
"""Opens a sensor for the duration of one block."""


@dataclass(frozen=True)
class PowerReading:
    """Power over a span of time; the mean weights samples by the time between them."""

    mean_w: float
    peak_w: float
    samples: int
    duration_s: float
    rails_mean_w: dict[str, float]
    rails_in_total: tuple[str, ...]
    method: str

    @property
    def sample_rate_hz(self) -> float:
        return (self.samples - 1) / self.duration_s


@dataclass(frozen=True)
class Energy:
    """Joules per image: the total, and what was drawn on top of idling."""

    gross_j_per_image: float
    net_j_per_image: float | None


class PowerMeter(Protocol):
    """Samples during `with meter: ...`; `result()` is the reading of the last block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def result(self) -> PowerReading | None: ...


def find_power_meter(on_gpu: bool, root: Path = ROOT) -> PowerMeter | None:
    """The first power source that this machine has, or `None`.

    NVML knows only the GPU, so it is asked only if the models run there (`on_gpu`): an idle card's
    watts divided by images that a CPU made would not be their energy.
    """
    return sysfs_meter(root) or _jtop_meter() or (_nvml_meter() if on_gpu else None)


def sysfs_meter(root: Path = ROOT, interval_s: float = 0.02) -> SampledMeter | None:
    """A meter of the INA3221 rails under `root`, or `None` if there are no such sensors."""
    rails = find_rails(root)
    if not rails:
        return None

    def read() -> dict[str, float]:
        return {rail.name: rail.watts() for rail in rails}

    return SampledMeter(lambda: contextlib.nullcontext(read), "sysfs ina3221", interval_s)


def energy_per_image(mean_w: float, duration_s: float, images: int, idle_w: float | None) -> Energy:
    """Mean power times duration, divided by the number of images made in it."""
    net = None if idle_w is None else (mean_w - idle_w) * duration_s / images
    return Energy(mean_w * duration_s / images, net)


def total_rails(names: Sequence[str]) -> tuple[str, ...]:
    """The rails that add up to the total: only the input rail, if there is one."""
    for total in TOTAL_RAILS:
        if total in names:
            return (total,)
    return tuple(names)


def reading(
    times_s: Sequence[float], rails_w: Sequence[Mapping[str, float]], method: str
) -> PowerReading | None:
    """A reading from samples; `None` from fewer than two, which span no time.

    On a busy machine samples are not equally spaced, so means use the trapezoidal rule.
    """
    if len(times_s) < 2 or times_s[-1] <= times_s[0]:
        return None
    names = [name for name in rails_w[0] if all(name in sample for sample in rails_w)]
    in_total = total_rails(names)
    total = [sum(sample[name] for name in in_total) for sample in rails_w]
    return PowerReading(
        mean_w=_mean_over_time(times_s, total),
        peak_w=max(total),
        samples=len(times_s),
        duration_s=times_s[-1] - times_s[0],
        rails_mean_w={
            name: _mean_over_time(times_s, [sample[name] for sample in rails_w]) for name in names
        },
        rails_in_total=in_total,
        method=method,
    )


def _mean_over_time(times_s: Sequence[float], values: Sequence[float]) -> float:
    area = sum(
        (t1 - t0) * (v0 + v1) / 2
        for t0, t1, v0, v1 in zip(times_s, times_s[1:], values, values[1:], strict=False)
    )
    return area / (times_s[-1] - times_s[0])


class SampledMeter:
    """Reads the rails every `interval_s` seconds in a thread, from entry to exit."""

    def __init__(
        self,
        source: Source,
        method: str,
        interval_s: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._source = source
        self._method = method
        self._interval_s = interval_s
        self._clock = clock
        self._samples: list[tuple[float, Mapping[str, float]]] = []
        self._stop = threading.Event()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._samples = []
        self._stop.clear()
        with contextlib.ExitStack() as opened:
            read = opened.enter_context(self._source())
            self._sample(read)
            thread = threading.Thread(target=self._run, args=(read,), daemon=True)
            thread.start()
            # Callbacks run in reverse order: the thread ends, then the sensor is closed.
            opened.callback(self._sample, read)
            opened.callback(thread.join)
            opened.callback(self._stop.set)
            self._open = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def result(self) -> PowerReading | None:
        times = [moment for moment, _ in self._samples]
        return reading(times, [rails for _, rails in self._samples], self._method)

    def _run(self, read: ReadRails) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample(read)

    def _sample(self, read: ReadRails) -> None:
        try:
            rails = read()
        except (OSError, ValueError):
            # A sensor whose bus is busy misses one sample; the trapezoidal rule spans the gap.
            return
        if rails:
            self._samples.append((self._clock(), rails))


@dataclass(frozen=True)
class Rail:
    """The files of one channel: power in mW, or voltage in mV and current in mA."""

    name: str
    milliwatts: Path | None
    millivolts: Path | None = None
    milliamperes: Path | None = None

    def watts(self) -> float:
        if self.milliwatts is not None:
            return _integer(self.milliwatts) / 1e3
        assert self.millivolts is not None
        assert self.milliamperes is not None
        return _integer(self.millivolts) * _integer(self.milliamperes) / 1e6


def find_rails(root: Path = ROOT) -> tuple[Rail, ...]:
    """INA3221 channels from hwmon (L4T 34 and later, mainline), or else from iio (L4T 32)."""
    return _hwmon_rails(root) or _iio_rails(root)


def _hwmon_rails(root: Path) -> tuple[Rail, ...]:
    rails: list[Rail] = []
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if _text(chip / "name") != "ina3221":
            continue
        for label in sorted(chip.glob("in*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = chip / f"in{number}_input", chip / f"curr{number}_input"
            name = _text(label)
            # in4 to in7 are shunt voltages and their sum, which do not belong in a sum of watts.
            if number not in {"1", "2", "3"} or name in {"", "NC"}:
                continue
            if volts.exists() and amperes.exists():
                rails.append(Rail(name, None, volts, amperes))
    return tuple(rails)


def _iio_rails(root: Path) -> tuple[Rail, ...]:
    rails: list[Rail] = []
    for label in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/rail_name_*")):
        number = label.name.removeprefix("rail_name_")
        power = label.parent / f"in_power{number}_input"
        if power.exists() and _text(label) not in {"", "NC"}:
            rails.append(Rail(_text(label), power))
    return tuple(rails)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _integer(path: Path) -> int:
    return int(path.read_text())


def _jtop_meter() -> PowerMeter | None:
    try:
        from jtop import JtopException, jtop
    except ImportError:
        return None

    @contextmanager
    def source() -> Iterator[ReadRails]:
        with jtop() as client:
            yield lambda: {"total": client.power["tot"]["power"] / 1e3}

    try:
        with source() as read:
            read()
    except (JtopException, OSError, KeyError):
        # Its service is not running, or it does not know this L4T release.
        return None
    return SampledMeter(source, "jtop", interval_s=0.1)


def _nvml_meter() -> PowerMeter | None:
    try:
        import pynvml
    except ImportError:
        return None

    @contextmanager
    def source() -> Iterator[ReadRails]:
        pynvml.nvmlInit()
        try:
            gpu = pynvml.nvmlDeviceGetHandleByIndex(0)

            def read() -> dict[str, float]:
                try:
                    return {"gpu": pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3}
                except pynvml.NVMLError:
                    return {}

            yield read
        finally:
            pynvml.nvmlShutdown()

    try:
        with source() as read:
            answers = bool(read())
    except pynvml.NVMLError:
        return None
    return SampledMeter(source, "nvml, GPU 0 only", interval_s=0.05) if answers else None
