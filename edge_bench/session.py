"""What one process does: load the bundles, feed them, and let them take turns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_bench.asked import Covers, RunSettings
from edge_bench.bundle import Bundle, load_bundles, load_samples
from edge_bench.errors import RunnerError
from edge_bench.inputs import Feed, draw_feed
from edge_bench.load import MachineLoad, load_between, read_load
from edge_bench.registry import open_runners
from edge_bench.runners import Infer, Runner
from edge_bench.scenario import OFFLINE, SERVER, Scenario
from edge_bench.timing import Clock, Timing, TimingPlan, measure, measure_server

# The large one of the batch sizes that are measured unless others are asked for.
LARGE_BATCH = 64


@dataclass(frozen=True)
class Request:
    """What a process is asked to measure.

    Attributes:
        bundles: Bundle folders, ONNX files or engines.
        batches: Batch sizes; None for 1 and a large one.
        plan: How much this process measures.
        settings: How the runtime runs the models.
        runner: Name of the runtime, not `auto`.
        seed: Seed of the latents.
        turn: Which of several processes this is, from 0; each begins with another bundle.
    """

    bundles: tuple[Path, ...]
    batches: tuple[int, ...] | None
    plan: TimingPlan
    settings: RunSettings
    runner: str
    seed: int
    turn: int = 0


@dataclass(frozen=True)
class Session:
    """What one process measured with one runtime.

    Attributes:
        runtimes: Runtime and version that ran each bundle.
        batches: The batch sizes.
        timings: Batch by batch, in the order of the bundles.
        load: What else the machine did in the meantime.
        covers: What each of the timings covers.
    """

    runtimes: tuple[str, ...]
    batches: tuple[int, ...]
    timings: tuple[Timing, ...]
    load: MachineLoad
    covers: tuple[Covers, ...] = ()


def measure_session(
    request: Request,
    clock: Clock,
    advance: Callable[[float], None] = lambda fraction: None,
) -> Session:
    """Measure in this process.

    Args:
        request: What is measured, and how much.
        clock: Nanoseconds since a fixed moment.
        advance: Called with the finished fraction, 0 to 1.

    Raises:
        BundleError: A path holds nothing that can be measured.
        RunnerError: The runtime is missing, or it refused a model or its input.
    """
    bundles = load_bundles(request.bundles)
    # The model that is loaded first may get the better part of the memory, so this changes too.
    order = [(place + request.turn) % len(bundles) for place in range(len(bundles))]
    bundles = tuple(bundles[index] for index in order)
    with contextlib.ExitStack() as stack:
        runners = open_all(bundles, request, stack)
        batches = request.batches or batches_for(request.plan.scenario, bundles, runners)
        feeds = draw_feeds(bundles, runners, batches, request.seed)
        check_images(bundles, runners, feeds)
        before = read_load()
        timings = _measure(request, [r.timed for r in runners], feeds, batches, clock, advance)
        load = load_between(before, read_load())
        runtimes = [runner.runtime for runner in runners]
        covers = [runners[timing.runner].covers(timing.batch) for timing in timings]
    back = [order.index(index) for index in range(len(bundles))]
    restored = [replace(timing, runner=order[timing.runner]) for timing in timings]
    places = {batch: place for place, batch in enumerate(batches)}
    pairs = sorted(
        zip(restored, covers, strict=True), key=lambda p: (places[p[0].batch], p[0].runner)
    )
    return Session(
        runtimes=tuple(runtimes[place] for place in back),
        batches=tuple(batches),
        timings=tuple(timing for timing, _ in pairs),
        load=load,
        covers=tuple(covered for _, covered in pairs),
    )


def _measure(
    request: Request,
    timed: Sequence[Infer],
    feeds: Sequence[Feed],
    batches: Sequence[int],
    clock: Clock,
    advance: Callable[[float], None],
) -> tuple[Timing, ...]:
    plan = request.plan
    if plan.scenario is None or plan.scenario.name != SERVER:
        return measure(timed, feeds, batches, clock, plan, advance)
    # Each process has arrivals of its own.
    rng = np.random.default_rng([request.seed, request.turn])
    return measure_server(timed, feeds, batches, clock, plan, rng, advance=advance)


def open_all(
    bundles: Sequence[Bundle], request: Request, stack: contextlib.ExitStack
) -> list[Runner]:
    """A runner for each bundle, loaded, until `stack` is closed.

    Raises:
        RunnerError: The runtime is missing, or it refused a model.
    """
    runners = open_runners(bundles, request.runner, request.settings)
    return [stack.enter_context(runner) for runner in runners]


def batches_for(
    scenario: Scenario | None, bundles: Sequence[Bundle], runners: Sequence[Runner]
) -> tuple[int, ...]:
    """The batch sizes that a scenario means: a query is one image, and offline has many at once.

    Raises:
        RunnerError: No batch size suits all of them.
    """
    sizes = default_batches(bundles, runners)
    if scenario is None:
        return sizes
    return sizes[-1:] if scenario.name == OFFLINE else sizes[:1]


def default_batches(bundles: Sequence[Bundle], runners: Sequence[Runner]) -> tuple[int, ...]:
    """The smallest batch that all of them take, 1 if nothing states another, and a large one.

    A bundle or an engine that states a largest batch below 64 gets that one.

    Raises:
        RunnerError: No batch size suits all of them.
    """
    least, most = 1, LARGE_BATCH
    for runner in runners:
        low, high = runner.batch_range
        least, most = max(least, low), most if high is None else min(most, high)
    for bundle in bundles:
        most = most if bundle.max_batch is None else min(most, bundle.max_batch)
    if least <= most:
        return (least,) if least == most else (least, most)
    if all(low == least for low, _ in (runner.batch_range for runner in runners)):
        return (least,)  # all begin above the usual large one
    ranges = ", ".join(
        f"{bundle.name} {_range(runner)}" for bundle, runner in zip(bundles, runners, strict=True)
    )
    raise RunnerError(
        f"no batch size suits all bundles ({ranges}); measure them apart, or export them for "
        "the same batch sizes"
    )


def _range(runner: Runner) -> str:
    low, high = runner.batch_range
    return f"takes {low}" if low == high else f"takes {low} to {high or 'any'}"


def draw_feeds(
    bundles: Sequence[Bundle], runners: Sequence[Runner], batches: Sequence[int], seed: int
) -> list[Feed]:
    """The input of each runner, enough for the largest batch; equal inputs get equal values.

    Raises:
        RunnerError: A model refuses a batch size.
    """
    feeds = []
    for bundle, runner in zip(bundles, runners, strict=True):
        samples = load_samples(bundle)
        for batch in batches:  # a size that the model refuses is an error before any timing
            draw_feed(runner.inputs, batch, seed, bundle.n_classes, samples)
        feeds.append(draw_feed(runner.inputs, max(batches), seed, bundle.n_classes, samples))
    return feeds


def check_images(
    bundles: Sequence[Bundle], runners: Sequence[Runner], feeds: Sequence[Feed]
) -> None:
    """Run each model once: the times of a model that computes NaN mean nothing.

    Raises:
        RunnerError: An image has a value that is not finite.
    """
    for bundle, runner, feed in zip(bundles, runners, feeds, strict=True):
        if not np.isfinite(runner.infer(*feed)).all():
            raise RunnerError(
                f"{bundle.path}: the images are not finite numbers; export the model again, "
                "in fp32 if this precision overflows"
            )
