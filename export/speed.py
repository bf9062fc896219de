"""Times of graphs in ONNX Runtime on this CPU, taken in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any, Protocol

import numpy as np

from export.sessions import PROVIDER, Arrays

# What is timed first, untimed runs aside, is timed last in the next round.
WARMUP = 3
MIN_RUNS, MAX_RUNS = 9, 400


class Runs(Protocol):
    """What is timed: something that makes images of inputs."""

    def images(self, arrays: Arrays) -> np.ndarray[Any, Any]:
        """The images for inputs by name."""
        ...


@dataclass(frozen=True)
class Timing:
    """How graphs are timed.

    Attributes:
        batch: images per run.
        threads: CPU threads of ONNX Runtime.
        seconds: how long each graph is timed, beyond a minimum number of runs.
        clock: the time in nanoseconds; by default that of the processor for one thread, which stops
            while other programs run, and that of the wall for more.
    """

    batch: int = 8
    threads: int = 1
    seconds: float = 1.0
    clock: Callable[[], int] | None = None

    def describe(self) -> str:
        """The runtime and how it is run, in words."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"onnxruntime {version('onnxruntime')}, {PROVIDER}, {threads}, batch {self.batch}"


def times_ms(graphs: Sequence[Runs], arrays: Arrays, timing: Timing) -> list[float]:
    """The median milliseconds per run of each graph, which take turns.

    Whatever else this machine does, and how warm it is, then affects all of them alike.

    Args:
        graphs: what is timed.
        arrays: inputs by name; the first `timing.batch` rows are used, repeated if there are fewer.
        timing: how.

    Returns:
        Milliseconds in the order of the graphs.

    Raises:
        ExportError: a graph does not run.
    """
    clock = timing.clock or (time.process_time_ns if timing.threads == 1 else time.perf_counter_ns)
    feed = {name: np.resize(a, (timing.batch, *a.shape[1:])) for name, a in arrays.items()}
    for graph in graphs:
        for _ in range(WARMUP):
            graph.images(feed)
    taken: list[list[int]] = [[] for _ in graphs]
    order = list(range(len(graphs)))
    limit = int(timing.seconds * 1e9) * len(graphs)
    spent = 0
    while len(taken[0]) < MIN_RUNS or (spent < limit and len(taken[0]) < MAX_RUNS):
        for place in order:
            start = clock()
            graphs[place].images(feed)
            elapsed = clock() - start
            taken[place].append(elapsed)
            spent += elapsed
        order.reverse()
    return [median(runs) / 1e6 for runs in taken]
