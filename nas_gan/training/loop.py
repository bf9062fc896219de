"""The training loop, shared by GAN training, search and distillation: they differ in the step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol


class Step(Protocol):
    """One optimisation update; its index decides its data and its noise."""

    def __call__(self, index: int) -> Mapping[str, float]:
        """Do update `index` and return its scalars."""
        ...


class StoppingRule(Protocol):
    """Decides after each update whether to stop early."""

    def __call__(self, index: int, scalars: Mapping[str, float]) -> str | None:
        """The reason to stop, or None to continue."""
        ...


Callback = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class TrainingResult:
    """How a training run ended.

    Attributes:
        step: finished updates.
        scalars: those of the last update.
        status: `finished`, `stopped` by the stopping rule, or `diverged`.
        message: why it stopped or diverged; else empty.
        runtime: in seconds.
    """

    step: int
    scalars: Mapping[str, float]
    status: Literal["finished", "stopped", "diverged"]
    message: str
    runtime: float


@dataclass(frozen=True)
class Every:
    """Calls `action(index, scalars)` after every `period` updates, and after the last one."""

    period: int
    action: Callback
    last: int | None = None

    def __call__(self, index: int, scalars: Mapping[str, float]) -> None:
        done = index + 1
        if self.period > 0 and (done % self.period == 0 or done == self.last):
            self.action(index, scalars)


def run_training(
    step: Step,
    *,
    n_steps: int,
    first: int = 0,
    callbacks: Iterable[Callback] = (),
    stopping_rule: StoppingRule | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Run updates `first` to `n_steps - 1` and call every callback after each.

    A scalar that is not finite ends the run as `diverged` before any callback sees that update:
    whatever the callbacks saved is older.
    """
    started = clock()
    callbacks = tuple(callbacks)
    scalars: Mapping[str, float] = {}
    for index in range(first, n_steps):
        scalars = step(index)
        broken = [name for name, value in scalars.items() if not math.isfinite(value)]
        if broken:
            message = f"update {index}: {', '.join(broken)} is not finite"
            return TrainingResult(index, scalars, "diverged", message, clock() - started)
        for callback in callbacks:
            callback(index, scalars)
        reason = stopping_rule(index, scalars) if stopping_rule else None
        if reason:
            return TrainingResult(index + 1, scalars, "stopped", reason, clock() - started)
    return TrainingResult(max(first, n_steps), scalars, "finished", "", clock() - started)
