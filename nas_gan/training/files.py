"""What the main process of a run writes into its directory, and which settings make a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.data.images import Images
from nas_gan.networks.activations import activation_statistics
from nas_gan.networks.conditional import with_labels
from nas_gan.pictures.grid import grid_image, save_grid
from nas_gan.settings import as_text, chosen_settings, settings_but
from nas_gan.training.build import Networks, end_dependence
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import describe_networks
from nas_gan.training.draws import StepNoise
from nas_gan.training.log import RunLog
from nas_gan.training.seeds import Stream
from nas_gan.training.state import Position, save_state
from nas_gan.training.steps import AdversarialStep

# Images in a sample grid.
GRID = 64
# Settings that may differ between two parts of one run: they do not change what it computes.
_FREE = (
    *("config", "run_dir", "data_root", "device", "threads", "log_every", "sample_every"),
    *("save_every", "save_every_minutes", "snapshot_every"),
    *("eval_every", "eval_samples", "eval_metrics", "reference", "features"),
    "background",  # part of the digest of the data
    *("log_gradients", "log_health", "log_activations", "compile", "compile_backend"),
)
# Settings that came later: at their defaults they leave no trace, so that older runs resume.
_ADDED = (
    *("diffaugment", "product_of_norms", "loss_settings"),
    *("g_optimizer_settings", "d_optimizer_settings"),
    *("g_scheduler_settings", "d_scheduler_settings"),
)
# Files count by their content, which is in the description of the networks.
_FILES = ("networks", "genotype", "d_genotype")


class RunFiles:
    """The files of a run, each written by a callback of the training loop."""

    def __init__(
        self,
        config: TrainConfig,
        networks: Networks,
        step: AdversarialStep,
        images: Images,
        settings: Mapping[str, str],
        log: RunLog,
    ) -> None:
        self.config, self.networks, self.step, self.images = config, networks, step, images
        self.settings, self.log = settings, log
        interface = networks.interface
        self.grid_latents = StepNoise(config.seed + Stream.GRID, GRID, interface.latent_dim)(0)
        if n := interface.n_classes:  # the same number of images of each class, in order
            labels = torch.arange(GRID) * n // GRID
            self.grid_latents = with_labels(self.grid_latents, labels, n)

    def log_scalars(self, index: int, scalars: Mapping[str, float]) -> None:
        values = dict(scalars)
        if self.config.log_activations:
            networks = {"g": self.networks.generator, "d": self.networks.discriminator}
            for role, network in networks.items():
                found = activation_statistics(network)
                values |= {f"activation/{role}.{name}": value for name, value in found.items()}
        self.log.scalars(index + 1, values)

    def sample(self, index: int, scalars: Mapping[str, float]) -> None:
        averaged = self.networks.averaged
        with torch.inference_mode():
            drawn = averaged(self.grid_latents.to(self.config.device)).cpu()
        save_samples(self.config.run_dir, self.log, index + 1, drawn)

    def measured(self, index: int, figures: Mapping[str, float]) -> None:
        """Log what was measured, and save the weights if the FID is the best so far."""
        if figures.get("fid", math.inf) < self.step.upper_bound.best_fid:
            self._write("best.pt", index, **figures)
        self.log.scalars(index + 1, figures)

    def snapshot(self, index: int, scalars: Mapping[str, float]) -> None:
        self._write(f"ckpt-{index + 1:06d}.pt", index)

    def save(self, index: int, scalars: Mapping[str, float]) -> None:
        self.save_at(Position(index + 1))

    def save_at(self, position: Position) -> None:
        """Save the checkpoint, and the state to resume from."""
        self._write("ckpt.pt", position.done - 1)
        save_state(self.config.run_dir, self.settings, self.step, position)

    def _write(self, name: str, index: int, **more: float) -> None:
        checkpoint = make_checkpoint(self.config, self.networks, self.images, index + 1, **more)
        save_checkpoint(checkpoint, self.config.run_dir / name)


def save_samples(run_dir: Path, log: RunLog, step: int, images: Tensor) -> None:
    """Keep a grid of `(n, c, h, w)` images as samples/STEP.png and in the log."""
    save_grid(images, run_dir / "samples" / f"{step:06d}.png")
    log.image(step, grid_image(images))


def make_checkpoint(
    config: TrainConfig,
    networks: Networks,
    images: Images,
    step: int,
    **more: float,
) -> Checkpoint:
    """The averaged generator and the discriminator as they are now; `more` is provenance."""
    return Checkpoint(
        architecture=networks.g_architecture,
        generator=_as_saved(networks.averaged.state_dict()),
        discriminator=_as_saved(networks.discriminator.state_dict()),
        discriminator_config=networks.d_architecture,
        provenance={
            "dataset": config.dataset,
            "fit": config.fit,
            "background": config.background,
            "resolution": networks.interface.image_shape[1],
            "data_sha256": images.digest,
            "steps": step,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "loss": config.loss,
            "upper_bound": config.upper_bound,
            "torch": str(torch.__version__),
            **more,
        },
    )


def _as_saved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, and in float32 what is not an integer."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def fingerprint(config: TrainConfig, images: Images) -> dict[str, str]:
    """The settings that decide what a run computes, as text: another value is another run.

    The number of steps is among them only if something in the run follows its progress.
    """
    names = settings_but(config, (*_FREE, *_FILES))
    plain, neutral = chosen_settings(config, names), chosen_settings(TrainConfig(), _ADDED)
    settings = as_text({k: v for k, v in plain.items() if k not in _ADDED or v != neutral[k]})
    if end_dependence(config) is None:
        del settings["steps"]
    # A file keeps its name when somebody edits it.
    for role, network in zip(
        ("generator", "discriminator"), describe_networks(config), strict=True
    ):
        if config.networks is not None:
            settings[role] = json.dumps(network)
        elif "genotype" in network:
            settings[f"{role} genotype"] = json.dumps(network["genotype"])
    return settings | {"data_sha256": images.digest}


def reasons(config: TrainConfig) -> dict[str, str]:
    """Why a setting makes another run, if that is not obvious."""
    found = {"data_sha256": "other images, or another background"}
    dependence = end_dependence(config)
    if dependence:
        found["steps"] = f"{dependence} depends on the number of steps"
    return found
