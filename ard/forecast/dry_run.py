"""The forecast of a command, in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ard.forecast.demand import demand_of
from ard.forecast.memory import Bytes, bytes_of, held_bytes
from ard.forecast.speed import N_BATCHES, Speed, measure_speed
from ard.forecast.stages import Stage, stages_of
from ard.session.config import SweepConfig, check, settled
from ard.session.search import profile_of
from ard.session.setting import fitting_batch, open_dense
from nas_gan.devices import check_device
from nas_gan.metrics.features import make_extractor
from nas_gan.tables import text_table

# Workers that are shown if none are asked for.
SHOWN_WORKERS = (4, 16)


def forecast(config: SweepConfig, n_budgets: int = 1, *, delivers: bool = False) -> Iterator[str]:
    """What the command would take with these settings, in lines; nothing is written.

    Args:
        config: the settings.
        n_budgets: under how many budgets whole plans are searched for.
        delivers: whether the result is exported and timed.
    """
    check(config)
    config = settled(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    check_device(config.device)
    opened = open_dense(config.checkpoint, config)
    profile = profile_of(config, opened.generator, opened.interface)
    extractor = make_extractor(
        config.features,
        inception_weights=config.inception_weights,
        device=config.device,
        threads=config.threads,
    )
    config = replace(config, batch_size=fitting_batch(opened, config))
    demand = demand_of(config, opened, profile, extractor, n_budgets)
    demand = replace(demand, delivers=delivers)
    speed = measure_speed(config, opened, profile, extractor)
    held = held_bytes(opened, profile, demand, config)
    stages = stages_of(demand, speed)
    found = bytes_of(demand, stages, profile, extractor.dim, held)
    yield from forecast_lines(stages, speed, found, config.workers)


def forecast_lines(
    stages: Sequence[Stage], speed: Speed, found: Bytes, n_workers: int | None
) -> Iterator[str]:
    """The forecast as a table and two lines; `n_workers` are shown, or a few numbers of them."""
    counts = (1, *SHOWN_WORKERS) if n_workers is None else tuple(dict.fromkeys((1, n_workers)))
    rows = [
        (
            *(stage.name, f"{stage.evaluations:,}", f"{stage.images:,}"),
            *(f"{stage.on(n):,.1f}" for n in counts),
        )
        for stage in stages
    ]
    rows.append(
        (
            "in all, at most",
            f"{sum(stage.evaluations for stage in stages):,}",
            f"{sum(stage.images for stage in stages):,}",
            *(f"{sum(stage.on(n) for stage in stages):,.1f}" for n in counts),
        )
    )
    heads = [f"s on {n} worker{'s' if n > 1 else ''}" for n in counts]
    yield text_table(("stage", "evaluations", "images", *heads), rows)
    yield (
        f"at most {found.disk / 1e6:,.1f} MB on the disk and about {found.memory / 1e6:,.0f} MB of "
        "memory, and as much for each worker"
    )
    yield (
        f"from {N_BATCHES} batches on this machine as it is now: {1000 * speed.image:.3g} ms to "
        f"draw an image, {1000 * speed.features:.3g} ms for its features; the export and "
        "the figures of the report are not counted"
    )
