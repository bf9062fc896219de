"""How fast this machine does what a run consists of; each is measured once or twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ard.layers import Profile
from ard.measuring.metrics import metric_named
from ard.recovery.adversarial import FineTuning, batches_of, fine_tune
from ard.recovery.distillation import Distance, Recovery, feature_distance, recover
from ard.session.config import SearchConfig, SweepConfig
from ard.session.recovering import discriminator_of, feature_weight, fine_tuning_steps, loss_of
from ard.session.search import N_CHECKED
from ard.session.setting import samples_of
from nas_gan.generators import OpenedGenerator
from nas_gan.metrics.features import FeatureExtractor
from nas_gan.metrics.frechet import FrechetReference, PairedFid, statistics_of
from nas_gan.metrics.protocol import to_uint8
from nas_gan.networks.hooks import observing
from nas_gan.networks.latents import latents_of
from nas_gan.training.distillation import image_distance
from nas_gan.training.draws import StepLatents

Result = TypeVar("Result")
Clock = Callable[[], float]
# Batches that are timed, after a few images to warm up. The faster one counts.
N_BATCHES = 2
# The matrix whose decomposition is timed.
DECOMPOSED = 384


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine.

    Attributes:
        image: to draw an image.
        features: to take its features.
        score: by number of images, to compute a score from features.
        shares: by layer, the share of an image's time that is left when the layer runs.
        decomposition: to decompose a matrix, per multiply-add of `size_of`.
        distilled: an update of the distillation.
        tuned: an update against the discriminator.
    """

    image: float
    features: float
    score: Callable[[int], float]
    shares: Mapping[str, float] = field(default_factory=dict)
    decomposition: float = 0.0
    distilled: float = 0.0
    tuned: float = 0.0

    @property
    def scored_image(self) -> float:
        """To draw an image and to take its features."""
        return self.image + self.features

    def evaluation(self, n: int, moments: float) -> float:
        """Seconds to build a plan, with `moments` images for it, and to score `n` images of it."""
        return moments * self.image + n * self.scored_image + self.score(n)


def measure_speed(
    config: SweepConfig,
    opened: OpenedGenerator,
    profile: Profile,
    extractor: FeatureExtractor,
    *,
    clock: Clock = time.perf_counter,
) -> Speed:
    """Time two batches of the size that the run will have, its scores, and two updates.

    Args:
        config: the settings.
        opened: the generator.
        profile: its layers.
        extractor: the network whose features are taken.
        clock: the time in seconds.
    """
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
    distilled = tuned = 0.0
    if isinstance(config, SearchConfig):
        distilled, tuned = _time_updates(config, opened, clock)
    return Speed(
        image=min(drawing),
        features=min(looking),
        score=partial(_between, scores),
        shares=_shares_of(opened, profile, batches[:2].to(config.device), clock),
        decomposition=decomposing / DECOMPOSED**3,
        distilled=distilled,
        tuned=tuned,
    )


def _between(known: Mapping[int, float], n: int) -> float:
    """The value at `n`, on a line between the known ones; 0 if none is known."""
    return float(np.interp(n, list(known), list(known.values()))) if known else 0.0


def _shares_of(
    opened: OpenedGenerator, profile: Profile, latents: Tensor, clock: Clock
) -> dict[str, float]:
    """By layer, the share of a pass over the latents that is left when the layer first runs.

    By the clock and not by multiply-adds: convolutions of small maps take longer for theirs.
    """
    network = opened.generator
    entered: dict[str, float] = {}

    def enters(name: str, x: Tensor) -> None:
        entered.setdefault(name, clock())

    layers = [(network.get_submodule(layer.name), layer.name) for layer in profile.layers]
    with observing(network, entering=[(layer, partial(enters, name)) for layer, name in layers]):
        started = clock()
        network(latents)
        ended = clock()
    return {name: (ended - then) / max(ended - started, 1e-12) for name, then in entered.items()}


def _time_updates(
    config: SearchConfig, opened: OpenedGenerator, clock: Clock
) -> tuple[float, float]:
    """Seconds of an update of the distillation, and of one against the discriminator.

    The dense generator is updated, and a factorized one takes less. What the settings leave out
    takes 0. The second of two updates counts: the first makes room for the state of Adam.
    """
    draw = StepLatents(0, config.recover_batch, opened.interface)
    judge = discriminator_of(config, opened)
    ticks: list[float] = []

    def tick(n: int) -> None:
        ticks.append(clock())

    def unscored(network: torch.nn.Module) -> float:
        return 0.0

    distilled = tuned = 0.0
    if config.recover_steps:
        weight = feature_weight(config, opened)
        distance: Distance = image_distance
        if judge is not None and weight:
            distance = feature_distance(judge, weight)
        settings = Recovery(n_steps=2, batch_size=config.recover_batch)
        recover(
            *(opened.generator, opened.generator, settings),
            latents=draw,
            selection=draw(0)[:2],
            score=unscored,
            distance=distance,
            device=config.device,
            on_update=tick,
        )
        distilled = ticks[1] - ticks[0]
    if judge is not None and fine_tuning_steps(config, opened):
        ticks.clear()
        tuning = FineTuning(2, config.recover_batch, loss=loss_of(opened.checkpoint))
        shown = batches_of(opened.generator, draw, opened.interface, config.device)(0)
        fine_tune(
            *(opened.generator, judge, tuning),
            real=lambda index: shown,
            latents=draw,
            score=unscored,
            device=config.device,
            on_update=tick,
        )
        tuned = ticks[1] - ticks[0]
    return distilled, tuned


def _time_scores(
    config: SweepConfig,
    extractor: FeatureExtractor,
    found: npt.NDArray[np.float32],
    clock: Clock,
) -> dict[int, float]:
    """Seconds of a Fréchet distance by number of images; features near known ones take as long."""
    rng = np.random.default_rng(0)
    counts = {config.sweep_samples}
    if isinstance(config, SearchConfig):
        counts.add(min(config.sweep_samples, N_CHECKED))
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
