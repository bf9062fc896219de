"""A benchmark from start to end: open, warm up, take turns, measure power, compare."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_bench.asked import Covers, RunSettings
from edge_bench.bundle import Bundle, load_bundles
from edge_bench.device import (
    DeviceDescription,
    DeviceState,
    describe_device,
    read_state,
    throttled,
)
from edge_bench.errors import InvalidValueError
from edge_bench.inputs import Feed
from edge_bench.load import load_over, why_busy
from edge_bench.power import Energy, NoPower, PowerMeter, PowerReading, energy_per_image
from edge_bench.power_sources import find_power_meter
from edge_bench.quality import QualityRow
from edge_bench.quality import score as score_images
from edge_bench.registry import ON_GPU, resolve_runners
from edge_bench.repeated import Measured, measure_repeatedly
from edge_bench.report import BenchReport, BenchRow, FailedRow, ProcessRecord
from edge_bench.rows import row_of
from edge_bench.runners import Infer
from edge_bench.session import Request, draw_feeds, open_all
from edge_bench.timing import Clock, Timing, TimingPlan, first_rows, run_for

Powers = dict[tuple[str, int, int], tuple[PowerReading | NoPower, Energy | None]]
"""By runner, batch size and place of the bundle."""

FindMeter = Callable[[bool], PowerMeter | NoPower | None]


def benchmark(
    bundles: Sequence[Path],
    batches: Sequence[int] | None = None,
    *,
    plan: TimingPlan | None = None,
    settings: RunSettings | None = None,
    runner: str | Sequence[str] = "auto",
    seed: int = 0,
    score: bool = True,
    clock: Clock | None = None,
    find_meter: FindMeter = find_power_meter,
    advance: Callable[[float], None] = lambda fraction: None,
) -> BenchReport:
    """Measure latency, throughput and energy of exported generators on this device.

    All bundles are loaded at once and take turns at each batch size; each is compared with the
    first. Several fresh processes do this, one after the other, because times of one process
    scatter less than those of the next. If the device has a power sensor, each bundle then runs
    alone for `plan.duration_s`, since a sensor is too slow to separate models that take turns every
    few milliseconds.

    Several runtimes are measured in turns. One that cannot start is reported with its reason.

    Args:
        bundles: Bundle folders, ONNX files or engines.
        batches: Batch sizes, without repetition; by default 1 and 64, or the largest that a bundle
            or an engine states, of which a scenario takes one.
        plan: How much to measure, and in which scenario; by default 200 runs and 3 seconds per
            model and batch size, in 5 processes.
        settings: How the runtime runs the models: threads, transfers, CUDA graphs; by default one
            thread, both transfers and no graph.
        runner: The runtime, or several of them; names are in `edge_bench.registry.RUNNERS`.
        seed: Seed of the latents and of the bootstrap of the speedup's interval.
        score: Also measure the quality of the images if a bundle holds what that takes.
        clock: Nanoseconds since a fixed moment, for a plan with 1 repeat; by default
            `time.perf_counter_ns`.
        find_meter: Finds the power sensor; it is told whether the models run on a GPU.
        advance: Called with the finished fraction, 0 to 1.

    Returns:
        The report, with the time of every run and the state of the device.

    Raises:
        InvalidValueError: There is no bundle, a batch size is repeated or below 1, or
            other processes were to use `clock`.
        BundleError: A path holds nothing that can be measured.
        RunnerError: No runtime could measure: it is missing, or it refused a model or its input.
    """
    plan = plan or TimingPlan()
    settings = settings or RunSettings()
    _check(bundles, batches)
    loaded = load_bundles(bundles)
    names = resolve_runners(loaded, [runner] if isinstance(runner, str) else runner)
    request = Request(
        bundles=tuple(bundle.path for bundle in loaded),
        batches=None if batches is None else tuple(batches),
        plan=plan,
        settings=settings,
        runner=names[0],
        seed=seed,
    )
    state_at_start = read_state()
    meter = find_meter(not ON_GPU.isdisjoint(names)) or NoPower("it was not asked for")
    idle = _idle_power(meter, plan)
    scored = score and any(bundle.quality is not None for bundle in loaded)
    # Of the whole, as it is shown: timing and power take about as long, and so do the images.
    whole = 0.5 if scored else 1.0
    timed = whole if isinstance(meter, NoPower) else whole / 2
    measured = measure_repeatedly(request, names, clock, lambda fraction: advance(timed * fraction))
    powers: Powers = {}
    if not isinstance(meter, NoPower):
        powers = _powers(
            meter, loaded, measured, request, clock or time.perf_counter_ns, idle,
            lambda fraction: advance(timed + (whole - timed) * fraction),
        )  # fmt: skip
    state_at_end = read_state()
    quality: tuple[QualityRow, ...] = ()
    if scored:
        quality = _quality(
            loaded, measured, request, lambda fraction: advance(whole + (1 - whole) * fraction)
        )

    device = describe_device()
    return BenchReport(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        bundles=loaded,
        runtimes=tuple(text for one in measured for text in _runtimes(one)),
        plan=plan,
        threads=settings.threads,
        transfers=settings.transfers,
        cuda_graph=settings.cuda_graph,
        seed=seed,
        device=device,
        state_at_start=state_at_start,
        state_at_end=state_at_end,
        throttled=throttled(state_at_start, state_at_end),
        idle=_present(idle),
        rows=tuple(_rows(loaded, measured, powers, request)),
        failed=tuple(_failed(loaded, measured, batches)),
        processes=tuple(_processes(measured)),
        quality=quality,
        no_power=_why_none(meter, powers),
        warnings=(*_warnings(device, state_at_start, settings.threads), *_unrecorded(loaded)),
    )


def _unrecorded(bundles: Sequence[Bundle]) -> Iterator[str]:
    """A note on each engine that came without its bundle."""
    for bundle in bundles:
        if bundle.model is None:
            yield f"{bundle.name} is an engine by itself: nothing states what it was built from"


def _check(bundles: Sequence[Path], batches: Sequence[int] | None) -> None:
    if not bundles:
        raise InvalidValueError("there is no bundle to measure; give at least one")
    if batches is not None and (not batches or min(batches) < 1):
        raise InvalidValueError(f"must be at least 1; got {list(batches)}", setting="batch")
    if batches is not None and len(set(batches)) != len(batches):
        raise InvalidValueError(f"takes every size once; got {list(batches)}", setting="batch")


def _present(power: PowerReading | NoPower) -> PowerReading | None:
    return None if isinstance(power, NoPower) else power


def _why_none(meter: PowerMeter | NoPower, powers: Powers) -> str | None:
    """Why rows are without a power; None if each has one."""
    if isinstance(meter, NoPower):
        return meter.reason
    return next((power.reason for power, _ in powers.values() if isinstance(power, NoPower)), None)


def _idle_power(meter: PowerMeter | NoPower, plan: TimingPlan) -> PowerReading | NoPower:
    if isinstance(meter, NoPower):
        return meter
    with meter:
        time.sleep(plan.duration_s)
    return meter.result()


def _power(
    meter: PowerMeter,
    runner: Infer,
    feed: Feed,
    clock: Clock,
    plan: TimingPlan,
    idle: PowerReading | NoPower,
) -> tuple[PowerReading | NoPower, Energy | None]:
    with meter:
        images, duration_s = run_for(runner, feed, clock, plan.duration_s)
    reading = meter.result()
    if isinstance(reading, NoPower):
        return reading, None
    idle_w = None if isinstance(idle, NoPower) else idle.mean_w
    return reading, energy_per_image(reading.mean_w, duration_s, images, idle_w)


def _powers(
    meter: PowerMeter,
    bundles: Sequence[Bundle],
    measured: Sequence[Measured],
    request: Request,
    clock: Clock,
    idle: PowerReading | NoPower,
    advance: Callable[[float], None],
) -> Powers:
    """Power and energy of each bundle alone, in this process."""
    found: Powers = {}
    steps = sum(len(one.batches) for one in measured) * len(bundles)
    for one in measured:
        if not one.sessions:
            continue
        with contextlib.ExitStack() as stack:
            runners = open_all(bundles, replace(request, runner=one.runner), stack)
            feeds = draw_feeds(bundles, runners, one.batches, request.seed)
            for batch in one.batches:
                for index, runner in enumerate(runners):
                    x = first_rows(feeds[index], batch)
                    key = (one.runner, batch, index)
                    found[key] = _power(meter, runner.timed, x, clock, request.plan, idle)
                    advance(len(found) / steps)
    return found


def _quality(
    bundles: Sequence[Bundle],
    measured: Sequence[Measured],
    request: Request,
    advance: Callable[[float], None],
) -> tuple[QualityRow, ...]:
    """The quality of each bundle's images, from the first runtime that measured."""
    files = next((bundle.quality for bundle in bundles if bundle.quality is not None), None)
    ran = next((one for one in measured if one.sessions), None)
    if files is None or ran is None:
        return ()
    with contextlib.ExitStack() as stack:
        runners = open_all(bundles, replace(request, runner=ran.runner), stack)
        return score_images(
            bundles,
            runners,
            files,
            batch=max(ran.batches),
            threads=request.settings.threads,
            advance=advance,
        )


def _runtimes(measured: Measured) -> tuple[str, ...]:
    return measured.sessions[0].runtimes if measured.sessions else ()


def _rows(
    bundles: Sequence[Bundle],
    measured: Sequence[Measured],
    powers: Powers,
    request: Request,
) -> Iterator[BenchRow]:
    """The rows batch by batch, then by runtime, then in the order of the bundles."""
    rng = np.random.default_rng(request.seed)
    for batch in dict.fromkeys(batch for one in measured for batch in one.batches):
        for one in measured:
            if batch not in one.batches:
                continue
            on_gpu = one.runner in ON_GPU
            load = load_over([session.load for session in one.sessions])
            busy = why_busy(load, 1 if on_gpu else request.settings.threads)
            first = _timings(one, batch, 0)
            for index, bundle in enumerate(bundles):
                timings = _timings(one, batch, index)
                row = row_of(timings, first if index else None, busy, request.plan.scenario, rng)
                if on_gpu:  # the processor only waits
                    row = replace(row, processor_speedup=None)
                power, energy = powers.get((one.runner, batch, index), (NoPower(""), None))
                yield replace(
                    row,
                    bundle=bundle.name,
                    runner=one.runner,
                    power=_present(power),
                    energy=energy,
                    covers=_covers(one, batch, index),
                )


def _covers(measured: Measured, batch: int, index: int) -> Covers | None:
    """What the first process timed; the others were asked for the same."""
    session = measured.sessions[0]
    return next(
        (
            covered
            for timing, covered in zip(session.timings, session.covers, strict=True)
            if (timing.batch, timing.runner) == (batch, index)
        ),
        None,
    )


def _timings(measured: Measured, batch: int, index: int) -> list[Timing]:
    """The timing of each process, of a bundle at a batch size."""
    return [
        timing
        for session in measured.sessions
        for timing in session.timings
        if (timing.batch, timing.runner) == (batch, index)
    ]


def _failed(
    bundles: Sequence[Bundle], measured: Sequence[Measured], batches: Sequence[int] | None
) -> Iterator[FailedRow]:
    for one in measured:
        if one.failure is not None:
            for batch in batches or (None,):
                for bundle in bundles:
                    yield FailedRow(bundle.name, batch, one.runner, one.failure)


def _processes(measured: Sequence[Measured]) -> Iterator[ProcessRecord]:
    for one in measured:
        for turn, session in enumerate(one.sessions):
            yield ProcessRecord(
                one.runner, turn, session.load, session.load.others_share, session.load.steal_share
            )


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
