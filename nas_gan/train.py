"""Train a generator: `python -m nas_gan.train --config fashion_mnist`.

`--config` takes the name of a packaged preset or a .toml file. The run directory holds config.json,
state.pt (everything a continuation needs), ckpt.pt (averaged weights), best.pt (those of the best
FID, where it is measured), log.jsonl, TensorBoard events and sample grids. The same command goes on
where it was stopped; with more --steps a finished run goes on too. On several GPUs or processes:
`torchrun --nproc-per-node 2 -m nas_gan.train ...`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace

import torch
from torch import nn

from nas_gan.cli import progress, run
from nas_gan.data.images import Images
from nas_gan.data.loading import load_dataset
from nas_gan.devices import check_device
from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.files import write_json
from nas_gan.networks.activations import freeze_activations_
from nas_gan.training.build import build_networks, build_step, weight_type
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import blueprint, describe_networks, image_shape_of, n_classes_of
from nas_gan.training.distributed import Processes, joined_processes, told_by_main
from nas_gan.training.files import RunFiles, fingerprint, plain_settings, reasons
from nas_gan.training.log import RunLog
from nas_gan.training.loop import Callback, Every, TrainingResult, run_training
from nas_gan.training.preset import preset_from_arguments
from nas_gan.training.state import resume

# An averaged generator to its figures by name, such as `fid`.
Measure = Callable[[nn.Module], Mapping[str, float]]


def train(
    config: TrainConfig,
    images: Images,
    *,
    on_update: Callable[[int], None] = lambda n: None,
    measure: Measure | None = None,
    processes: Processes | None = None,
) -> TrainingResult:
    """Run, or go on with, the training that `config` describes, and keep it in its run directory.

    `measure` scores the averaged generator; where that has an FID, the upper bound follows it and
    the best weights are kept. `on_update(n)` is told of finished updates. Of several processes the
    main one alone measures and writes.
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
            step.upper_bound.validated(told_by_main(0.0, processes))

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
                    step.upper_bound.validated(told_by_main(figures["fid"], processes))

        on_update(first)
        return train_with(
            lambda index, scalars: on_update(1),
            Every(config.log_every, files.log_scalars, config.steps),
            Every(config.sample_every, files.sample, config.steps),
            Every(config.eval_every, evaluate, config.steps),
            Every(config.snapshot_every, files.snapshot),
            Every(config.save_every, files.save, config.steps),
        )


def load_images(config: TrainConfig) -> Images:
    """The data set of a run, in the size and the colours of its networks.

    Raises:
        InvalidValueError: the networks are for images that are not square, or there are no labels
            where they want some.
    """
    generator = blueprint(describe_networks(config)[0])
    channels, height, width = image_shape_of(generator)
    if height != width:
        raise InvalidValueError(f"data sets are square; the generator makes {height} x {width}")
    return load_dataset(
        config.dataset,
        size=height,
        root=config.data_root,
        channels=channels,
        fit=config.fit,
        labelled=n_classes_of(generator) > 0,
    )


def make_measure(config: TrainConfig, images: Images) -> Measure | None:
    """A function that scores a generator, or None where no evaluation was asked for.

    Raises:
        InvalidValueError: an accuracy is asked for and the generator has no classes.
    """
    if not config.eval_every:
        return None
    makers = {"fid": _fid, "accuracy": _accuracy}
    scores = {name: makers[name](config, images) for name in config.eval_metrics}
    return lambda generator: {name: score(generator) for name, score in scores.items()}


def _fid(config: TrainConfig, images: Images) -> Callable[[nn.Module], float]:
    """The distance of a generator's images to the reference that a run names."""
    from nas_gan.metrics.features import make_extractor
    from nas_gan.metrics.frechet import FrechetReference, StreamingStatistics
    from nas_gan.metrics.reference import cache_dir, find_reference
    from nas_gan.metrics.sampling import extract_features, latents_of

    extractor = make_extractor(config.features, device=config.device)
    statistics, _ = find_reference(
        config.reference,
        extractor,
        dataset=config.dataset,
        resolution=images[torch.zeros(1, dtype=torch.long)].shape[-1],
        data=lambda: images,
        cache=cache_dir(),
    )
    reference = FrechetReference(statistics)

    def measure(generator: nn.Module) -> float:
        latents = latents_of(generator, config.eval_samples, config.seed + 4)
        streaming = StreamingStatistics(extractor.dim)
        streaming.update(extract_features(generator, latents, extractor, device=config.device))
        return reference.distance(streaming.result())

    return measure


def _accuracy(config: TrainConfig, images: Images) -> Callable[[nn.Module], float]:
    """The share of images in which a classifier of the run's data sees the class asked for."""
    from nas_gan.metrics.classifier import class_accuracy, find_classifier, n_updates
    from nas_gan.metrics.reference import cache_dir

    if not n_classes_of(blueprint(describe_networks(config)[0])):
        raise InvalidValueError(
            f"accuracy among eval_metrics is for conditional generators; {config.model} has no "
            "classes"
        )
    with progress("classifier", n_updates(images)) as advance:
        classifier = find_classifier(images, cache=cache_dir(), on_update=advance)

    def measure(generator: nn.Module) -> float:
        n, seed = config.eval_samples, config.seed + 4
        return class_accuracy(generator, classifier, n, seed, device=config.device)

    return measure


def main(config: TrainConfig) -> int:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with joined_processes(config.device) as processes:
        config = replace(config, device=processes.device)
        check_device(config.device, weight_type(config))
        images = load_images(config)
        measure = make_measure(config, images) if processes.is_main else None
        # One bar for all processes.
        bar = progress("training", config.steps) if processes.is_main else nullcontext(_ignore)
        with bar as advance:
            result = train(config, images, on_update=advance, measure=measure, processes=processes)
    if result.status == "diverged":
        raise DivergedError(f"{result.message}; the last good state is in {config.run_dir}")
    if processes.is_main:
        sys.stdout.write(f"{result.step} steps, {config.run_dir / 'ckpt.pt'}\n")
    return 0


def _ignore(n: int) -> None:
    pass


if __name__ == "__main__":
    sys.exit(
        run(
            main,
            TrainConfig,
            prog="python -m nas_gan.train",
            description=__doc__,
            default=lambda: preset_from_arguments(TrainConfig),
        )
    )
