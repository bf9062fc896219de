import itertools
import math
import os
import signal

import pytest

from nas_gan.interrupts import interruptible
from nas_gan.training.loop import Every, EveryMinutes, run_training


class Recorder:
    def __init__(self):
        self.seen = []

    def __call__(self, index, scalars):
        self.seen.append((index, dict(scalars)))


def countdown(index):
    return {"loss": 10.0 - index}


def test_every_update_reaches_every_callback_in_order():
    first, second = Recorder(), Recorder()
    result = run_training(countdown, n_steps=3, callbacks=[first, second])
    assert first.seen == second.seen == [(i, {"loss": 10.0 - i}) for i in range(3)]
    assert (result.step, result.status, result.scalars) == (3, "finished", {"loss": 8.0})


def test_callbacks_may_come_from_a_generator():
    recorder = Recorder()
    run_training(countdown, n_steps=2, callbacks=(c for c in [recorder]))
    assert len(recorder.seen) == 2


def test_a_run_goes_on_at_its_first_index():
    recorder = Recorder()
    assert run_training(countdown, n_steps=5, first=3, callbacks=[recorder]).step == 5
    assert [index for index, _ in recorder.seen] == [3, 4]


def test_a_finished_run_does_nothing():
    result = run_training(countdown, n_steps=3, first=3)
    assert (result.step, result.status, result.scalars) == (3, "finished", {})


def test_the_rule_stops_after_its_update_and_says_why():
    def rule(index, scalars):
        return "low enough" if scalars["loss"] <= 7 else None

    recorder = Recorder()
    result = run_training(countdown, n_steps=100, stopping_rule=rule, callbacks=[recorder])
    assert (result.step, result.status, result.message) == (4, "stopped", "low enough")
    assert len(recorder.seen) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_scalar_ends_the_run_before_callbacks_see_it(value):
    recorder = Recorder()
    result = run_training(
        lambda index: {"loss/d": 1.0, "loss/g": value if index == 2 else 1.0},
        n_steps=10,
        callbacks=[recorder],
    )
    assert (result.status, result.step) == ("diverged", 2)
    assert result.message == "update 2: loss/g is not finite"
    assert [index for index, _ in recorder.seen] == [0, 1]


def test_the_runtime_is_that_of_the_clock_it_was_given():
    clock = itertools.count(100.0, 2.5).__next__
    assert run_training(countdown, n_steps=4, clock=clock).runtime == 2.5


@pytest.mark.parametrize(
    ("period", "last", "expected"),
    [(3, None, [2, 5]), (3, 8, [2, 5, 7]), (4, 8, [3, 7]), (100, 8, [7]), (0, 8, [])],
)
def test_every_counts_finished_updates(period, last, expected):
    recorder = Recorder()
    run_training(countdown, n_steps=8, callbacks=[Every(period, recorder, last)])
    assert [index for index, _ in recorder.seen] == expected


def test_minutes_count_from_the_last_time():
    seconds = iter([0.0, 59.0, 60.0, 61.0, 120.0, 121.0, 122.0])
    ran: list[int] = []
    every = EveryMinutes(1.0, lambda index, scalars: ran.append(index), lambda: next(seconds))
    for index in range(4):
        every(index, {})
    # At 60 s it runs and ends at 61 s; 120 s is too early, and 121 s is not.
    assert ran == [1, 3]
    never = EveryMinutes(0.0, lambda index, scalars: ran.append(index), lambda: 1e9)
    never(7, {})
    assert ran == [1, 3]


def test_an_interrupt_between_two_steps_is_told_which_was_the_last():
    told: list[int] = []

    def step(index: int) -> dict[str, float]:
        if index == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return {"loss": 0.0}

    def note(index, scalars):
        told.append(index)

    with interruptible(), pytest.raises(KeyboardInterrupt):
        run_training(step, n_steps=9, on_interrupt=note)
    assert told == [2]


def test_an_interrupt_in_the_middle_of_a_step_is_not_told():
    def step(index: int) -> dict[str, float]:
        raise KeyboardInterrupt

    def note(index, scalars):
        pytest.fail("half a step is no state")

    with pytest.raises(KeyboardInterrupt):
        run_training(step, n_steps=9, on_interrupt=note)
