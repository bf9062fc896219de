"""Search an architecture: `python -m nas_gan.search --config search_cifar10`.

The run directory holds genotype.json (for `python -m nas_gan.train --genotype`) and
discriminator.json, genotypes/ (those found along the way), config.json, state.pt (all that is
needed to resume), log.jsonl, TensorBoard events and sample grids. With --eval-every it also holds
best_genotype.json, that of the best FID, and with --finalists finalist.json, the best of those that
were trained in finalists/. All of it is drawn, also while the search runs: genotypes as graphs and
over time, and what was measured as a curve.

Run the same command again to resume an unfinished search. To search on several GPUs or in several
processes, start it by torchrun, as in
`torchrun --nproc-per-node 2 -m nas_gan.search --config search_cifar10`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from nas_gan.architecture_search.build import load_images
from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.files import BEST, read_best
from nas_gan.architecture_search.finalists import FINALIST, Finalist, updates_of
from nas_gan.architecture_search.graphs import genotype_table
from nas_gan.architecture_search.run import search
from nas_gan.cli import progress, run
from nas_gan.devices import check_device
from nas_gan.errors import DivergedError
from nas_gan.networks.genotype import DiscriminatorGenotype, Genotype
from nas_gan.reading import read_text
from nas_gan.remote.workplace import Workplace, working_in
from nas_gan.tables import text_table
from nas_gan.training.distributed import check_processes, joined_processes
from nas_gan.training.finish import telling
from nas_gan.training.loop import TrainingResult
from nas_gan.training.measuring import measure_features
from nas_gan.training.preset import preset_from_arguments


def main(config: SearchConfig) -> int:
    """Search, and tell whoever wants to know how it ended."""
    with telling(config.on_finish, config.run_dir):
        return search_once(config)


def search_once(config: SearchConfig) -> int:
    """Search what the settings describe; the exit code.

    Raises:
        DivergedError: a scalar became a NaN or an infinity.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with joined_processes(config.device) as processes, ExitStack() as stack:
        config = replace(config, device=processes.device)
        check_device(config.device)
        check_processes(config.run_dir, processes)
        place = Workplace(config.run_dir)
        if processes.is_main:
            place = stack.enter_context(working_in(config.run_dir))
            config = replace(config, run_dir=place.folder)
        images = load_images(config, partial(progress, shown=processes.is_main))
        measures = processes.is_main and (config.eval_every or config.finalists)
        measure = measure_features(config, images) if measures else None
        finalists: list[Finalist] = []
        steps = config.steps + updates_of(config.finalists, config.finalist_steps)
        # One bar for all processes.
        with progress("searching", steps, shown=processes.is_main) as advance:
            result = search(
                config,
                images,
                on_update=advance,
                measure=measure,
                on_measured=partial(_draw, config.run_dir),
                on_finalists=finalists.extend,
                processes=processes,
            )
        if processes.is_main and result.status != "diverged":
            _show(config, result, finalists, place)
    if result.status == "diverged":
        where = place.shown(config.run_dir)
        raise DivergedError(f"{result.message}; the last good state is in {where}")
    return 0


def _show(
    config: SearchConfig, result: TrainingResult, finalists: Sequence[Finalist], place: Workplace
) -> None:
    """What was found, on the screen and as pictures in the run directory."""
    path = config.run_dir / "genotype.json"
    genotype = Genotype.from_json(read_text(path))
    judge = DiscriminatorGenotype.from_json(read_text(config.run_dir / "discriminator.json"))
    sys.stdout.write(f"{genotype_table(genotype)}\n\n{genotype_table(judge)}\n\n")
    if best := read_best(config.run_dir):
        sys.stdout.write(
            f"best FID {best.fid:.4g} ± {best.fid_se:.2g} at step {best.step}, "
            f"{place.shown(config.run_dir / BEST)}\n"
        )
    if finalists:
        rows = [
            (place.shown(one.run_dir), f"{one.steps:,}", "diverged", "")
            if math.isinf(one.fid)
            else (place.shown(one.run_dir), f"{one.steps:,}", f"{one.fid:.4g}", f"{one.fid_se:.2g}")
            for one in finalists
        ]
        table = text_table(("finalist", "steps", "FID", "±"), rows)
        sys.stdout.write(f"\n{table}\n\nbest finalist {place.shown(config.run_dir / FINALIST)}\n")
    sys.stdout.write(f"{result.step} steps, {place.shown(path)}\n")
    _draw(config.run_dir)


def _draw(run_dir: Path) -> None:
    # Draws, and therefore needs matplotlib, which the help of this command does not.
    from nas_gan.architecture_search.pictures import draw_search

    draw_search(run_dir)


if __name__ == "__main__":
    sys.exit(
        run(
            main,
            SearchConfig,
            prog="python -m nas_gan.search",
            description=__doc__,
            default=lambda: preset_from_arguments(SearchConfig),
        )
    )
