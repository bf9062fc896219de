"""A training run: built from its settings, resumed if unfinished, kept in its directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing

from nas_gan.data.images import Images
from nas_gan.files import write_json
from nas_gan.networks.activations import freeze_activations_
from nas_gan.settings import plain_settings
from nas_gan.training.build import build_networks, build_step
from nas_gan.training.config import TrainConfig
from nas_gan.training.distributed import Processes, broadcast_from_main
from nas_gan.training.files import RunFiles, fingerprint, reasons
from nas_gan.training.log import RunLog
from nas_gan.training.loop import Callback, Every, TrainingResult, run_training
from nas_gan.training.measuring import Measure
from nas_gan.training.state import resume


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
    networks = build_networks(config)
    step = build_step(config, networks, images, processes)
    settings = fingerprint(config, images)
    first = resume(config.run_dir, settings, step, reasons(config))

    def update(index: int) -> Mapping[str, float]:
        epoch = step.schedule.epoch(index)
        for network in (networks.generator, networks.discriminator):
            freeze_activations_(network, epoch=epoch, from_epoch=config.freeze_activations_from)
        return step(index)

    def train_with(*callbacks: Callback) -> TrainingResult:
        return run_training(update, n_steps=config.steps, first=first, callbacks=callbacks)

    if not processes.is_main:

        def follow(index: int, scalars: Mapping[str, float]) -> None:
            step.upper_bound.validated(broadcast_from_main(0.0, processes))

        period = config.eval_every if config.measures_fid else 0
        return train_with(Every(period, follow, config.steps))
    config.run_dir.mkdir(parents=True, exist_ok=True)
    write_json(config.run_dir / "config.json", plain_settings(config))
    with closing(RunLog(config.run_dir, first)) as log:
        files = RunFiles(config, networks, step, images, settings, log)

        def evaluate(index: int, scalars: Mapping[str, float]) -> None:
            if measure is not None:
                figures = measure(networks.averaged)
                files.measured(index, figures)
                if config.measures_fid:
                    step.upper_bound.validated(broadcast_from_main(figures["fid"], processes))

        on_update(first)
        return train_with(
            lambda index, scalars: on_update(1),
            Every(config.log_every, files.log_scalars, config.steps),
            Every(config.sample_every, files.sample, config.steps),
            Every(config.eval_every, evaluate, config.steps),
            Every(config.snapshot_every, files.snapshot),
            Every(config.save_every, files.save, config.steps),
        )
