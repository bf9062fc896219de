"""A training run: built from its settings, resumed if unfinished, kept in its directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing

from nas_gan.data.images import Images
from nas_gan.errors import InvalidValueError
from nas_gan.files import write_json
from nas_gan.interrupts import held_back, let_through
from nas_gan.networks.activations import freeze_activations_
from nas_gan.settings import plain_settings
from nas_gan.training.build import build_networks, build_step
from nas_gan.training.config import TrainConfig
from nas_gan.training.distributed import Processes, broadcast_from_main
from nas_gan.training.files import RunFiles, fingerprint, reasons
from nas_gan.training.log import RunLog
from nas_gan.training.loop import (
    Callback,
    Every,
    EveryMinutes,
    StoppingRule,
    TrainingResult,
    run_training,
)
from nas_gan.training.measuring import Measure
from nas_gan.training.state import Position, resume


def train(
    config: TrainConfig,
    images: Images,
    *,
    on_update: Callable[[int], None] = lambda n: None,
    measure: Measure | None = None,
    processes: Processes | None = None,
) -> TrainingResult:
    """Train what `config` describes, or resume it, and keep the run in its directory.

    Args:
        config: every setting of the run.
        images: the data set, in the size of the networks.
        on_update: called with the number of updates finished since its last call.
        measure: scores the averaged generator. If an FID is among its figures, the upper bound
            follows it and the best weights are kept.
        processes: those of the run; only the main one measures and writes. None is this one alone.

    Raises:
        InvalidValueError: the settings describe no run, or do not fit the data.
        CheckpointError: the directory holds a run with other settings or data.
    """
    processes = processes or Processes(device=config.device)
    for name in ("alarm_fid_factor", "alarm_kernel_margin"):
        if processes.count > 1 and getattr(config, name) is not None:
            raise InvalidValueError(
                f"is for a run in one process; there are {processes.count}", setting=name
            )
    networks = build_networks(config)
    step = build_step(config, networks, images, processes)
    settings = fingerprint(config, images)
    start = resume(config.run_dir, settings, step, reasons(config))
    first = start.done

    def update(index: int) -> Mapping[str, float]:
        epoch = step.schedule.epoch(index)
        for network in (networks.generator, networks.discriminator):
            freeze_activations_(network, epoch=epoch, from_epoch=config.freeze_activations_from)
        return step(index)

    def train_with(
        *callbacks: Callback,
        on_interrupt: Callback = lambda index, scalars: None,
        stopping_rule: StoppingRule | None = None,
    ) -> TrainingResult:
        return run_training(
            update,
            n_steps=config.steps,
            first=first,
            callbacks=callbacks,
            on_interrupt=on_interrupt,
            stopping_rule=stopping_rule,
        )

    if not processes.is_main:

        def follow(index: int, scalars: Mapping[str, float]) -> None:
            step.upper_bound.validated(broadcast_from_main(0.0, processes))

        period = config.eval_every if config.measures_fid else 0
        measured = Every(period, follow, config.steps)
        with held_back():  # the main process ends the run, between two steps
            if start.unmeasured:
                measured(first - 1, {})
            return train_with(measured)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    write_json(config.run_dir / "config.json", plain_settings(config))
    with closing(RunLog(config.run_dir, first)) as log:
        files = RunFiles(config, networks, step, images, settings, log)

        def evaluate(index: int, scalars: Mapping[str, float]) -> None:
            if measure is None:
                return
            try:
                with let_through():  # it can take minutes
                    figures = measure(networks.averaged)
            except KeyboardInterrupt:
                files.save_at(Position(index + 1, unmeasured=True))
                raise
            files.measured(index, figures)
            if config.measures_fid:
                step.upper_bound.validated(broadcast_from_main(figures["fid"], processes))

        last_callbacks = (
            Every(config.eval_every, evaluate, config.steps),
            Every(config.snapshot_every, files.snapshot),
            Every(config.save_every, files.save, config.steps),
            EveryMinutes(config.save_every_minutes, files.save),
        )
        on_update(first)
        if start.unmeasured:
            with held_back():
                for callback in last_callbacks:
                    callback(first - 1, {})
        return train_with(
            lambda index, scalars: on_update(1),
            Every(config.log_every, files.log_scalars, config.steps),
            Every(config.sample_every, files.sample, config.steps),
            *last_callbacks,
            on_interrupt=files.save,
            stopping_rule=lambda index, scalars: files.alarm.reason,
        )
