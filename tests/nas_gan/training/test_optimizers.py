import pytest
import torch
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.training.optimizers import OPTIMIZERS, SCHEDULERS, make_optimizer, make_scheduler


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
