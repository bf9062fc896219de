"""The training loop of GAN training, search and distillation, which differ in their step alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from nas_gan.interrupts import held_back


class Step(Protocol):
    """One training step; any function with this signature is one."""

    def __call__(self, index: int) -> Mapping[str, float]:
        """Update the networks once.

        Args:
            index: Number of the step, from 0. It alone decides which data and noise the step uses.

        Returns:
            The scalars to log, such as losses, by name.
        """
        ...


class StoppingRule(Protocol):
    """Decides after every step whether training stops early."""

    def __call__(self, index: int, scalars: Mapping[str, float]) -> str | None:
        """Return the reason to stop, or None to continue."""
        ...


Callback = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class TrainingResult:
    """How a training run ended.

    Attributes:
        step: Number of completed steps.
        scalars: Scalars of the last step.
        status: `finished`, `stopped` by the stopping rule, or `diverged`.
        message: Why it stopped or diverged; otherwise empty.
        runtime: Duration in seconds.
    """

    step: int
    scalars: Mapping[str, float]
    status: Literal["finished", "stopped", "diverged"]
    message: str
    runtime: float


@dataclass(frozen=True)
class Every:
    """A callback that runs `action(index, scalars)` every `period` steps and after the last one."""

    period: int
    action: Callback
    last: int | None = None

    def __call__(self, index: int, scalars: Mapping[str, float]) -> None:
        done = index + 1
        if self.period > 0 and (done % self.period == 0 or done == self.last):
            self.action(index, scalars)


class EveryMinutes:
    """A callback that runs `action(index, scalars)` once that many minutes have passed; 0 never."""

    def __init__(
        self, minutes: float, action: Callback, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.minutes, self.action, self.clock = minutes, action, clock
        self.since = clock()

    def __call__(self, index: int, scalars: Mapping[str, float]) -> None:
        if self.minutes and self.clock() - self.since >= 60 * self.minutes:
            self.action(index, scalars)
            self.since = self.clock()


def run_training(
    step: Step,
    *,
    n_steps: int,
    first: int = 0,
    callbacks: Iterable[Callback] = (),
    stopping_rule: StoppingRule | None = None,
    on_interrupt: Callback = lambda index, scalars: None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Run a training loop, and call every callback after each step.

    A scalar that is not finite ends the run as `diverged` before any callback sees that step, so
    whatever the callbacks saved is from before.

    An interrupt of a command waits until the step and its callbacks are done.

    Args:
        step: The update; it is called with the index of the step and returns scalars.
        n_steps: Number of steps of the whole run.
        first: Index of the first step; a resumed run starts above 0.
        callbacks: Functions of the index and the scalars, called in this order.
        stopping_rule: Called after the callbacks; it returns a reason to stop, or None.
        on_interrupt: Called before a KeyboardInterrupt leaves the loop, if it came between steps.
        clock: Seconds since a fixed moment.

    Returns:
        How the run ended. A run that diverges is a result, not an error.
    """
    started = clock()
    callbacks = tuple(callbacks)
    scalars: Mapping[str, float] = {}
    last: int | None = None  # the step before, unless one is half done
    try:
        for index in range(first, n_steps):
            with held_back():
                last = None
                scalars = step(index)
                broken = [name for name, value in scalars.items() if not math.isfinite(value)]
                if broken:
                    message = f"update {index}: {', '.join(broken)} is not finite"
                    return TrainingResult(index, scalars, "diverged", message, clock() - started)
                for callback in callbacks:
                    callback(index, scalars)
                last = index
            reason = stopping_rule(index, scalars) if stopping_rule else None
            if reason:
                return TrainingResult(index + 1, scalars, "stopped", reason, clock() - started)
    except KeyboardInterrupt:
        if last is not None:
            with held_back():
                on_interrupt(last, scalars)
        raise
    return TrainingResult(max(first, n_steps), scalars, "finished", "", clock() - started)
