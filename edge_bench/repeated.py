"""Several processes with several runtimes, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_bench.errors import InvalidValueError, RunnerError
from edge_bench.processes import measure_in_child
from edge_bench.session import Request, Session, measure_session
from edge_bench.timing import Clock


@dataclass(frozen=True)
class Measured:
    """What the processes measured with a runtime, in their order, or why they did not.

    `failure` is None if all of them measured; otherwise there are no sessions.
    """

    runner: str
    sessions: tuple[Session, ...]
    failure: str | None = None

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that were measured."""
        return self.sessions[0].batches if self.sessions else ()


def measure_repeatedly(
    request: Request,
    runners: Sequence[str],
    clock: Clock | None,
    advance: Callable[[float], None] = lambda fraction: None,
) -> tuple[Measured, ...]:
    """Measure with each runtime, `request.plan.repeats` times, the runtimes in turns.

    With one repeat this process measures, and otherwise a fresh one each time. A runtime that
    refuses ends there, and the others go on.

    Args:
        request: What is measured; its plan is for all processes together, and its runner is not
            used.
        runners: Names of the runtimes, without repetition.
        clock: Nanoseconds since a fixed moment; None for that of `edge_bench` itself.
        advance: Called with the finished fraction, 0 to 1.

    Returns:
        One entry for each runtime, in their order.

    Raises:
        InvalidValueError: Other processes cannot use the clock of this one.
        RunnerError: No runtime could measure.
        BundleError: A path holds nothing that can be measured.
    """
    repeats = request.plan.repeats
    if repeats > 1 and clock is not None:
        raise InvalidValueError(
            f"processes of their own do not see the clock of this one; use 1 repeat; got {repeats}",
            setting="repeats",
        )
    share = replace(request, plan=request.plan.share())
    sessions: dict[str, list[Session]] = {name: [] for name in runners}
    failures: dict[str, Exception] = {}
    steps = repeats * len(runners)
    for step in range(steps):
        turn, place = divmod(step, len(runners))
        name = runners[(place + turn) % len(runners)]

        def advance_within(fraction: float, step: int = step) -> None:
            advance((step + fraction) / steps)

        if name not in failures:
            asked = replace(share, runner=name, turn=turn)
            try:
                sessions[name].append(_measure(asked, repeats, clock, advance_within))
            except (RunnerError, MemoryError) as error:
                failures[name] = error
        advance_within(1.0)
    if len(failures) == len(runners):
        raise _all_failed(failures)
    return tuple(
        Measured(name, (), _reason(failures[name]))
        if name in failures
        else Measured(name, tuple(sessions[name]))
        for name in runners
    )


def _measure(
    request: Request, repeats: int, clock: Clock | None, advance: Callable[[float], None]
) -> Session:
    if repeats == 1:
        return measure_session(request, clock or time.perf_counter_ns, advance)
    return measure_in_child(request, advance)


def _all_failed(failures: dict[str, Exception]) -> Exception:
    if len(failures) == 1:
        return next(iter(failures.values()))
    reasons = "; ".join(f"{name}: {_reason(error)}" for name, error in failures.items())
    return RunnerError(f"no runner could measure. {reasons}")


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller batch"
    return " ".join(str(error).split())
