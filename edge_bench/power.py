"""Power while something runs: a sensor sampled by a thread, and what its samples mean.

A power is that of everything the sensor stands for, or it is absent with the reason: a sum that
lacks a part is never given as the total. Sensors are in `jetson_rails.py`, `rapl.py` and `nvml.py`,
and `power_sources.py` chooses among them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Self

# A sensor on a busy bus misses a sample now and then; with more missing, its mean means little.
MISSED_AT_MOST = 0.1
# A result keeps so many samples of each reading, which are enough to draw it.
SERIES = 200

Read = Callable[[], Mapping[str, float]]
"""Watts at this moment, or joules so far, by rail; rails that did not answer are left out."""

Source = Callable[[], AbstractContextManager[Read]]
"""Opens a sensor for the duration of one block."""


@dataclass(frozen=True)
class PowerReading:
    """Power over a span of time; the mean weights samples by the time between them.

    `rails_in_total` are the rails whose sum is `mean_w`. `rails_left_out` are others that did not
    answer; they are no part of the total. `series` are seconds from the first sample and watts, of
    at most `SERIES` samples, equally spaced among all of them.
    """

    mean_w: float
    peak_w: float
    samples: int
    duration_s: float
    rails_mean_w: dict[str, float]
    rails_in_total: tuple[str, ...]
    method: str
    rails_left_out: tuple[str, ...] = ()
    series: tuple[tuple[float, float], ...] = ()

    @property
    def sample_rate_hz(self) -> float:
        return (self.samples - 1) / self.duration_s


@dataclass(frozen=True)
class NoPower:
    """Why there is no power."""

    reason: str


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

    def result(self) -> PowerReading | NoPower: ...


@dataclass(frozen=True)
class Sensor:
    """Where samples come from, and which of them make the total.

    Attributes:
        source: Opens the sensor.
        method: What it is, for the report.
        in_total: The rails that add up to the total.
        interval_s: Time between two samples.
        others: Further rails, which are inside of the total or beside it.
        wraps_j: If samples are joules so far, the joules at which rails start again at 0; those
            that are not listed never do.
        errors: Why a rail did not answer, the last time that it did not.
    """

    source: Source
    method: str
    in_total: tuple[str, ...]
    interval_s: float
    others: tuple[str, ...] = ()
    wraps_j: Mapping[str, float] | None = None
    errors: dict[str, str] = field(default_factory=dict)


def why(error: OSError | ValueError) -> str:
    """Why a file of a sensor could not be read, in a few words."""
    return "not a number" if isinstance(error, ValueError) else error.strerror or str(error)


def energy_per_image(mean_w: float, duration_s: float, images: int, idle_w: float | None) -> Energy:
    """Mean power times duration, divided by the number of images made in it."""
    net = None if idle_w is None else (mean_w - idle_w) * duration_s / images
    return Energy(mean_w * duration_s / images, net)


def reading(
    times_s: Sequence[float], samples: Sequence[Mapping[str, float]], sensor: Sensor
) -> PowerReading | NoPower:
    """A reading from samples, or why they make none.

    On a busy machine samples are not equally spaced, so means use the trapezoidal rule. A rail
    that missed some samples is averaged over those at which it answered.

    Args:
        times_s: When each sample was asked for.
        samples: What answered then.
        sensor: What the samples are.
    """
    complete = [
        (moment, sample)
        for moment, sample in zip(times_s, samples, strict=True)
        if all(name in sample for name in sensor.in_total)
    ]
    times = [moment for moment, _ in complete]
    missed = len(samples) - len(complete)
    if len(complete) < 2 or missed > max(1, MISSED_AT_MOST * len(samples)):
        return NoPower(_silence(samples, sensor))
    if times[-1] <= times[0]:
        return NoPower(f"{sensor.method} was not asked for long enough")
    if sensor.wraps_j is None:
        powers = [sum(sample[name] for name in sensor.in_total) for _, sample in complete]
        total_j, peak_w = _area(times, powers), max(powers)
        curve = list(zip(times, powers, strict=True))
    else:
        rises = _rises([sample for _, sample in complete], sensor.in_total, sensor.wraps_j)
        if any(rise < 0 for rise in rises):
            return NoPower(f"{sensor.method} started again at 0 meanwhile")
        total_j = sum(rises)
        # A counter tells the mean power between two samples.
        curve = [
            ((before + after) / 2, rise / (after - before))
            for rise, before, after in zip(rises, times, times[1:], strict=False)
            if after > before
        ]
        peak_w = max(power for _, power in curve)
    duration_s = times[-1] - times[0]
    means = {}
    for name in (*sensor.in_total, *sensor.others):
        answers = [(t, s[name]) for t, s in zip(times_s, samples, strict=True) if name in s]
        if len(answers) > 1 and answers[-1][0] > answers[0][0]:
            means[name] = _mean(answers, name, sensor)
    return PowerReading(
        mean_w=total_j / duration_s,
        peak_w=peak_w,
        samples=len(complete),
        duration_s=duration_s,
        rails_mean_w=means,
        rails_in_total=sensor.in_total,
        method=sensor.method,
        rails_left_out=tuple(name for name in sensor.others if name not in means),
        series=thinned([(moment - times[0], power) for moment, power in curve]),
    )


def thinned(
    samples: Sequence[tuple[float, float]], most: int = SERIES
) -> tuple[tuple[float, float], ...]:
    """At most `most` of the samples, equally spaced among them, with the first and the last."""
    if len(samples) > most:
        places = [round(i * (len(samples) - 1) / (most - 1)) for i in range(most)]
        samples = [samples[place] for place in places]
    return tuple((round(moment, 3), round(power, 3)) for moment, power in samples)


def _mean(answers: Sequence[tuple[float, float]], name: str, sensor: Sensor) -> float:
    """Mean power of one rail from its `(time, value)` pairs."""
    times, values = [moment for moment, _ in answers], [value for _, value in answers]
    if sensor.wraps_j is None:
        return _area(times, values) / (times[-1] - times[0])
    rises = _rises([{name: value} for value in values], (name,), sensor.wraps_j)
    return sum(rises) / (times[-1] - times[0])


def _silence(samples: Sequence[Mapping[str, float]], sensor: Sensor) -> str:
    """Which part of the total did not answer, how often, and why."""
    for name in sensor.in_total:
        answers = sum(name in sample for sample in samples)
        if answers < len(samples):
            why = f" ({sensor.errors[name]})" if name in sensor.errors else ""
            return f"{name}, which the total needs, answered {answers} of {len(samples)} times{why}"
    return f"{sensor.method} was asked {len(samples)} times, which is not enough"


def _area(times_s: Sequence[float], values: Sequence[float]) -> float:
    return sum(
        (t1 - t0) * (v0 + v1) / 2
        for t0, t1, v0, v1 in zip(times_s, times_s[1:], values, values[1:], strict=False)
    )


def _rises(
    samples: Sequence[Mapping[str, float]], names: Sequence[str], wraps_j: Mapping[str, float]
) -> list[float]:
    """The joules between neighbours, summed over rails."""
    return [
        sum(_rise(before[name], after[name], wraps_j.get(name)) for name in names)
        for before, after in itertools.pairwise(samples)
    ]


def _rise(before: float, after: float, wrap: float | None) -> float:
    return after - before if after >= before or wrap is None else after - before + wrap


class SampledMeter:
    """Reads a sensor at its interval in a thread, from entry to exit."""

    def __init__(self, sensor: Sensor, clock: Callable[[], float] = time.perf_counter) -> None:
        self._sensor = sensor
        self._clock = clock
        self._samples: list[tuple[float, Mapping[str, float]]] = []
        self._stop = threading.Event()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._samples = []
        self._sensor.errors.clear()
        self._stop.clear()
        with contextlib.ExitStack() as opened:
            read = opened.enter_context(self._sensor.source())
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

    def result(self) -> PowerReading | NoPower:
        times = [moment for moment, _ in self._samples]
        return reading(times, [rails for _, rails in self._samples], self._sensor)

    def _run(self, read: Read) -> None:
        while not self._stop.wait(self._sensor.interval_s):
            self._sample(read)

    def _sample(self, read: Read) -> None:
        self._samples.append((self._clock(), read()))
