from typing import Any

import pytest
import torch
from torch import nn

from nas_gan.data.loading import synthetic_shapes
from nas_gan.errors import InvalidValueError
from nas_gan.training.build import build_networks, build_step, check_settings, end_dependence
from nas_gan.training.config import TrainConfig
from nas_gan.training.optimizers import (
    OPTIMIZERS,
    SCHEDULERS,
    OptimizerSettings,
    SchedulerSettings,
    make_optimizer,
    make_scheduler,
)


@pytest.fixture
def parameters():
    return [nn.Parameter(torch.ones(2))]


def rates(scheduler, n):
    seen = []
    for _ in range(n):
        seen.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("name", ["Adam", "adam", "RMSprop", "SGD", "adamw"])
def test_an_optimizer_is_found_by_its_name(name, parameters):
    optimizer = make_optimizer(name, parameters, 0.5)
    assert type(optimizer).__name__.lower() == name.lower()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_settings_reach_the_optimizer(parameters):
    optimizer = make_optimizer("RMSprop", iter(parameters), 5e-5, alpha=0.9, eps=1e-7)
    group = optimizer.param_groups[0]
    assert (group["alpha"], group["eps"], group["params"]) == (0.9, 1e-7, parameters)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adm", {}, "did you mean Adam"),
        ("nothing like it", {}, "choose one of .*RMSprop"),
        ("Adam", {"beta": 0.5}, "no setting 'beta'; did you mean betas"),
        ("Adam", {"betas": (2.0, 0.9)}, "optimizer Adam: Invalid beta"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_refused(name, settings, message, parameters):
    with pytest.raises(InvalidValueError, match=message):
        make_optimizer(name, parameters, 0.1, **settings)


def test_a_constant_rate_needs_no_scheduler(parameters):
    assert make_scheduler(None, make_optimizer("SGD", parameters, 1.0), n_updates=4) is None


def test_linear_decay_falls_to_zero_and_stays_there(parameters):
    scheduler = make_scheduler("linear_decay", make_optimizer("SGD", parameters, 2.0), n_updates=4)
    assert rates(scheduler, 6) == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0, 0.0])


def test_the_published_step_decay(parameters):
    optimizer = make_optimizer("SGD", parameters, 1.0)
    scheduler = make_scheduler("StepLR", optimizer, n_updates=9, step_size=2, gamma=0.97)
    assert rates(scheduler, 5) == pytest.approx([1, 1, 0.97, 0.97, 0.97**2])


def test_a_cosine_takes_the_whole_run_unless_told(parameters):
    for settings, at_the_middle in (({}, 0.5), ({"T_max": 4}, 1.0)):
        scheduler = make_scheduler(
            "cosineannealinglr",
            make_optimizer("SGD", parameters, 1.0),
            n_updates=16,
            **settings,
        )
        assert rates(scheduler, 9)[8] == pytest.approx(at_the_middle)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("StepRL", {}, "did you mean StepLR"),
        ("ReduceLROnPlateau", {}, "is not known"),
        ("StepLR", {"step": 3}, "no setting 'step'; did you mean step_size"),
        ("StepLR", {}, "scheduler StepLR: .*step_size"),
    ],
)
def test_a_scheduler_that_cannot_be_made_is_refused(name, settings, message, parameters):
    with pytest.raises(InvalidValueError, match=message):
        make_scheduler(name, make_optimizer("SGD", parameters, 1.0), n_updates=4, **settings)


def test_the_tables_hold_classes_that_can_be_used():
    assert {"Adam", "RMSprop", "SGD"} <= set(OPTIMIZERS)
    assert {"StepLR", "ExponentialLR", "LinearLR"} <= set(SCHEDULERS)
    assert not {"Optimizer", "LRScheduler"} & (set(OPTIMIZERS) | set(SCHEDULERS))


def test_the_networks_have_optimisers_and_schedules_of_their_own():
    config = TrainConfig(
        dataset="synthetic", gf_dim=4, df_dim=4, batch_size=4, steps=4, beta1=0.1,
        d_optimizer="SGD", momentum=None, weight_decay=0.25,
        g_optimizer_settings=OptimizerSettings(betas=(0.5, 0.999), eps=1e-3),
        d_optimizer_settings=OptimizerSettings(momentum=0.75, weight_decay=0.5),
        d_scheduler="StepLR", d_scheduler_settings=SchedulerSettings(step_size=2, gamma=0.5),
    )  # fmt: skip
    step = build_step(config, build_networks(config), synthetic_shapes(size=32))
    g, d = (learner.optimizer.param_groups[0] for learner in (step.g, step.d))
    assert (g["betas"], g["eps"], g["weight_decay"]) == ((0.5, 0.999), 1e-3, 0.25)
    assert (d["momentum"], d["weight_decay"]) == (0.75, 0.5)
    assert step.g.scheduler is None
    assert step.d.scheduler is not None
    assert rates(step.d.scheduler, 3) == pytest.approx([2e-4, 2e-4, 1e-4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_optimizer_settings": OptimizerSettings(momentum=0.5)},
         "^d_optimizer.momentum is not taken by Adam; it takes betas, eps, weight_decay, amsgrad$"),
        ({"g_optimizer_settings": OptimizerSettings(betas=(2.0, 0.9))},
         "^g_optimizer with betas = .*Invalid beta"),
        ({"g_scheduler_settings": SchedulerSettings(gamma=0.5)},
         "^g_scheduler.gamma needs a schedule; name one as g_scheduler"),
        ({"g_scheduler": "StepLR", "g_scheduler_settings": SchedulerSettings(T_max=3)},
         "^g_scheduler.T_max is not taken by StepLR; it takes step_size, gamma$"),
    ],
)  # fmt: skip
def test_settings_that_a_class_does_not_take_are_refused_by_table_and_key(changes, message):
    with pytest.raises(InvalidValueError, match=message):
        check_settings(TrainConfig(**changes))


def test_a_number_that_is_none_is_refused():
    with pytest.raises(InvalidValueError, match=r"^g_optimizer\.eps must be finite; got nan"):
        TrainConfig(g_optimizer_settings=OptimizerSettings(eps=float("nan")))


def test_a_decay_of_its_own_length_lets_a_run_be_extended():
    fixed: dict[str, Any] = {"upper_bound": "fixed", "g_scheduler": "linear_decay"}
    assert end_dependence(TrainConfig(**fixed)) is not None
    own = SchedulerSettings(total_iters=9)
    assert end_dependence(TrainConfig(**fixed, g_scheduler_settings=own)) is None


@pytest.mark.parametrize("name", ["step_size", "total_iters", "T_max", "last_step"])
def test_a_schedule_that_would_divide_by_zero_in_the_middle_of_a_run_is_refused(name):
    zero: dict[str, Any] = {name: 0}
    with pytest.raises(InvalidValueError, match=f"^d_scheduler.{name} must be at least 1; got 0"):
        TrainConfig(d_scheduler="StepLR", d_scheduler_settings=SchedulerSettings(**zero))
