"""The scenario server: queries that arrive whether or not the model is free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_bench.inputs import Feed
from edge_bench.runners import Infer

# A sleeping thread wakes up late, so that it looks at the clock for the rest.
SPIN_NS = 500_000
# How long beyond twice the schedule queries are answered before the rest is given up on.
PATIENCE_NS = 1_000_000_000


@dataclass(frozen=True)
class Served:
    """The queries of a schedule.

    `latencies_ns`, `(n,)`, count from the scheduled arrival to the complete images; those behind
    the first `answered` had waited as long when they were given up on. `seconds` is the time until
    the last answer.
    """

    latencies_ns: NDArray[np.int64]
    answered: int
    seconds: float


def serve(
    runner: Infer,
    feed: Feed,
    arrivals_ns: NDArray[np.int64],
    clock: Callable[[], int],
    sleep: Callable[[float], None],
    advance: Callable[[float], None] = lambda fraction: None,
) -> Served:
    """Answer queries one after the other, in the order in which they arrive.

    A query that arrives while another is answered waits, and its latency counts from its arrival. A
    model that falls behind without end is stopped at twice the length of the schedule and a second.

    Args:
        runner: What answers.
        feed: The query.
        arrivals_ns: When queries arrive, `(n,)`, from the start of the schedule.
        clock: Nanoseconds since a fixed moment.
        sleep: Waits for so many seconds.
        advance: Called with the finished fraction, 0 to 1.
    """
    latencies = np.zeros(len(arrivals_ns), np.int64)
    limit = 2 * int(arrivals_ns[-1]) + PATIENCE_NS
    start = done = clock()
    answered = 0
    for arrival in (start + int(at) for at in arrivals_ns):
        left = arrival - clock()
        if left > SPIN_NS:
            sleep((left - SPIN_NS) / 1e9)
        while clock() < arrival:
            pass
        runner.infer(*feed)
        done = clock()
        latencies[answered] = max(1, done - arrival)
        answered += 1
        advance(answered / len(latencies))
        if done - start > limit:
            break
    waited = done - start - arrivals_ns[answered:]
    latencies[answered:] = np.maximum(1, waited)
    return Served(latencies, answered, (done - start) / 1e9)
