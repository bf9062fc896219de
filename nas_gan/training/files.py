"""What the main process of a run writes into its directory, and which settings make a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nas_gan.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nas_gan.data.images import Images
from nas_gan.networks.activations import activation_statistics
from nas_gan.networks.conditional import with_labels
from nas_gan.pictures.grid import grid_image, save_grid
from nas_gan.reading import is_number
from nas_gan.settings import as_text, chosen_settings, settings_but
from nas_gan.training.alarm import CollapseAlarm
from nas_gan.training.build import Networks, end_dependence
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import describe_networks
from nas_gan.training.draws import StepNoise
from nas_gan.training.log import RunLog
from nas_gan.training.pace import Pace
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
    *("best_gain", "alarm_fid_factor", "alarm_kernel_margin", "alarm_patience", "on_finish"),
    *("log_gradients", "log_health", "log_activations", "compile", "compile_backend"),
    "standing_statistics",
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
        self.alarm = CollapseAlarm(
            config.alarm_fid_factor,
            config.alarm_kernel_margin,
            config.alarm_patience,
            best_fid=step.upper_bound.best_fid,
        )
        self.pace = Pace(
            config.steps, config.batch_size, first=log.first, spent=log.spent, device=config.device
        )
        self.best = _measured_best(config.run_dir) if log.first else None
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
        self.alarm.observe(index + 1, scalars)
        self.log.scalars(index + 1, {**values, **self.pace.scalars(index + 1)})

    def sample(self, index: int, scalars: Mapping[str, float]) -> None:
        averaged = self.networks.averaged
        with torch.inference_mode():
            drawn = averaged(self.grid_latents.to(self.config.device)).cpu()
        save_samples(self.config.run_dir, self.log, index + 1, drawn)

    def measured(self, index: int, figures: Mapping[str, float]) -> None:
        """Log what was measured, and save the weights if the FID is the best beyond its noise."""
        self.alarm.observe(index + 1, figures)
        if "fid" in figures:
            found = figures["fid"], figures.get("fid_se", 0.0)
            if is_gain(found, self.best, self.config.best_gain):
                self._write("best.pt", index, **figures)
                self.best = found
        self.log.scalars(index + 1, figures)

    def snapshot(self, index: int, scalars: Mapping[str, float]) -> None:
        self._write(f"ckpt-{index + 1:06d}.pt", index)

    def save(self, index: int, scalars: Mapping[str, float]) -> None:
        self.save_at(Position(index + 1))

    def save_at(self, position: Position) -> None:
        """Save the checkpoint, and the state to resume from, unless the run looks collapsed.

        At the end of the run only the alarm itself counts, since nobody looks again.
        """
        at_the_end = position.done >= self.config.steps
        if self.alarm.reason if at_the_end else self.alarm.suspicious:
            return
        self._write("ckpt.pt", position.done - 1)
        save_state(self.config.run_dir, self.settings, self.step, position)

    def _write(self, name: str, index: int, **more: float) -> None:
        checkpoint = make_checkpoint(self.config, self.networks, self.images, index + 1, **more)
        save_checkpoint(checkpoint, self.config.run_dir / name)


def is_gain(
    found: tuple[float, float], best: tuple[float, float] | None, standard_errors: float
) -> bool:
    """Whether an FID is below the best one by more than its noise.

    Both are a value and its standard error; they count as independent, which is on the safe side
    for evaluations on the same latents.
    """
    if best is None:
        return math.isfinite(found[0])
    return found[0] < best[0] - standard_errors * math.hypot(found[1], best[1])


def _measured_best(run_dir: Path) -> tuple[float, float] | None:
    """The FID of best.pt and its standard error, as an earlier part of the run measured them."""
    path = run_dir / "best.pt"
    if not path.exists():
        return None
    known = load_checkpoint(path).provenance
    fid, error = known.get("fid", math.nan), known.get("fid_se", 0.0)
    return (float(fid), float(error)) if is_number(fid) and is_number(error) else None


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
            "resolution": networks.interface.resolution,
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
