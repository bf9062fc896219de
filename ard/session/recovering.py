"""The recovery that a run's settings describe, remembered in its directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from ard.errors import ArdError
from ard.measuring.evaluate import Candidate, FidEvaluator
from ard.plan import DENSE, RankPlan
from ard.recovery.adversarial import Polish, batches_of, polish
from ard.recovery.distillation import Distance, Recovery, feature_distance, recover
from ard.recovery.recover import Build
from ard.recovery.staging import in_stages
from ard.recovery.store import RecoveredStore
from ard.session.config import SEEDS, SearchConfig
from ard.session.setting import Setting
from nas_gan.checkpoint import Checkpoint, build_saved_discriminator
from nas_gan.cli import progress
from nas_gan.data.batches import ShuffledBatches
from nas_gan.errors import MissingDataError
from nas_gan.losses.registry import ALIASES, LOSSES
from nas_gan.training.distillation import image_distance
from nas_gan.training.draws import Batch, StepLatents

N_SELECTION = 128  # latents on which recovery watches the image error
# Of the discriminator's features against the image, both as shares: benchmarks/recovery.py.
FEATURE_WEIGHT = 1.0


def make_store(
    config: SearchConfig,
    setting: Setting,
    run_dir: Path,
    evaluate: FidEvaluator,
    discriminator: nn.Module | None,
    real: Callable[[int], Batch] | None,
) -> RecoveredStore:
    """The recovery of a run, remembered in its directory.

    `evaluate` picks its best state, `discriminator` is there where the recovery makes use of one,
    `real` are the images of the polish where there is one.
    """
    selection = setting.latents(N_SELECTION, config.seed + SEEDS["selection"])
    shown = selection[:2].to(config.device)
    settings = Recovery(
        config.recover_steps,
        config.recover_batch,
        config.recover_lr,
        seed=config.seed + SEEDS["recovery"],
    )
    distance: Distance = image_distance
    polishing = Polish(
        polish_steps(config, setting),
        config.recover_batch,
        seed=config.seed + SEEDS["polish"],
        loss=loss_of(setting.checkpoint),
    )
    weight = feature_weight(config, setting)
    if weight and discriminator is not None:
        distance = feature_distance(discriminator, weight)

    def score(network: nn.Module) -> float:
        return evaluate(Candidate(DENSE, lambda _: network)).fid

    def distilled(student: nn.Module, settings: Recovery) -> nn.Module:
        with progress("  recovering", settings.n_steps) as advance:
            return recover(
                student,
                setting.generator,
                settings,
                selection=selection,
                score=score,
                distance=distance,
                latent_dim=setting.latent_dim,
                n_classes=setting.n_classes,
                device=config.device,
                on_update=advance,
            )

    def recovered(build: Build, plan: RankPlan) -> nn.Module:
        network = in_stages(
            build, plan, setting.generator, shown, config.stage_ratio, settings, distilled
        )
        if real is not None and discriminator is not None:
            with progress("  polishing", polishing.n_steps) as advance:
                network = polish(
                    network,
                    discriminator,
                    polishing,
                    real=real,
                    latent_dim=setting.latent_dim,
                    n_classes=setting.n_classes,
                    score=score,
                    device=config.device,
                    on_update=advance,
                )
        return network

    return RecoveredStore(run_dir / "recovered", setting.checkpoint, setting.generator, recovered)


def discriminator_of(config: SearchConfig, setting: Setting) -> nn.Module | None:
    """The discriminator, where the recovery makes use of one.

    Raises:
        ArdError: it is asked to, and the checkpoint has none, or one that also takes labels; or a
            batch is too small for it.
    """
    if config.feature_weight and setting.n_classes:
        raise ArdError(
            f"--feature-weight {config.feature_weight:g}: the discriminator of a conditional "
            "generator judges images with their labels, whose features are not used; leave it out"
        )
    if not (feature_weight(config, setting) or polish_steps(config, setting)):
        return None
    discriminator = build_saved_discriminator(setting.checkpoint)
    if discriminator is None:
        raise ArdError(
            f"{config.checkpoint} holds no discriminator, which --feature-weight and "
            "--polish-steps need; leave them out"
        )
    if config.recover_batch < 2 and polish_steps(config, setting):
        raise ArdError(
            f"--recover-batch {config.recover_batch}: the polish compares images with one another "
            "and needs batches of at least 2; give more, or --polish-steps 0"
        )
    return discriminator.to(config.device)


def feature_weight(config: SearchConfig, setting: Setting) -> float:
    """What the discriminator's features weigh in the recovery of this checkpoint."""
    if config.feature_weight is not None:
        return config.feature_weight
    saved = holds_discriminator(setting.checkpoint)
    return FEATURE_WEIGHT if saved and not setting.n_classes else 0.0


def polish_steps(config: SearchConfig, setting: Setting) -> int:
    """How many adversarial updates a recovery of this checkpoint ends with."""
    if config.polish_steps is not None:
        return config.polish_steps
    return config.recover_steps if holds_discriminator(setting.checkpoint) else 0


def holds_discriminator(checkpoint: Checkpoint) -> bool:
    """Whether the discriminator that the generator was trained against is in its file."""
    return checkpoint.discriminator is not None and checkpoint.discriminator_config is not None


def loss_of(checkpoint: Checkpoint) -> str:
    """The loss that a checkpoint says it was trained by, or that of the shipped ones."""
    name = checkpoint.provenance.get("loss")
    return name if name in LOSSES or name in ALIASES else Polish.loss


def real_images(config: SearchConfig, setting: Setting) -> tuple[str, Callable[[int], Batch]]:
    """Batches for the polish: of the data set where it is on disk, else of the dense generator.

    What they are comes with them, in words.
    """
    seed, name = config.seed + SEEDS["real"], setting.checkpoint.provenance.get("dataset")
    if setting.load_images is not None and not setting.n_classes:
        try:
            return str(name), ShuffledBatches(setting.load_images(), config.recover_batch, seed)
        except MissingDataError:
            pass
    draw = StepLatents(seed, config.recover_batch, setting.latent_dim, setting.n_classes)
    absent = "" if name is None or setting.n_classes else f"; {name} is not on this disk"
    dense = batches_of(setting.generator, draw, setting.n_classes, config.device)
    return f"images of the dense generator{absent}", dense
