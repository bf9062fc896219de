"""How much a run does, counted from its settings and from the sizes of the generator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ard.assembly.assembler import MAX_OUTPUTS, N_MOMENTS
from ard.costs.cost import LayerCost, params_cost
from ard.costs.layer_times import wanted_choices
from ard.costs.objectives import is_timed, make_cost, parse_weights
from ard.factorization.methods import METHODS
from ard.grid import RankGrid
from ard.inspection import outlook_of
from ard.layers import LayerProfile, Profile
from ard.measuring.metrics import metric_named
from ard.pipeline import worthwhile_layers
from ard.plan import Factorization
from ard.search.candidates import competitors, most_worthwhile
from ard.search.controller import reserved
from ard.session.config import SearchConfig, SweepConfig, grid_of
from ard.session.recovering import fine_tuning_steps
from ard.session.search import N_CHECKED, N_PROXY
from ard.session.setting import samples_of, unrecovered_images, wanted_reference
from nas_gan.generators import OpenedGenerator
from nas_gan.metrics.features import FeatureExtractor


@dataclass(frozen=True)
class Recoveries:
    """The recoveries of a run.

    Attributes:
        trials: rounds of recovery of whole plans, at most; each is scored.
        steps: updates of the distillation of one.
        tuning: its updates against the discriminator.
        batch: images in an update.
        stages: of one distillation, at most.
        check_images: images on which the states of one recovery are compared.
        reserve: the trials that only near misses ask for.
    """

    trials: int = 0
    steps: int = 0
    tuning: int = 0
    batch: int = 0
    stages: int = 1
    check_images: int = 0
    reserve: int = 0


@dataclass(frozen=True, kw_only=True)
class Demand:
    """How much a run does.

    Attributes:
        choices: single-layer choices by layer, at most.
        anchors: those that are scored; the others are estimated.
        sweep_images: images of the score of one of them.
        proxy_parts: batches in which images are drawn to see how far a choice moves them.
        moments: images for batch statistics of a plan; 0 without batch normalisation.
        ranked: how many networks it takes, in multiply-adds, to rank the choices on one image.
        decomposed: multiply-adds of the decompositions that make their factors; see `size_of`.
        timed: layers, dense and factorized, that are timed on their own.
        images: images of the score of a whole plan.
        unrecovered_images: images of the score of the chosen plan before its recovery.
        reference_images: images of the dense generator that are the reference; 0 if there is one.
        recoveries: what is recovered; nothing in a sweep.
        delivers: whether the result is exported and timed.
    """

    choices: Mapping[str, int]
    anchors: int
    sweep_images: int
    proxy_parts: int = 1
    moments: int
    ranked: float
    decomposed: float
    timed: int = 0
    images: int
    unrecovered_images: int
    reference_images: int
    recoveries: Recoveries = field(default_factory=Recoveries)
    delivers: bool = False

    @property
    def n_choices(self) -> int:
        """The single-layer choices, at most."""
        return sum(self.choices.values())


def demand_of(
    config: SweepConfig,
    opened: OpenedGenerator,
    profile: Profile,
    extractor: FeatureExtractor,
    n_budgets: int,
) -> Demand:
    """Count what the settings ask for, at most."""
    weights = parse_weights(config.weights)
    timed = is_timed(config.objective, weights)
    # What a layer's time will be is not known yet.
    unknown = timed or bool(weights)
    layers, _ = worthwhile_layers(profile, params_cost if unknown else make_cost(config.objective))
    grid = grid_of(config)
    cost = None if unknown else make_cost(config.objective)
    offered = [offers_of(layer, grid) for layer in layers]
    norms = nn.modules.batchnorm._BatchNorm
    normalised = any(isinstance(module, norms) for module in opened.generator.modules())
    metric = metric_named(config.metric)
    samples = samples_of(config, metric, extractor)
    wanted = wanted_reference(config.reference, opened.checkpoint.provenance.get("dataset"))
    to_time = timed and config.latency_table is None
    recoveries = Recoveries()
    if isinstance(config, SearchConfig):
        recoveries = recoveries_of(config, opened, profile, n_budgets)
    return Demand(
        choices={layer.name: choices_of(layer, grid, cost) for layer in layers},
        anchors=config.anchors,
        sweep_images=config.sweep_samples,
        proxy_parts=math.ceil(N_PROXY / config.batch_size),
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
        timed=len(wanted_choices(profile.parts, grid)) if to_time else 0,
        images=samples,
        unrecovered_images=unrecovered_images(samples, metric, extractor),
        reference_images=max(samples, 2 * extractor.dim) if wanted == "dense" else 0,
        recoveries=recoveries,
    )


def recoveries_of(
    config: SearchConfig, opened: OpenedGenerator, profile: Profile, n_budgets: int
) -> Recoveries:
    """The recoveries that the settings ask for, at most."""
    smallest = outlook_of(profile, grid_of(config)).params
    shrunk = math.log(profile.total_params / max(smallest, 1)) / math.log(config.stage_ratio)
    return Recoveries(
        trials=config.max_trials * n_budgets,
        steps=config.recover_steps,
        tuning=fine_tuning_steps(config, opened),
        batch=config.recover_batch,
        stages=max(1, math.ceil(shrunk - 1e-9)),
        check_images=min(config.sweep_samples, N_CHECKED),
        reserve=reserved(config.max_trials) * n_budgets,
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
