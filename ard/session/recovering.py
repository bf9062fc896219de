"""The recovery that a run's settings describe, kept in its directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from ard.errors import ArdError
from ard.measuring.evaluate import Candidate, Evaluator
from ard.plan import RankPlan
from ard.recovery.adversarial import FineTuning, batches_of, fine_tune
from ard.recovery.distillation import Distance, Recovery, feature_distance, recover
from ard.recovery.memory import RememberedImages, RememberedScores, remembered_batches
from ard.recovery.recover import Build, Recover
from ard.recovery.staging import in_stages
from ard.recovery.store import Further, RecoveredStore
from ard.session.config import SEEDS, SearchConfig
from ard.session.setting import Setting
from nas_gan.checkpoint import Checkpoint, build_saved_discriminator
from nas_gan.cli import progress
from nas_gan.data.batches import ShuffledBatches
from nas_gan.errors import MissingDataError
from nas_gan.losses.registry import ALIASES, LOSSES
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.networks.structure import evaluating
from nas_gan.training.distillation import image_distance
from nas_gan.training.draws import Batch, StepLatents

N_SELECTION = 128  # latents on which the recovery monitors the image error
# Weight of the discriminator's features relative to the image, both as relative errors; measured in
# benchmarks/recovery.py.
FEATURE_WEIGHT = 1.0
# Between the seeds of a recovery's rounds; its stages lie 1000 apart.
ROUND = 100_000


@dataclass(frozen=True)
class Recovering:
    """The store that recovers each plan once, and a line that describes the recovery."""

    store: RecoveredStore
    description: str


@dataclass(frozen=True)
class _Judge:
    """The discriminator, if the recovery uses one, and the source of its real images.

    `drawn` tells that the dense generator draws them.
    """

    discriminator: nn.Module | None
    real: Callable[[int], Batch] | None
    source: str
    drawn: bool = False


def open_recovery(
    config: SearchConfig, setting: Setting
) -> Callable[[Path, Evaluator], Recovering]:
    """Prepare the recovery of a run.

    Everything that the recovery needs is loaded now, before anything is written.

    Returns:
        A function of the run directory and of the evaluator that selects the best state.

    Raises:
        ArdError: the settings need a discriminator, and the checkpoint holds none or one that
            does not fit.
    """
    discriminator = discriminator_of(config, setting)
    judge = _Judge(discriminator, None, "")
    if fine_tuning_steps(config, setting):
        source, real = real_images(config, setting)
        judge = _Judge(discriminator, real, source, not isinstance(real, ShuffledBatches))

    def prepared(run_dir: Path, evaluate: Evaluator) -> Recovering:
        recover, further = _recovery(config, setting, judge, evaluate)
        store = RecoveredStore(
            run_dir / "recovered", setting.checkpoint, setting.generator, recover, further
        )
        description = ""
        if judge.real is not None:
            description = (
                f"recovery: {config.recover_steps} updates of distillation, then "
                f"{fine_tuning_steps(config, setting)} of adversarial fine-tuning against the "
                f"checkpoint's discriminator ({judge.source})"
            )
        return Recovering(store, description)

    return prepared


def _recovery(
    config: SearchConfig, setting: Setting, judge: _Judge, evaluate: Evaluator
) -> tuple[Recover, Further]:
    """The first round of a recovery, and every further one.

    The first is distillation, in stages if the plan shrinks the network far, then adversarial
    fine-tuning. So is one that begins with a sharpened network. One that continues has as many
    updates, all of them adversarial where they can be: to distil again gains little (see
    benchmarks/rounds.py). Each has latents of its own.
    """
    selection = setting.latents(N_SELECTION, config.seed + SEEDS["selection"])
    shown = selection[:2].to(config.device)
    distillation = Recovery(
        config.recover_steps,
        config.recover_batch,
        config.recover_lr,
        seed=config.seed + SEEDS["recovery"],
    )
    fine_tuning = FineTuning(
        fine_tuning_steps(config, setting),
        config.recover_batch,
        seed=config.seed + SEEDS["fine_tuning"],
        loss=loss_of(setting.checkpoint),
    )
    distance: Distance = image_distance
    weight = feature_weight(config, setting)
    if weight and judge.discriminator is not None:
        distance = feature_distance(judge.discriminator, weight)

    def latents(settings: Recovery | FineTuning) -> StepLatents:
        return StepLatents(settings.seed, settings.batch_size, setting.interface)

    images = RememberedImages()
    real = judge.real
    if real is not None and judge.drawn:
        real = remembered_batches(real, images)

    def score(network: nn.Module) -> float:
        return evaluate(Candidate.finished(network)).value

    def targets(settings: Recovery) -> Callable[[int, Tensor], Tensor]:
        def target(index: int, z: Tensor) -> Tensor:
            with evaluating(setting.generator):
                return images((settings.seed, index), lambda: setting.generator(z))

        return target

    def distilled(score: RememberedScores, student: nn.Module, settings: Recovery) -> nn.Module:
        with progress("  distillation", settings.n_steps) as advance:
            return recover(
                student,
                setting.generator,
                settings,
                latents=latents(settings),
                selection=selection,
                score=score,
                distance=distance,
                device=config.device,
                on_update=advance,
                target_of=targets(settings),
            )

    def polished(
        score: RememberedScores, network: nn.Module, settings: FineTuning, first: int
    ) -> nn.Module:
        if real is None or judge.discriminator is None:
            return network
        with progress("  adversarial fine-tuning", settings.n_steps) as advance:
            return fine_tune(
                network,
                judge.discriminator,
                settings,
                real=lambda index: real(first + index),
                latents=latents(settings),
                score=score,
                device=config.device,
                on_update=advance,
            )

    def recovered(build: Build, plan: RankPlan) -> nn.Module:
        scored = RememberedScores(score)
        network = in_stages(
            build,
            plan,
            setting.generator,
            shown,
            config.stage_ratio,
            distillation,
            partial(distilled, scored),
        )
        return polished(scored, network, fine_tuning, 0)

    def further(network: nn.Module, number: int, /, *, sharpened: bool) -> nn.Module:
        scored = RememberedScores(score)
        apart = ROUND * (number - 1)
        n_steps = distillation.n_steps + fine_tuning.n_steps
        first = (number - 1) * n_steps  # of the batches of real images
        tuning = replace(fine_tuning, seed=fine_tuning.seed + apart)
        if sharpened or not fine_tuning.n_steps:
            settings = replace(distillation, seed=distillation.seed + apart)
            network = distilled(scored, network, settings)
        else:
            tuning = replace(tuning, n_steps=n_steps)
        return polished(scored, network, tuning, first)

    return recovered, further


class Judged(Protocol):
    """A generator with what its checkpoint holds of its training."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, maybe with a discriminator."""
        ...

    @property
    def interface(self) -> GeneratorInterface:
        """What the generator takes and returns."""
        ...


def discriminator_of(config: SearchConfig, setting: Judged) -> nn.Module | None:
    """The discriminator that the recovery uses, if any, on its device.

    Raises:
        ArdError: a discriminator is needed, and the checkpoint holds none or one that also takes
            labels; or the batch size is too small for it.
    """
    if config.feature_weight and setting.interface.conditional:
        raise ArdError(
            f"is {config.feature_weight:g}, but features of a conditional discriminator, which "
            "takes labels too, cannot be used; leave it out",
            setting="feature_weight",
        )
    if not (feature_weight(config, setting) or fine_tuning_steps(config, setting)):
        return None
    discriminator = build_saved_discriminator(setting.checkpoint)
    if discriminator is None:
        raise ArdError(
            f"{config.checkpoint} holds no discriminator, which feature_weight and polish_steps "
            "need; leave them out"
        )
    if config.recover_batch < 2 and fine_tuning_steps(config, setting):
        raise ArdError(
            f"is {config.recover_batch}: adversarial fine-tuning compares images with one another "
            "and needs batches of at least 2; use a larger batch, or set polish_steps to 0",
            setting="recover_batch",
        )
    return discriminator.to(config.device)


def feature_weight(config: SearchConfig, setting: Judged) -> float:
    """The weight of the discriminator's features in the recovery of this checkpoint."""
    if config.feature_weight is not None:
        return config.feature_weight
    saved = setting.checkpoint.holds_discriminator
    return FEATURE_WEIGHT if saved and not setting.interface.conditional else 0.0


def fine_tuning_steps(config: SearchConfig, setting: Judged) -> int:
    """How many updates of adversarial fine-tuning end the recovery of this checkpoint."""
    if config.polish_steps is not None:
        return config.polish_steps
    return config.recover_steps if setting.checkpoint.holds_discriminator else 0


def loss_of(checkpoint: Checkpoint) -> str:
    """The loss that the checkpoint was trained with, or the default if it names no known loss."""
    name = checkpoint.provenance.get("loss")
    return name if name in LOSSES or name in ALIASES else FineTuning.loss


def real_images(config: SearchConfig, setting: Setting) -> tuple[str, Callable[[int], Batch]]:
    """Real images for the fine-tuning: the data set if available, else the dense generator's.

    Returns:
        A description of the images, and a function from an update's index to its batch.
    """
    seed, name = config.seed + SEEDS["real"], setting.checkpoint.provenance.get("dataset")
    if setting.load_images is not None and not setting.interface.conditional:
        try:
            return str(name), ShuffledBatches(setting.load_images(), config.recover_batch, seed)
        except MissingDataError:
            pass
    draw = StepLatents(seed, config.recover_batch, setting.interface)
    absent = "" if name is None or setting.interface.conditional else f"; {name} is not available"
    dense = batches_of(setting.generator, draw, setting.interface, config.device)
    return f"images of the dense generator{absent}", dense
