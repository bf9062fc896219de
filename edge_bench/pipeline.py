"""A benchmark from start to end: open, warm up, take turns, measure power, compare."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from edge_bench.bundle import Bundle, load_bundles, load_samples
from edge_bench.device import (
    DeviceDescription,
    DeviceState,
    describe_device,
    read_state,
    throttled,
)
from edge_bench.errors import InvalidValueError, RunnerError
from edge_bench.inputs import Feed, draw_feed
from edge_bench.power import Energy, NoPower, PowerMeter, PowerReading, energy_per_image
from edge_bench.power_sources import find_power_meter
from edge_bench.report import BenchReport, BenchRow
from edge_bench.runners import Runner, TensorRTRunner, open_runners
from edge_bench.statistics import (
    disturbance,
    images_per_second,
    instability,
    ratio_of_medians,
    summarize,
)
from edge_bench.timing import Clock, Timing, TimingPlan, first_rows, measure, run_for

FindMeter = Callable[[bool], PowerMeter | NoPower | None]


def benchmark(
    bundles: Sequence[Path],
    batches: Sequence[int] = (1,),
    *,
    plan: TimingPlan | None = None,
    threads: int = 1,
    runner: str = "auto",
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
    find_meter: FindMeter = find_power_meter,
    advance: Callable[[float], None] = lambda fraction: None,
) -> BenchReport:
    """Measure latency, throughput and energy of exported generators on this device.

    All bundles are loaded at once and take turns at each batch size; each is compared with the
    first. If the device has a power sensor, each bundle then runs alone for `plan.duration_s`,
    since a sensor is too slow to separate models that take turns every few milliseconds.

    Args:
        bundles: Bundle folders, ONNX files or engines.
        batches: Batch sizes, without repetition.
        plan: How much to measure; by default 200 runs and 3 seconds per model and batch size.
        threads: Number of CPU threads of ONNX Runtime.
        runner: The runtime: `auto`, `onnxruntime` or `tensorrt`.
        seed: Seed of the latents and of the bootstrap of the speedup's interval.
        clock: Nanoseconds since a fixed moment.
        find_meter: Finds the power sensor; it is told whether the models run on a GPU.
        advance: Called with the finished fraction, 0 to 1.

    Returns:
        The report, with the time of every run and the state of the device.

    Raises:
        InvalidValueError: There is no bundle, a batch size is repeated or below 1, or the number of
            threads is below 1.
        BundleError: A path holds nothing that can be measured.
        RunnerError: The runtime is missing, or it refused a model or its input.
    """
    plan = plan or TimingPlan()
    _check(bundles, batches, threads)
    loaded = load_bundles(bundles)
    rng = np.random.default_rng(seed)
    with contextlib.ExitStack() as opened:
        state_at_start = read_state()
        runners = [
            opened.enter_context(runner_) for runner_ in open_runners(loaded, runner, threads)
        ]
        feeds = _feeds(loaded, runners, batches, seed)
        _check_images(loaded, runners, feeds)

        on_gpu = any(isinstance(runner_, TensorRTRunner) for runner_ in runners)
        meter = find_meter(on_gpu) or NoPower("it was not asked for")
        timed = 1.0 if isinstance(meter, NoPower) else 0.5
        idle = _idle_power(meter, plan)
        timings = measure(
            runners, feeds, batches, clock, plan, lambda fraction: advance(timed * fraction)
        )
        powers: list[tuple[PowerReading | NoPower, Energy | None]] = []
        for t in timings:
            x = first_rows(feeds[t.runner], t.batch)
            powers.append(_power(meter, runners[t.runner], x, clock, plan, idle))
            advance(timed + (1 - timed) * len(powers) / len(timings))
        runtimes = tuple(runner_.runtime for runner_ in runners)
        state_at_end = read_state()

    device = describe_device()
    return BenchReport(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        bundles=loaded,
        runtimes=runtimes,
        plan=plan,
        threads=threads,
        seed=seed,
        device=device,
        state_at_start=state_at_start,
        state_at_end=state_at_end,
        throttled=throttled(state_at_start, state_at_end),
        idle=_present(idle),
        rows=_rows(loaded, timings, powers, rng),
        warnings=(*_warnings(device, state_at_start, threads), *_unrecorded(loaded)),
        no_power=next((p.reason for p, _ in powers if isinstance(p, NoPower)), None),
    )


def _unrecorded(bundles: Sequence[Bundle]) -> Iterator[str]:
    """A note on each engine that came without its bundle."""
    for bundle in bundles:
        if bundle.model is None:
            yield f"{bundle.name} is an engine by itself: nothing states what it was built from"


def _check(bundles: Sequence[Path], batches: Sequence[int], threads: int) -> None:
    if not bundles:
        raise InvalidValueError("there is no bundle to measure; give at least one")
    if not batches or min(batches) < 1:
        raise InvalidValueError(f"must be at least 1; got {list(batches)}", setting="batch")
    if len(set(batches)) != len(batches):
        raise InvalidValueError(f"takes every size once; got {list(batches)}", setting="batch")
    if threads < 1:
        raise InvalidValueError(f"must be at least 1; got {threads}", setting="threads")


def _feeds(
    bundles: Sequence[Bundle], runners: Sequence[Runner], batches: Sequence[int], seed: int
) -> list[Feed]:
    """The input of each runner, enough for the largest batch; equal inputs get equal values."""
    feeds = []
    for bundle, runner in zip(bundles, runners, strict=True):
        samples = load_samples(bundle)
        for batch in batches:  # a size that the model refuses is an error before any timing
            draw_feed(runner.inputs, batch, seed, bundle.n_classes, samples)
        feeds.append(draw_feed(runner.inputs, max(batches), seed, bundle.n_classes, samples))
    return feeds


def _check_images(
    bundles: Sequence[Bundle], runners: Sequence[Runner], feeds: Sequence[Feed]
) -> None:
    """Run each model once: the times of a model that computes NaN mean nothing."""
    for bundle, runner, feed in zip(bundles, runners, feeds, strict=True):
        if not np.isfinite(runner.infer(*feed)).all():
            raise RunnerError(
                f"{bundle.path}: the images are not finite numbers; export the model again, "
                "in fp32 if this precision overflows"
            )


def _present(power: PowerReading | NoPower) -> PowerReading | None:
    return None if isinstance(power, NoPower) else power


def _idle_power(meter: PowerMeter | NoPower, plan: TimingPlan) -> PowerReading | NoPower:
    if isinstance(meter, NoPower):
        return meter
    with meter:
        time.sleep(plan.duration_s)
    return meter.result()


def _power(
    meter: PowerMeter | NoPower,
    runner: Runner,
    feed: Feed,
    clock: Clock,
    plan: TimingPlan,
    idle: PowerReading | NoPower,
) -> tuple[PowerReading | NoPower, Energy | None]:
    if isinstance(meter, NoPower):
        return meter, None
    with meter:
        images, duration_s = run_for(runner, feed, clock, plan.duration_s)
    reading = meter.result()
    if isinstance(reading, NoPower):
        return reading, None
    idle_w = None if isinstance(idle, NoPower) else idle.mean_w
    return reading, energy_per_image(reading.mean_w, duration_s, images, idle_w)


def _rows(
    bundles: Sequence[Bundle],
    timings: Sequence[Timing],
    powers: Sequence[tuple[PowerReading | NoPower, Energy | None]],
    rng: np.random.Generator,
) -> tuple[BenchRow, ...]:
    rows: list[BenchRow] = []
    # (rounds, block) for each row
    times_us = [timing.times_ns / 1e3 for timing in timings]
    first_us = {t.batch: us for t, us in zip(timings, times_us, strict=True) if t.runner == 0}
    for timing, us, (power, energy) in zip(timings, times_us, powers, strict=True):
        latency = summarize(us)
        speedup = ratio_of_medians(first_us[timing.batch], us, rng) if timing.runner else None
        rows.append(
            BenchRow(
                bundle=bundles[timing.runner].name,
                batch=timing.batch,
                latency=latency,
                images_per_second=images_per_second(latency, timing.batch),
                speedup=speedup,
                power=_present(power),
                energy=energy,
                warmup_runs=timing.warmup_runs,
                settled=timing.settled,
                warnings=instability(us) + (disturbance(speedup) if speedup else ()),
                samples_us=tuple(tuple(block) for block in us.tolist()),
            )
        )
    return tuple(rows)


def _warnings(device: DeviceDescription, state: DeviceState, threads: int) -> tuple[str, ...]:
    found = []
    if threads > device.usable_cores:
        found.append(f"{threads} threads wait for each other on {device.usable_cores} usable cores")
    if state.load_1min is not None and state.load_1min + threads > device.logical_cores + 0.5:
        found.append(
            f"the machine was busy before the run (load {state.load_1min:.1f} on "
            f"{device.logical_cores} cores); times and their tails are too high"
        )
    return tuple(found)
