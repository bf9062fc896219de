"""What a run will take, before it starts: evaluations, seconds and bytes, here and on workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ard.assembly.assembler import MAX_OUTPUTS, N_MOMENTS, passes_of
from ard.assembly.prefix import MAX_BYTES
from ard.assembly.statistics import MAX_CAPTURED, PROBED_AT_ONCE
from ard.costs.cost import LayerCost, params_cost
from ard.costs.objectives import is_timed, make_cost, parse_weights
from ard.factorization.methods import METHODS
from ard.grid import RankGrid
from ard.inspection import CONFIRMED, PASSES_PER_UPDATE
from ard.layers import LayerProfile, Profile
from ard.measuring.metrics import metric_named
from ard.pipeline import N_RANKED, worthwhile_layers
from ard.plan import Factorization
from ard.recovery.memory import MAX_BYTES as MAX_IMAGES
from ard.search.candidates import competitors, most_worthwhile
from ard.session.config import SearchConfig, SweepConfig, check, grid_of, settled
from ard.session.search import N_PROXY, N_STATISTICS, profile_of
from ard.session.setting import fitting_batch, samples_of, wanted_reference
from nas_gan.devices import check_device
from nas_gan.generators import OpenedGenerator, open_generator
from nas_gan.metrics.features import FeatureExtractor, make_extractor
from nas_gan.metrics.frechet import FrechetReference, PairedFid, statistics_of
from nas_gan.metrics.protocol import to_uint8
from nas_gan.networks.latents import latents_of
from nas_gan.networks.memory import activations_of, bytes_to_keep, fitting_rows, peak_bytes
from nas_gan.tables import text_table

Result = TypeVar("Result")
# Batches that are timed, after a few images to warm up. The faster one counts.
N_BATCHES = 2
# The matrix whose decomposition is timed.
DECOMPOSED = 384
# A line of the journal, and what a report with its figures takes at least.
LINE_BYTES, REPORT_BYTES = 350, 2_000_000
# Workers that are shown if none are asked for.
SHOWN_WORKERS = (4, 16)


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine.

    Attributes:
        image: to draw an image.
        features: to take its features.
        score: by number of images, to compute a score from features.
        decomposition: to decompose a matrix, per multiply-add of `size_of`.
    """

    image: float
    features: float
    score: Callable[[int], float]
    decomposition: float = 0.0

    def evaluation(self, n: int, moments: int, share: float = 1.0) -> float:
        """Seconds to build a plan and to score `n` images of it.

        Args:
            n: the number of images.
            moments: how many more are drawn for batch statistics, if there are any.
            share: how much of the network those run, in which a plan of one layer runs from it on.
        """
        return moments * share * self.image + n * (self.image + self.features) + self.score(n)


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: the name that its progress bar has, as far as it has one.
        evaluations: how many plans are scored, at most.
        images: how many images that takes in all.
        seconds: what it takes in one process.
        spread: whether workers share it; each takes whole evaluations.
    """

    name: str
    evaluations: int
    images: int
    seconds: float
    spread: bool = True

    def on(self, n_workers: int) -> float:
        """Seconds on so many workers of this machine's speed."""
        if not (self.spread and self.evaluations):
            return self.seconds
        rounds = math.ceil(self.evaluations / n_workers)
        return self.seconds * rounds / self.evaluations


@dataclass(frozen=True)
class Demand:
    """How much a run does, counted from its settings.

    Attributes:
        choices: single-layer choices, at most.
        share: how much of the network runs for one of them, on average, if it runs from its layer
            on.
        moments: images for batch statistics of a plan; 0 without batch normalisation.
        ranked: how many networks it takes, in multiply-adds, to rank the choices on one image.
        decomposed: multiply-adds of the decompositions that make their factors; see `size_of`.
        anchors: those that are scored; the others are estimated.
        sweep_images: images of the score of one of them.
        trials: whole plans.
        images: images of the score of one of those.
        reference_images: images of the dense generator that are the reference; 0 if there is one.
        updates: updates of the recovery of one whole plan.
        update_images: images in an update.
    """

    choices: int
    anchors: int
    sweep_images: int
    trials: int
    images: int
    reference_images: int
    updates: int
    update_images: int
    share: float = field(kw_only=True)
    moments: int = field(kw_only=True)
    ranked: float = field(kw_only=True)
    decomposed: float = field(kw_only=True)


def stages_of(demand: Demand, speed: Speed) -> tuple[Stage, ...]:
    """The stages of a run.

    >>> speed = Speed(0.5, 0.5, lambda n: 2.0)
    >>> demand = Demand(choices=10, anchors=3, sweep_images=4, trials=0, images=8,
    ...                 reference_images=0, updates=0, update_images=0, share=0.5, moments=0,
    ...                 ranked=3.0, decomposed=0.0)
    >>> [(s.name, s.evaluations, s.images) for s in stages_of(demand, speed) if s.spread]
    [('movement of images', 10, 320), ('one layer at a time', 4, 16)]
    """
    dense_images = demand.reference_images + demand.sweep_images
    if demand.trials:
        dense_images += 2 * demand.images
    per_image = speed.image + speed.features
    dense_evaluations = 3 if demand.trials else 1
    stages = [Stage("dense scores", dense_evaluations, dense_images, dense_images * per_image,
                    spread=False)]  # fmt: skip
    passes = passes_of(N_STATISTICS) + N_RANKED + demand.moments
    ranking = N_RANKED * demand.ranked * speed.image + demand.decomposed * speed.decomposition
    stages += [
        Stage("statistics", 0, passes, passes * speed.image, spread=False),
        Stage("ranking methods", 0, 0, ranking, spread=False),
    ]
    single = demand.choices
    if demand.anchors:
        drawn = (demand.moments + N_PROXY) * demand.share * speed.image
        moved = drawn + N_PROXY * speed.features
        images = demand.choices * N_PROXY
        stages.append(Stage("movement of images", demand.choices, images, demand.choices * moved))
        confirmed = CONFIRMED if demand.trials else 0
        single = min(demand.choices, demand.anchors + confirmed)
    single += 1  # the dense generator itself
    stages.append(
        Stage(
            *("one layer at a time", single, single * demand.sweep_images),
            single * speed.evaluation(demand.sweep_images, demand.moments, demand.share),
        )
    )
    if demand.trials:
        update = demand.update_images * PASSES_PER_UPDATE * speed.image
        checks = 5 * demand.sweep_images if demand.updates else 0
        recovery = demand.updates * update + checks * per_image
        stages.append(
            Stage(
                *("joint plans, recovered", demand.trials),
                demand.trials * (demand.images + checks),
                demand.trials * (recovery + speed.evaluation(demand.images, demand.moments)),
            )
        )
        # The chosen plan on held-out latents, and before its recovery.
        stages.append(
            Stage(
                "the chosen plan",
                2,
                2 * demand.images,
                2 * speed.evaluation(demand.images, demand.moments),
                spread=False,
            )
        )
    return tuple(stages)


def demand_of(
    config: SweepConfig,
    opened: OpenedGenerator,
    profile: Profile,
    extractor: FeatureExtractor,
    n_budgets: int,
) -> Demand:
    """Count what the settings ask for, at most."""
    metric = metric_named(config.metric)
    weights = parse_weights(config.weights)
    timed = is_timed(config.objective, weights)
    # What a layer's time will be is not known yet.
    cost = params_cost if timed or weights else make_cost(config.objective)
    layers, _ = worthwhile_layers(profile, cost)
    grid = grid_of(config)
    choices = [choices_of(layer, grid, None if timed or weights else cost) for layer in layers]
    offered = [offers_of(layer, grid) for layer in layers]
    norms = nn.modules.batchnorm._BatchNorm
    normalised = any(isinstance(module, norms) for module in opened.generator.modules())
    samples = samples_of(config, metric, extractor)
    wanted = wanted_reference(config.reference, opened.checkpoint.provenance.get("dataset"))
    trials = updates = batch = 0
    if isinstance(config, SearchConfig):
        trials, batch = config.max_trials * n_budgets, config.recover_batch
        polish = config.recover_steps if config.polish_steps is None else config.polish_steps
        holds = opened.checkpoint.holds_discriminator or config.polish_steps is not None
        updates = config.recover_steps + (polish if holds else 0)
    return Demand(
        choices=sum(choices),
        share=share_of(layers, choices, profile),
        moments=N_MOMENTS if normalised else 0,
        ranked=sum(
            (1 + len(offers)) * layer.macs() / max(profile.total_macs, 1)
            for layer, offers in zip(layers, offered, strict=True)
        ),
        decomposed=sum(
            size_of(layer, choice.method)
            for layer, offers in zip(layers, offered, strict=True)
            for choice in offers
        ),
        anchors=config.anchors,
        sweep_images=config.sweep_samples,
        trials=trials,
        images=samples,
        reference_images=max(samples, 2 * extractor.dim) if wanted == "dense" else 0,
        updates=updates,
        update_images=batch,
    )


def offers_of(layer: LayerProfile, grid: RankGrid) -> list[Factorization]:
    """The choices of a layer that compete."""
    return [
        choice
        for method in competitors(layer, grid.methods)
        for choice in layer.rank_grid(method, grid.fractions, grid.multiple_of)
    ]


def choices_of(layer: LayerProfile, grid: RankGrid, cost: LayerCost | None) -> int:
    """How many choices of a layer are measured, at most; all of them if costs are unknown."""
    offers = offers_of(layer, grid)
    if cost is None:
        return len(offers)
    return most_worthwhile(cost(layer, None), [cost(layer, choice) for choice in offers])


def share_of(layers: Sequence[LayerProfile], choices: Sequence[int], profile: Profile) -> float:
    """The multiply-adds from a layer on, of those of the network, on average over the choices."""
    after, shares = profile.total_macs, {}
    for layer in profile.layers:
        shares[layer.name] = after / max(profile.total_macs, 1)
        after -= layer.macs()
    runs = sum(n * shares[layer.name] for layer, n in zip(layers, choices, strict=True))
    return runs / max(sum(choices), 1)


def size_of(layer: LayerProfile, method: str) -> float:
    """Rows times columns times the lesser of them, of what a method decomposes of a layer.

    That and the roots of two covariances.
    """
    kernel = torch.empty(layer.shape, device="meta")
    if kernel.ndim != 4 or (unfoldings := METHODS[method].unfoldings) is None:
        matrices = [kernel.flatten(1)] if kernel.ndim > 1 else []
    else:
        matrices = list(unfoldings(kernel))
    c_out, c_in = layer.shape[:2]
    sides = c_in**3 + (c_out**3 if c_out <= MAX_OUTPUTS else 0)
    return float(sides + sum(m.numel() * min(m.shape) for m in matrices))


def measure_speed(
    config: SweepConfig,
    opened: OpenedGenerator,
    extractor: FeatureExtractor,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time two batches of the size that the run will have, and a score of so many features."""
    batches = latents_of(opened.interface, N_BATCHES * config.batch_size, seed=0)

    def timed(call: Callable[[], Result]) -> tuple[float, Result]:
        started = clock()
        result = call()
        return clock() - started, result

    def draw(rows: Tensor) -> Tensor:
        images = opened.generator(rows.to(config.device)).float()
        return to_uint8(images).cpu().expand(-1, 3, -1, -1)

    drawing, looking, rows_found = [], [], []
    with torch.inference_mode():
        extractor(draw(batches[:2]))
        for rows in batches.split(config.batch_size):
            seconds, pixels = timed(partial(draw, rows))
            drawing.append(seconds / len(rows))
            seconds, features = timed(partial(extractor, pixels))
            looking.append(seconds / len(rows))
            rows_found.append(features)
    found = np.concatenate(rows_found)
    scores = _time_scores(config, extractor, found, clock) if config.metric == "fid" else {}
    matrix = torch.randn(DECOMPOSED, DECOMPOSED, dtype=torch.float64)
    decomposing, _ = timed(lambda: torch.linalg.svd(matrix))
    return Speed(
        min(drawing),
        min(looking),
        lambda n: scores.get(n, 0.0),
        decomposing / DECOMPOSED**3,
    )


def _time_scores(
    config: SweepConfig,
    extractor: FeatureExtractor,
    found: npt.NDArray[np.float32],
    clock: Callable[[], float],
) -> dict[int, float]:
    """Seconds of a Fréchet distance by number of images; features near known ones take as long."""
    rng = np.random.default_rng(0)
    counts = {config.sweep_samples}
    if isinstance(config, SearchConfig):
        counts.add(samples_of(config, metric_named(config.metric), extractor))

    def features(n: int) -> npt.NDArray[np.float32]:
        noise = rng.standard_normal((n, extractor.dim), np.float32)
        return found[rng.integers(len(found), size=n)] + np.float32(0.1) * noise

    seconds = {}
    reference = FrechetReference(statistics_of(found))
    for n in sorted(counts):
        paired, other = PairedFid(reference, features(n)), features(n)
        started = clock()
        paired.compare(other, careful=False)
        seconds[n] = clock() - started
    return seconds


@dataclass(frozen=True)
class Bytes:
    """What a run writes at most, and the most memory that it has."""

    disk: int
    memory: int


def bytes_of(
    demand: Demand, stages: Sequence[Stage], profile: Profile, dim: int, held: int
) -> Bytes:
    """Bytes of a run.

    Recovered generators lie on the disk until the end, each smaller than the dense one. The
    features of the banks of latents, float32, stay in memory.

    Args:
        demand: what it does.
        stages: its stages.
        profile: the layers.
        dim: the number of features.
        held: what it has in memory beside features and copies of the weights; see `held_bytes`.
    """
    weights = 4 * profile.total_params
    lines = LINE_BYTES * sum(stage.evaluations for stage in stages)
    kept = (demand.trials + 2) * weights + REPORT_BYTES if demand.trials else 0
    rows = demand.sweep_images + (2 * demand.images if demand.trials else 0)
    copies = weights * (2 if demand.trials else 1)
    return Bytes(lines + kept, held + 4 * rows * dim + copies)


def held_bytes(
    opened: OpenedGenerator, profile: Profile, demand: Demand, config: SweepConfig
) -> int:
    """What a run holds in memory at most, beside features and copies of the weights.

    That is what this process has had when it drew images and looked at them; the second moments of
    all layers' inputs and outputs, in float64; what is remembered of the dense generator; and what
    is larger, the inputs of layers or the pass with gradients.
    """
    latents = latents_of(opened.interface, 2, config.seed).to(config.device)
    row = activations_of(opened.generator, latents)
    moments = 0
    for layer in profile.layers:
        c_out, c_in = layer.shape[:2]
        tall = c_in * layer.shape[2] if len(layer.shape) == 4 and layer.shape[2] > 1 else 0
        moments += 8 * (c_in**2 + tall**2 + (c_out**2 if c_out <= MAX_OUTPUTS else 0))
    remembered = N_PROXY * row.made if demand.anchors else 0
    remembered += N_MOMENTS * row.made if demand.moments else 0
    kept = min(bytes_to_keep(2 * MAX_BYTES), remembered)
    pixels = 4 * math.prod(opened.interface.image_shape)
    kept += min(bytes_to_keep(MAX_IMAGES), demand.updates * demand.update_images * pixels)
    captured = min(MAX_CAPTURED, N_RANKED * row.made)
    backward = row.made * fitting_rows(opened.generator, latents, PROBED_AT_ONCE, gradients=True)
    training = demand.update_images * row.made if demand.updates else 0
    return peak_bytes() + moments + kept + max(captured, backward, training)


def forecast(config: SweepConfig, n_budgets: int = 1) -> Iterator[str]:
    """What the command would take with these settings, in lines; nothing is written.

    Args:
        config: the settings.
        n_budgets: under how many budgets whole plans are searched for.
    """
    check(config)
    config = settled(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    check_device(config.device)
    opened = open_generator(config.checkpoint, config, device=config.device)
    profile = profile_of(config, opened.generator, opened.interface)
    extractor = make_extractor(
        config.features,
        inception_weights=config.inception_weights,
        device=config.device,
        threads=config.threads,
    )
    config = replace(config, batch_size=fitting_batch(opened, config))
    demand = demand_of(config, opened, profile, extractor, n_budgets)
    speed = measure_speed(config, opened, extractor)
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
        f"draw an image, {1000 * speed.features:.3g} ms for its features; the report and the "
        "bundle are not counted"
    )
