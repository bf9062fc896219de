from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from export.speed import MIN_RUNS, WARMUP, Timing, times_ms

LATENTS = {"latents": np.arange(6, dtype=np.float32).reshape(3, 2)}


@dataclass
class Clock:
    now: int = 0

    def __call__(self) -> int:
        return self.now


@dataclass
class Graph:
    """Takes so many milliseconds, and longer the later it is."""

    clock: Clock
    ms: float
    drift: float = 0.0
    fed: list[np.ndarray] = field(default_factory=list)

    def images(self, arrays):
        self.fed.append(arrays["latents"])
        self.clock.now += int(1e6 * self.ms * (1 + self.drift * self.clock.now / 1e9))
        return arrays["latents"]


def test_the_median_of_each_graph_in_milliseconds():
    clock = Clock()
    graphs = [Graph(clock, 4.0), Graph(clock, 1.0)]
    assert times_ms(graphs, LATENTS, Timing(clock=clock, seconds=0)) == [4.0, 1.0]
    assert [len(graph.fed) for graph in graphs] == [WARMUP + MIN_RUNS] * 2


def test_graphs_take_turns_so_that_a_machine_that_slows_down_slows_all_of_them():
    clock = Clock()
    graphs = [Graph(clock, 2.0, drift=5.0), Graph(clock, 1.0, drift=5.0)]
    slow, fast = times_ms(graphs, LATENTS, Timing(clock=clock, seconds=0.1))
    assert slow / fast == pytest.approx(2.0, rel=0.02)
    assert slow > 2.2


def test_a_batch_larger_than_the_bank_repeats_it():
    clock = Clock()
    graph = Graph(clock, 1.0)
    times_ms([graph], LATENTS, Timing(batch=5, clock=clock, seconds=0))
    np.testing.assert_array_equal(graph.fed[0], LATENTS["latents"][[0, 1, 2, 0, 1]])
