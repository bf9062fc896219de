"""What a run trains, and how: its networks and its step, built from its settings."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from nas_gan.data.batches import LabelledBatches, ShuffledBatches
from nas_gan.data.images import Images
from nas_gan.data.loading import load_dataset
from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.losses import AdversarialLoss, ImageNoise, make_loss
from nas_gan.losses.scores import ScoreLoss
from nas_gan.losses.settings import customised_loss
from nas_gan.networks.interface import GeneratorInterface, interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.networks.models import build_model
from nas_gan.networks.standing import measure_standing_statistics_
from nas_gan.progress import Progress, no_progress
from nas_gan.seeds import folded
from nas_gan.training.augmentation import Augmentation
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import (
    Architecture,
    blueprint,
    describe_networks,
)
from nas_gan.training.distributed import (
    Processes,
    Share,
    check_divides,
    exchange_among,
    global_batch_norm_,
)
from nas_gan.training.draws import StepLatents
from nas_gan.training.learner import Learner
from nas_gan.training.optimizers import (
    LINEAR_DECAY,
    OPTIMIZERS,
    SCHEDULERS,
    OptimizerSettings,
    SchedulerSettings,
    given_settings,
    make_optimizer,
    make_scheduler,
)
from nas_gan.training.schedule import Schedule
from nas_gan.training.seeds import Stream
from nas_gan.training.skipping import DynamicSkipping
from nas_gan.training.steps import AdversarialStep, Batches, Compute, Logged
from nas_gan.training.upper_bound import UpperBoundSchedule


@dataclass(frozen=True)
class Networks:
    """The two networks of a run, the average, and the descriptions they were built from.

    `standing` are latents `(n, input_width)` for the batch statistics of the averaged generator.
    """

    generator: nn.Module
    discriminator: nn.Module
    average: ExponentialMovingAverage
    g_architecture: Architecture
    d_architecture: Architecture
    standing: Tensor | None

    @property
    def averaged(self) -> nn.Module:
        """The averaged generator as it is saved, sampled and measured: in float32."""
        average = self.average.average
        if self.standing is not None:
            # A fresh one, without the batch norms that ask other processes for their moments.
            with torch.random.fork_rng(devices=[]):
                fresh = build_model(self.g_architecture)
            fresh.load_state_dict(average.state_dict())
            device = next(average.parameters()).device
            measure_standing_statistics_(fresh.to(device), self.standing.to(device))
            return fresh.requires_grad_(False)
        if all(tensor.dtype != torch.float64 for tensor in average.state_dict().values()):
            return average
        return copy.deepcopy(average).float()

    @property
    def interface(self) -> GeneratorInterface:
        """What the generator takes and makes."""
        return interface_of(self.generator)


def load_images(config: TrainConfig, progress: Progress = no_progress) -> Images:
    """The data set of a run, in the size and the colours of its networks.

    `progress` shows a bar while the files of a folder are looked at.

    Raises:
        InvalidValueError: the networks need classes that the data set does not have.
    """
    interface = interface_of(blueprint(describe_networks(config)[0]))
    return load_dataset(
        config.dataset,
        size=interface.image_size,
        root=config.data_root,
        channels=interface.image_shape[0],
        fit=config.fit,
        background=config.background,
        labelled=interface.conditional,
        classes=interface.n_classes,
        progress=progress,
    )


def build_networks(config: TrainConfig) -> Networks:
    """Initialised networks on the run's device, in its precision.

    Raises:
        InvalidValueError: the settings describe no networks, or two that do not fit each other.
    """
    g_architecture, d_architecture = describe_networks(config)
    rng = torch.Generator().manual_seed(folded(config.seed + Stream.GENERATOR))
    generator = build_model(g_architecture, init=config.init, rng=rng)
    rng = torch.Generator().manual_seed(folded(config.seed + Stream.DISCRIMINATOR))
    # The power iteration of spectral norm starts from the global generator.
    torch.manual_seed(folded(config.seed))
    discriminator = build_model(d_architecture, "discriminator", init=config.init, rng=rng)
    _check_pair(generator, discriminator)
    for network in (generator, discriminator):
        network.to(config.device, weight_type(config)).to(memory_format=torch.channels_last)
        global_batch_norm_(network)
    average = ExponentialMovingAverage(generator, config.ema_decay, warm_up=config.ema_warm_up)
    standing = None
    if n := config.standing_statistics:
        seed = config.seed + Stream.STATISTICS
        standing = latents_of(interface_of(generator), n, seed)
    return Networks(generator, discriminator, average, g_architecture, d_architecture, standing)


def weight_type(config: TrainConfig) -> torch.dtype:
    """The type of a run's weights; with bf16 they are float32 too."""
    return torch.float64 if config.precision == "fp64" else torch.float32


def _check_pair(generator: nn.Module, discriminator: nn.Module) -> None:
    for name, default in (("image_shape", None), ("n_classes", 0)):
        made, seen = (getattr(net, name, default) for net in (generator, discriminator))
        # The searched discriminators take images of any size and say none.
        if seen is not None and seen != made:
            raise InvalidValueError(
                f"the generator has {name} {made}, the discriminator {seen}: they do not fit"
            )


def build_step(
    config: TrainConfig, networks: Networks, images: Images, processes: Processes | None = None
) -> AdversarialStep:
    """The adversarial update of a run, on this process's share of every batch.

    Raises:
        InvalidValueError: a name is unknown, the data have not the classes of the networks, or a
            batch does not divide into equal parts for all processes.
    """
    processes = processes or Processes(device=config.device)
    batches = ShuffledBatches(images, config.batch_size, config.seed, flip=config.flip)
    real: Callable[[int], Any] = batches
    if networks.interface.conditional:
        real = LabelledBatches(batches, networks.interface.n_classes)
    latents, g_latents = (
        _share(StepLatents(seed, n, networks.interface), n, processes)
        for seed, n in (
            (config.seed + Stream.UPDATES, config.batch_size),
            (
                config.seed + Stream.GENERATOR_UPDATES,
                config.generator_batch_size or config.batch_size,
            ),
        )
    )
    larger = config.generator_batch_size not in (None, config.batch_size)
    return AdversarialStep(
        _learner(config, "g", networks.generator, config.steps // config.n_critic),
        _learner(config, "d", networks.discriminator, config.steps // config.d_every),
        build_loss(config),
        average=networks.average,
        upper_bound=UpperBoundSchedule(
            config.upper_bound,
            config.upper_bound_start,
            config.upper_bound_end,
            config.upper_bound_increase,
        ),
        batches=Batches(
            _share(real, config.batch_size, processes),
            latents,
            g_latents if larger else None,
            Augmentation(config.diffaugment),
        ),
        schedule=Schedule(
            config.steps,
            batches.per_epoch,
            n_critic=config.n_critic,
            d_every=config.d_every,
            d_skipping=_skipping(config),
        ),
        compute=Compute(bf16=config.precision == "bf16", compile_backend=_backend(config)),
        logged=Logged(
            gradients=config.log_gradients,
            health=config.log_health or config.alarm_kernel_margin is not None,
        ),
        exchange=exchange_among(processes),
    )


def _learner(config: TrainConfig, role: str, network: nn.Module, n_updates: int) -> Learner:
    """The network `role`, `g` or `d`, with the optimiser and the schedule that a run names."""
    optimizer = _optimizer(config, role, network)
    scheduler = _scheduler(config, role, optimizer, n_updates)
    return Learner(network, optimizer, scheduler, getattr(config, f"{role}_clip"))


def _skipping(config: TrainConfig) -> DynamicSkipping | None:
    if config.d_skip_from is None:
        return None
    return DynamicSkipping(config.d_skip_from, config.seed + Stream.SKIPPING)


def _share(sampler: Callable[[int], Any], n: int, processes: Processes) -> Callable[[int], Any]:
    """This process's rows of batches of `n`."""
    check_divides(n, processes)
    return Share(sampler, processes) if processes.count > 1 else sampler


def _backend(config: TrainConfig) -> str | None:
    if not config.compile:
        return None
    known = torch.compiler.list_backends(exclude_tags=())
    if config.compile_backend not in known:
        raise unknown_name("compile_backend", config.compile_backend, known)
    return config.compile_backend


def build_loss(config: TrainConfig) -> AdversarialLoss:
    """The loss that a run names, with its settings, its labels and its noise."""
    labels = {
        "real": config.label_real,
        "fake": config.label_fake,
        "generator_label": config.label_generator,
    }
    loss = customised_loss(config.loss, config.loss_settings)
    given = {k: v for k, v in labels.items() if v is not None}
    if given:
        make_loss(config.loss, **given)  # whose errors tell which of them the loss has
        for key in given.keys() & config.loss_settings.given().keys():
            raise InvalidValueError(
                "is given twice, also as one of the label_ settings", setting=f"loss.{key}"
            )
        changes: dict[str, Any] = dict(given)
        loss = replace(loss, **changes)
    if not config.image_noise:
        return loss
    noise = ImageNoise(config.image_noise, config.image_noise_steps)
    return replace(loss, parts=replace(loss.parts, noise=noise))


def check_settings(config: TrainConfig) -> None:
    """Make the loss, the optimisers and the schedules of a run once, before its data are read.

    Raises:
        InvalidValueError: one of them cannot be made.
    """
    loss = build_loss(config)
    if config.alarm_kernel_margin is not None and isinstance(loss, ScoreLoss):
        raise InvalidValueError(
            f"is for MMD losses, which have kernels; the loss is {config.loss}",
            setting="alarm_kernel_margin",
        )
    for role in ("g", "d"):
        _learner(config, role, nn.Linear(1, 1), config.steps)


def _optimizer(config: TrainConfig, role: str, network: nn.Module) -> torch.optim.Optimizer:
    name, lr = getattr(config, f"{role}_optimizer"), getattr(config, f"{role}_lr")
    kind = {known.lower(): value for known, value in OPTIMIZERS.items()}.get(name.lower())
    takes = () if kind is None else inspect.signature(kind).parameters
    settings: dict[str, Any] = {}
    if "betas" in takes:
        settings["betas"] = (float(config.beta1), float(config.beta2))
    if config.momentum is not None:
        settings["momentum"] = float(config.momentum)
    if config.weight_decay:
        settings["weight_decay"] = float(config.weight_decay)
    own = given_settings(getattr(config, f"{role}_optimizer_settings"))
    with _told_of(f"{role}_optimizer", own, kind, OptimizerSettings):
        return make_optimizer(name, network.parameters(), lr, **{**settings, **own})


def _scheduler(
    config: TrainConfig, role: str, optimizer: torch.optim.Optimizer, n_updates: int
) -> LRScheduler | None:
    name: str | None = getattr(config, f"{role}_scheduler")
    own = given_settings(getattr(config, f"{role}_scheduler_settings"))
    if name is None:
        for key in own:
            raise InvalidValueError(
                f"needs a schedule; name one as {role}_scheduler, such as StepLR",
                setting=f"{role}_scheduler.{key}",
            )
        return None
    given = {"step_size": config.scheduler_step_size, "gamma": config.scheduler_gamma}
    settings: dict[str, Any] = {**{k: v for k, v in given.items() if v is not None}, **own}
    last_step = settings.pop("last_step", config.scheduler_last_step)
    if last_step is not None:
        step = settings.pop("step_size", None)
        if name.lower() != "steplr" or step is None:
            raise InvalidValueError(
                "scheduler_last_step ends a StepLR with a scheduler_step_size; "
                f"the scheduler is {name}, its step {step}"
            )
        # The same rates: a StepLR up to some update has milestones up to there.
        name = "MultiStepLR"
        settings["milestones"] = list(range(step, last_step + 1, step))
    kind = {known.lower(): value for known, value in SCHEDULERS.items()}.get(name.lower())
    with _told_of(
        f"{role}_scheduler",
        {k: v for k, v in own.items() if k in settings},
        kind,
        SchedulerSettings,
    ):
        return make_scheduler(name, optimizer, n_updates=max(n_updates, 1), **settings)


@contextmanager
def _told_of(
    table: str, own: Mapping[str, Any], kind: type[Any] | None, settings: type[Any]
) -> Iterator[None]:
    """Errors inside are about the table of settings, if any of its keys are given.

    `own` are the given ones of `settings`, which `kind` takes or not.

    Raises:
        InvalidValueError: the class takes no setting of the name of one of the keys.
    """
    takes = [] if kind is None else list(inspect.signature(kind).parameters)
    known = [field.name for field in fields(settings)]
    for key in own if takes else ():
        if key not in takes:
            others = [name for name in known if name in takes]
            assert kind is not None
            raise InvalidValueError(
                f"is not taken by {kind.__name__}; it takes {', '.join(others)}",
                setting=f"{table}.{key}",
            )
    try:
        yield
    except InvalidValueError as error:
        if not own:
            raise
        given = ", ".join(f"{key} = {value}" for key, value in own.items())
        raise InvalidValueError(f"with {given}: {error}", setting=table) from error


def end_dependence(config: TrainConfig) -> str | None:
    """What in a run depends on its number of steps, so that it cannot be extended; None if nothing.

    A schedule that follows the progress of the run would have been another one from the start.
    """
    if config.upper_bound == "geometric":
        return "the geometric upper bound"
    for role in ("g", "d"):
        name = getattr(config, f"{role}_scheduler")
        own = given_settings(getattr(config, f"{role}_scheduler_settings"))
        length = {LINEAR_DECAY: "total_iters", "cosineannealinglr": "T_max"}
        if name is not None and length.get(name.lower(), "") not in ("", *own):
            return f"{role}_scheduler {name}"
    return None
