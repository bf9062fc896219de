"""Train a generator: `python -m nas_gan.train --config fashion_mnist`.

The run directory holds config.json, ckpt.pt (the averaged generator and the discriminator), best.pt
(the same at the best FID, if it is measured), state.pt (all that is needed to resume), log.jsonl,
TensorBoard events and sample grids.

Run the same command again to resume an unfinished run, or with more --steps to extend a finished
one. To train on several GPUs or in several processes, start it by torchrun, as in
`torchrun --nproc-per-node 2 -m nas_gan.train --config fashion_mnist`.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch

from nas_gan.cli import progress, run
from nas_gan.devices import check_device
from nas_gan.errors import CollapsedError, DivergedError
from nas_gan.remote.workplace import Workplace, working_in
from nas_gan.training.build import check_settings, load_images, weight_type
from nas_gan.training.config import TrainConfig
from nas_gan.training.distributed import check_processes, joined_processes
from nas_gan.training.finish import telling
from nas_gan.training.measuring import make_measure
from nas_gan.training.preset import preset_from_arguments
from nas_gan.training.run import train


def main(config: TrainConfig) -> int:
    """Train, and tell whoever wants to know how it ended."""
    with telling(config.on_finish, config.run_dir):
        return train_once(config)


def train_once(config: TrainConfig) -> int:
    """Train what the settings describe; the exit code.

    Raises:
        DivergedError: a scalar became a NaN or an infinity.
        CollapsedError: the alarm stopped the run.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with joined_processes(config.device) as processes, ExitStack() as stack:
        config = replace(config, device=processes.device)
        check_device(config.device, weight_type(config))
        check_settings(config)
        check_processes(config.run_dir, processes)
        place = Workplace(config.run_dir)
        if processes.is_main:
            place = stack.enter_context(working_in(config.run_dir))
            config = replace(config, run_dir=place.folder)
        images = load_images(config, partial(progress, shown=processes.is_main))
        measure = make_measure(config, images, progress=progress) if processes.is_main else None
        # One bar for all processes.
        with progress("training", config.steps, shown=processes.is_main) as advance:
            result = train(config, images, on_update=advance, measure=measure, processes=processes)
    where = place.shown(config.run_dir)
    if result.status == "diverged":
        raise DivergedError(f"{result.message}; the last good state is in {where}")
    if result.status == "stopped":
        raise CollapsedError(
            f"{result.message}; the last good state is in {where}, which the same command resumes"
        )
    if processes.is_main:
        sys.stdout.write(f"{result.step} steps, {place.shown(config.run_dir / 'ckpt.pt')}\n")
    return 0


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
