from __future__ import annotations

import gc

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_bench.errors import InvalidValueError
from edge_bench.timing import TimingPlan, measure, run_for

MS = 1_000_000
QUICK = TimingPlan(runs=20, warmup=0, duration_s=0, block=5)


class Machine:
    """A clock that moves only while a model runs; `log` is which model ran, in order."""

    def __init__(self):
        self.now = 0
        self.log: list[str] = []

    def __call__(self):
        return self.now


class Model:
    """Takes `cost(nth call)` nanoseconds of the machine's time for each latent row."""

    def __init__(self, machine, name, cost):
        self.machine, self.name, self.cost, self.calls = machine, name, cost, 0

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        [latents] = feed
        self.machine.now += int(self.cost(self.calls)) * len(latents)
        self.machine.log.append(self.name)
        self.calls += 1
        return latents


def bank(rows=8):
    return (np.zeros((rows, 2), np.float32),)


def test_times_are_those_of_the_clock_and_grow_with_the_batch():
    machine = Machine()
    model = Model(machine, "a", lambda n: 3 * MS)
    one, four = measure([model], [bank()], [1, 4], machine, QUICK)
    assert one.times_ns.tolist() == [[3 * MS] * 5] * 4
    assert four.times_ns.tolist() == [[12 * MS] * 5] * 4


def test_models_take_turns_and_each_round_begins_with_another():
    machine = Machine()
    models = [Model(machine, name, lambda n: MS) for name in "ab"]
    measure(models, [bank()] * 2, [1], machine, TimingPlan(4, 0, 0, block=2))
    # One untimed run at each change of model, then a block of two.
    assert "".join(machine.log) == "aaa" + "bbb" + "bbb" + "aaa"


def test_the_run_after_a_change_of_model_is_not_counted():
    machine = Machine()
    models = [Model(machine, "a", lambda n: 50 * MS if n % 6 == 0 else MS) for _ in range(2)]
    for timing in measure(models, [bank()] * 2, [1], machine, QUICK):
        assert (timing.times_ns == MS).all()


def test_a_drifting_machine_hits_interleaved_models_alike():
    machine = Machine()
    # Every call makes the whole machine 1 % slower; the second model does half the work.
    models = [Model(machine, name, lambda n: 0) for name in "ab"]
    models[0].cost = lambda n: 2 * MS * 1.01 ** len(machine.log)
    models[1].cost = lambda n: MS * 1.01 ** len(machine.log)
    first, other = measure(models, [bank()] * 2, [1], machine, TimingPlan(200, 0, 0, block=5))
    assert np.median(first.times_ns) / np.median(other.times_ns) == pytest.approx(2, rel=0.05)


def test_warm_up_goes_on_until_times_settle():
    machine = Machine()
    plan = TimingPlan(runs=10, warmup=5, duration_s=0, min_warmup_s=0)
    cold = Model(machine, "a", lambda n: (100 - n if n < 50 else 10) * MS)
    [timing] = measure([cold], [bank()], [1], machine, plan)
    assert timing.settled
    # Windows of 10: both have fallen to 10 ms by their medians after about 50 + 15 runs.
    assert 60 <= timing.warmup_runs <= 70
    assert (timing.times_ns == 10 * MS).all()


def test_warm_up_lasts_as_long_as_clocks_take_to_ramp_up():
    machine = Machine()
    plan = TimingPlan(runs=10, warmup=20, duration_s=0, min_warmup_s=0.2)
    [timing] = measure([Model(machine, "a", lambda n: MS)], [bank()], [1], machine, plan)
    assert (timing.warmup_runs, timing.settled) == (200, True)


def test_warm_up_ends_although_times_never_settle():
    machine = Machine()
    plan = TimingPlan(runs=10, warmup=20, duration_s=0, max_warmup_s=2)
    growing = Model(machine, "a", lambda n: 1.1**n * MS)
    [timing] = measure([growing], [bank()], [1], machine, plan)
    assert not timing.settled
    assert timing.warmup_runs == 56  # 10 (1.1^n - 1) ms passes 2000 ms at n = 56


def test_without_warm_up_nothing_runs_before_the_clock():
    machine = Machine()
    [timing] = measure([Model(machine, "a", lambda n: MS)], [bank()], [1], machine, QUICK)
    assert (timing.warmup_runs, len(machine.log)) == (0, 20)


@pytest.mark.parametrize(
    ("runs", "duration_s", "expected"),
    [(20, 0, 20), (20, 0.1, 100), (7, 0, 10), (3, 0, 3), (20, 60, 150)],
    ids=["runs", "duration", "whole blocks", "a short block", "max_runs"],
)
def test_measuring_ends_when_both_runs_and_duration_are_reached(runs, duration_s, expected):
    machine = Machine()
    plan = TimingPlan(runs, 0, duration_s, block=5, max_runs=150)
    [timing] = measure([Model(machine, "a", lambda n: MS)], [bank()], [1], machine, plan)
    assert timing.times_ns.size == expected


def test_progress_grows_from_zero_to_one_over_all_batches():
    machine = Machine()
    told: list[float] = []
    model = Model(machine, "a", lambda n: MS)
    measure([model], [bank()], [1, 2], machine, QUICK, told.append)
    assert told == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.625, 0.75, 0.875, 1]


def test_the_garbage_collector_rests_while_times_are_taken_and_is_back_after():
    seen: list[bool] = []
    machine = Machine()

    def cost(n):
        seen.append(gc.isenabled())
        return MS

    model = Model(machine, "a", cost)
    measure([model], [bank()], [1], machine, QUICK)
    assert not any(seen)
    assert gc.isenabled()


def test_running_for_a_time_counts_images_and_the_time_they_really_took():
    machine = Machine()
    # 4 images take 40 ms a call; the third call ends at 120 ms, past the 100 asked for.
    images, seconds = run_for(Model(machine, "a", lambda n: 10 * MS), bank(4), machine, 0.1)
    assert (images, seconds) == (12, 0.12)


@pytest.mark.parametrize(
    "wrong",
    [{"runs": 0}, {"block": 0}, {"warmup": -1}, {"duration_s": -1}, {"duration_s": float("nan")}],
    ids=str,
)
def test_a_plan_that_measures_nothing_is_refused(wrong):
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        TimingPlan(**wrong)
