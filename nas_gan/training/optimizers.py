"""Optimisers and learning-rate schedules of torch, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from nas_gan.errors import InvalidValueError

T = TypeVar("T")


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of one network's optimiser; None leaves what both have, or torch's default."""

    betas: tuple[float, float] | None = None
    """Decay of the averages of the gradient and of its square."""
    eps: float | None = None
    """What is added to the denominator."""
    weight_decay: float | None = None
    """Weight decay."""
    momentum: float | None = None
    """Momentum."""
    dampening: float | None = None
    """Dampening of the momentum, of SGD."""
    nesterov: bool | None = None
    """Nesterov's momentum, of SGD."""
    alpha: float | None = None
    """Decay of the average of the squared gradient, of RMSprop."""
    centered: bool | None = None
    """Whether RMSprop divides by the estimated variance."""
    amsgrad: bool | None = None
    """Whether Adam keeps the largest average of squares."""
    rho: float | None = None
    """Decay of the averages, of Adadelta."""


@dataclass(frozen=True)
class SchedulerSettings:
    """Settings of one network's learning rate schedule; None leaves what both have."""

    step_size: int | None = None
    """Updates between two steps of a StepLR."""
    gamma: float | None = None
    """Factor by which a schedule lowers the rate at each of its steps."""
    last_step: int | None = None
    """Update after which a StepLR leaves the rate alone."""
    milestones: tuple[int, ...] | None = None
    """Updates at which a MultiStepLR steps."""
    factor: float | None = None
    """Factor of a ConstantLR."""
    start_factor: float | None = None
    """Factor at the start of a LinearLR or of linear_decay."""
    end_factor: float | None = None
    """Factor at its end."""
    total_iters: int | None = None
    """Updates that a LinearLR, ConstantLR, PolynomialLR or linear_decay takes."""
    power: float | None = None
    """Power of a PolynomialLR."""
    T_max: int | None = None
    """Updates in half a period of a CosineAnnealingLR."""
    eta_min: float | None = None
    """Smallest rate of a cosine."""
    T_0: int | None = None
    """Updates before the first restart of a CosineAnnealingWarmRestarts."""
    T_mult: int | None = None
    """Factor by which the time between restarts grows."""


def given_settings(settings: OptimizerSettings | SchedulerSettings) -> dict[str, Any]:
    """The settings that are not None, by name."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {name: value for name, value in values.items() if value is not None}


def _classes(module: Any, base: type[T], *, but: Iterable[type] = ()) -> dict[str, type[T]]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value not in (base, *but)
        and not name.startswith("_")
    }


OPTIMIZERS = _classes(torch.optim, torch.optim.Optimizer)
# Without those that follow a measured quantity, which a step does not have, or take functions.
SCHEDULERS = _classes(
    torch.optim.lr_scheduler,
    LRScheduler,
    but=[
        torch.optim.lr_scheduler.ReduceLROnPlateau,
        torch.optim.lr_scheduler.SequentialLR,
        torch.optim.lr_scheduler.ChainedScheduler,
        torch.optim.lr_scheduler.LambdaLR,
        torch.optim.lr_scheduler.MultiplicativeLR,
    ],
)
LINEAR_DECAY = "linear_decay"


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], lr: float, **params: Any
) -> torch.optim.Optimizer:
    """The optimiser of torch called `name` (`Adam`, `RMSprop`, ...), in any case.

    Two calls with two rates make the two time scales of TTUR.

    Raises:
        InvalidValueError: torch has no such optimiser, or it takes no such setting or value.
    """
    kind = _find("optimizer", name, OPTIMIZERS)
    return _build("optimizer", kind, {"params": list(parameters), "lr": lr, **params})


def make_scheduler(
    name: str | None, optimizer: torch.optim.Optimizer, *, n_updates: int, **params: Any
) -> LRScheduler | None:
    """The learning-rate schedule of torch called `name`; None is a constant rate.

    It is stepped after each of the `n_updates` updates of its optimiser. `linear_decay` falls to 0
    over all of them and stays there; they are the period of CosineAnnealingLR, unless given.

    Raises:
        InvalidValueError: torch has no such schedule, or it takes no such setting or value.
    """
    if name is None:
        return None
    if name.lower() == LINEAR_DECAY:
        fixed = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": n_updates}
        return _build("scheduler", LinearLR, {"optimizer": optimizer, **fixed, **params})
    kind = _find("scheduler", name, SCHEDULERS, [LINEAR_DECAY])
    if kind is torch.optim.lr_scheduler.CosineAnnealingLR:
        params = {"T_max": n_updates, **params}
    return _build("scheduler", kind, {"optimizer": optimizer, **params})


def _find(what: str, name: str, known: dict[str, type[T]], more: Iterable[str] = ()) -> type[T]:
    by_lower = {key.lower(): key for key in (*known, *more)}
    key = by_lower.get(name.lower())
    if key is not None:
        return known[key]
    near = get_close_matches(name.lower(), by_lower, n=1)
    offer = f"did you mean {by_lower[near[0]]}? " if near else ""
    raise InvalidValueError(
        f"{what} {name!r} is not known; {offer}choose one of {', '.join(by_lower.values())}"
    )


def _build(what: str, kind: Callable[..., T], arguments: dict[str, Any]) -> T:
    name = getattr(kind, "__name__", str(kind))
    settings = [key for key in inspect.signature(kind).parameters if key not in ("params", "self")]
    for key in arguments:
        if key not in ("params", *settings):
            near = get_close_matches(key, settings, n=1)
            offer = f"did you mean {near[0]}? " if near else ""
            raise InvalidValueError(
                f"{what} {name} has no setting {key!r}; {offer}it has {', '.join(settings)}"
            )
    try:
        return kind(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InvalidValueError(f"{what} {name}: {error}") from error
