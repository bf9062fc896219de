"""Train a generator: `python -m nas_gan.train --config nas_gan/presets/fashion_mnist.toml`.

The run directory holds config.json, state.pt (everything a continuation needs), ckpt.pt (averaged
weights), log.jsonl, TensorBoard events and sample grids. The same command goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from nas_gan.averaging import ExponentialMovingAverage
from nas_gan.checkpoint import Checkpoint, load_torch, save_checkpoint, save_torch
from nas_gan.cli import progress, run
from nas_gan.data import Images, ShuffledBatches, load_dataset
from nas_gan.devices import check_device
from nas_gan.errors import CheckpointError, DivergedError, InvalidValueError
from nas_gan.files import write_json, write_text
from nas_gan.genotype import MMD_NAS, Genotype
from nas_gan.grid import grid_image, save_grid
from nas_gan.losses import make_loss
from nas_gan.networks import (
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    InitName,
    build_discriminator,
    initialize_,
)
from nas_gan.steps import AdversarialStep, StepLatents
from nas_gan.training import Every, TrainingResult, run_training
from nas_gan.upper_bound import Procedure, UpperBoundSchedule


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training run. A preset is a TOML file with these names."""

    config: Path | None = None
    """A preset (.toml) with any of these settings; flags override it."""
    run_dir: Path = Path("runs/train")
    """Where the run is kept; an unfinished one there is continued."""
    dataset: str = "fashion_mnist"
    """fashion_mnist, mnist, cifar10, cifar100, stl10, celeba, folder or synthetic."""
    data_root: Path | None = None
    """Folder of the data set, if it is not in its usual place."""
    shape: str = "cifar10"
    """Published net shape: cifar10, cifar100, stl10, celeba64, celeba128."""
    genotype: Path | None = None
    """A searched genotype (.json or .npy) instead of the published one."""
    gf_dim: int = 256
    df_dim: int = 512
    activation: str = "pmish"
    latent_dim: int = 120
    loss: str = "latest"
    """Loss preset: published or latest."""
    steps: int = 200_000
    batch_size: int = 128
    n_critic: int = 1
    g_lr: float = 2e-4
    d_lr: float = 2e-4
    beta1: float = 0.0
    beta2: float = 0.9
    ema_decay: float = 0.999
    init: InitName = "xavier_uniform"
    upper_bound: Procedure = "geometric"
    """How the bound rises; the saturate procedures follow the measured FID."""
    upper_bound_start: float = 4.0
    upper_bound_end: float = 64.0
    upper_bound_increase: float = 2.0
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"
    threads: int | None = None
    seed: int = 12345
    log_every: int = 20
    sample_every: int = 500
    save_every: int = 250
    snapshot_every: int = 0
    """Keep ckpt-STEP.pt every so many steps; 0 keeps the newest only."""
    eval_every: int = 0
    """Measure FID every so many steps; 0 never."""
    eval_samples: int = 5000
    reference: str = "auto"
    """Reference statistics for FID: auto, dense or an .npz file."""
    features: Literal["auto", "inception", "efficientnet-lite0"] = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "gf_dim", "df_dim", "n_critic", "save_every"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.upper_bound.startswith("saturate") and not self.eval_every:
            raise InvalidValueError(
                f"upper_bound {self.upper_bound} follows the measured FID; set eval_every too"
            )
        if self.batch_size < 2:
            raise InvalidValueError("batch_size must be at least 2: the MMD losses need pairs")
        if self.seed < 0 or (self.threads is not None and self.threads < 1):
            raise InvalidValueError(
                f"seed must be at least 0 and threads 1; got {self.seed} and {self.threads}"
            )
        if not (self.g_lr > 0 and self.d_lr > 0):
            raise InvalidValueError(
                f"g_lr and d_lr must be above 0; got {self.g_lr} and {self.d_lr}"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise InvalidValueError(
                f"beta1 and beta2 must be in [0, 1); got {self.beta1} and {self.beta2}"
            )


def load_preset(path: Path) -> TrainConfig:
    """Read a TOML preset; unknown keys and unreadable values are refused by name."""
    if not path.is_file():
        raise InvalidValueError(f"{path}: no such preset; see nas_gan/presets")
    try:
        data = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"{path}: not a TOML file ({error})") from error
    known = {f.name for f in fields(TrainConfig)} - {"config"}
    unknown = sorted(set(data) - known)
    if unknown:
        raise InvalidValueError(
            f"{path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    types = get_type_hints(TrainConfig)
    return TrainConfig(**{k: _typed(f"{path}: {k}", v, types[k]) for k, v in data.items()})


def _typed(where: str, value: Any, expected: Any) -> Any:
    """A TOML value as the type of its field, which TOML has no word for if it is a path."""
    choices = get_args(expected)
    if get_origin(expected) is Literal:
        if value not in choices:
            raise InvalidValueError(f"{where} must be one of {', '.join(choices)}; got {value!r}")
        return value
    if choices:  # X | None, where TOML can only say X
        (expected,) = (choice for choice in choices if choice is not type(None))
    written = {Path: (str,), float: (float, int)}.get(expected, (expected,))
    if type(value) not in written:
        raise InvalidValueError(f"{where} must be {expected.__name__}; got {value!r}")
    return expected(value)


@dataclass(frozen=True)
class Networks:
    """The two networks of a run, the average, and how to describe them."""

    generator: Generator
    discriminator: nn.Module
    average: ExponentialMovingAverage
    generator_config: GeneratorConfig
    discriminator_config: DiscriminatorConfig


def build_networks(config: TrainConfig) -> Networks:
    """Initialised networks on the run's device."""
    g_config = GeneratorConfig.for_dataset(
        config.shape,
        genotype=_read_genotype(config.genotype),
        gf_dim=config.gf_dim,
        latent_dim=config.latent_dim,
        activation=config.activation,
    )
    d_config = DiscriminatorConfig.for_image_size(g_config.image_size, df_dim=config.df_dim)
    generator = Generator(g_config)
    initialize_(generator, config.init, torch.Generator().manual_seed(config.seed))
    rng = torch.Generator().manual_seed(config.seed + 1)
    # The power iteration of spectral norm starts from the global generator.
    torch.manual_seed(config.seed)
    discriminator = build_discriminator(d_config, config.init, rng)
    for network in (generator, discriminator):
        network.to(config.device).to(memory_format=torch.channels_last)
    average = ExponentialMovingAverage(generator, config.ema_decay)
    return Networks(generator, discriminator, average, g_config, d_config)


def _read_genotype(path: Path | None) -> Genotype:
    if path is None:
        return MMD_NAS
    if not path.is_file():
        raise InvalidValueError(f"{path}: no such genotype file (.json or .npy)")
    if path.suffix == ".npy":
        return Genotype.from_npy(path)
    try:
        return Genotype.from_json(path.read_text())
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{path}: not a text file; a genotype is .json or .npy") from error


def build_step(config: TrainConfig, networks: Networks, images: Images) -> AdversarialStep:
    """The adversarial update of a run."""
    batches = ShuffledBatches(images, config.batch_size, config.seed)
    betas = (float(config.beta1), float(config.beta2))
    return AdversarialStep(
        networks.generator,
        networks.discriminator,
        make_loss(config.loss),
        g_optimizer=torch.optim.Adam(networks.generator.parameters(), config.g_lr, betas),
        d_optimizer=torch.optim.Adam(networks.discriminator.parameters(), config.d_lr, betas),
        average=networks.average,
        upper_bound=UpperBoundSchedule(
            config.upper_bound,
            config.upper_bound_start,
            config.upper_bound_end,
            config.upper_bound_increase,
        ),
        real=batches,
        latents=StepLatents(config.seed + 2, config.batch_size, config.latent_dim),
        updates_per_epoch=batches.per_epoch,
        n_steps=config.steps,
        n_critic=config.n_critic,
        device=config.device,
        bf16=config.precision == "bf16",
    )


def make_checkpoint(
    config: TrainConfig, networks: Networks, images: Images, step: int
) -> Checkpoint:
    """The averaged generator and the discriminator as they are now."""
    return Checkpoint(
        architecture={"kind": "mmd-nas", **networks.generator_config.to_dict()},
        generator=_cpu(networks.average.average.state_dict()),
        discriminator=_cpu(networks.discriminator.state_dict()),
        discriminator_config=asdict(networks.discriminator_config),
        provenance={
            "dataset": config.dataset,
            "resolution": networks.generator_config.image_size,
            "data_sha256": images.digest,
            "steps": step,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "loss": config.loss,
            "upper_bound": config.upper_bound,
            "torch": str(torch.__version__),
        },
    )


def _cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


# Settings that may change between two parts of one run without changing what it computes.
_FREE = (
    *("config", "run_dir", "data_root", "device", "threads", "log_every", "sample_every"),
    *("save_every", "snapshot_every", "eval_every", "eval_samples", "reference", "features"),
)


def resume(config: TrainConfig, step: AdversarialStep, images: Images) -> int:
    """Load the state of an unfinished run, if there is one; returns the next index.

    Raises:
        CheckpointError: the directory belongs to a run with other settings or data, or its state
            is damaged.
    """
    path = config.run_dir / "state.pt"
    if not path.exists():
        return 0
    state = load_torch(path)
    try:
        ours, theirs = _fingerprint(config, images), dict(state["config"])
        step_state, first = state["step_state"], int(state["step"])
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a training state; use another --run-dir") from error
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{config.run_dir} holds a run with {name} = {theirs.get(name)}, "
            f"asked for {ours[name]}; use another --run-dir"
        )
    try:
        step.load_state_dict(step_state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged training state; use another --run-dir") from error
    return first


def _fingerprint(config: TrainConfig, images: Images) -> dict[str, str]:
    settings = {k: str(v) for k, v in asdict(config).items() if k not in _FREE}
    # By content, since a file keeps its name when somebody edits it.
    settings["genotype"] = _read_genotype(config.genotype).to_json()
    return settings | {"data_sha256": images.digest}


def save_state(config: TrainConfig, step: AdversarialStep, images: Images, done: int) -> None:
    """Write everything that a continuation from `done` finished updates needs."""
    state = {
        "config": _fingerprint(config, images),
        "step": done,
        "step_state": step.state_dict(),
    }
    save_torch(state, config.run_dir / "state.pt")


class RunLog:
    """Scalars as JSON lines and as TensorBoard events; lines past the resumed step are dropped."""

    def __init__(self, run_dir: Path, first: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = run_dir / "log.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= first]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.writer = SummaryWriter(run_dir / "tensorboard", purge_step=first + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, image: Tensor) -> None:
        self.writer.add_image("samples", image, step)

    def close(self) -> None:
        self.writer.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # a line cut short by a crash


def train(
    config: TrainConfig,
    images: Images,
    *,
    on_update: Callable[[int], None] = lambda n: None,
    measure_fid: Callable[[nn.Module], float] | None = None,
) -> TrainingResult:
    """Run, or go on with, the training that `config` describes, and keep it in its run directory.

    `measure_fid` scores the averaged generator; `on_update(n)` is told of finished updates.
    """
    networks = build_networks(config)
    step = build_step(config, networks, images)
    first = resume(config, step, images)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    write_json(config.run_dir / "config.json", {k: _plain(v) for k, v in asdict(config).items()})
    log = RunLog(config.run_dir, first)
    grid_latents = StepLatents(config.seed + 3, 64, config.latent_dim)(0)
    on_update(first)

    def save(index: int, scalars: Mapping[str, float]) -> None:
        checkpoint = make_checkpoint(config, networks, images, index + 1)
        save_checkpoint(checkpoint, config.run_dir / "ckpt.pt")
        save_state(config, step, images, index + 1)

    def snapshot(index: int, scalars: Mapping[str, float]) -> None:
        checkpoint = make_checkpoint(config, networks, images, index + 1)
        save_checkpoint(checkpoint, config.run_dir / f"ckpt-{index + 1:06d}.pt")

    def sample(index: int, scalars: Mapping[str, float]) -> None:
        with torch.inference_mode():
            drawn = networks.average.average(grid_latents.to(config.device)).cpu()
        save_grid(drawn, config.run_dir / "samples" / f"{index + 1:06d}.png")
        log.image(index + 1, grid_image(drawn))

    def evaluate(index: int, scalars: Mapping[str, float]) -> None:
        if measure_fid is not None:
            fid = measure_fid(networks.average.average)
            step.upper_bound.validated(fid)
            log.scalars(index + 1, {"fid": fid})

    with closing(log):
        return run_training(
            step,
            n_steps=config.steps,
            first=first,
            callbacks=[
                lambda index, scalars: on_update(1),
                Every(config.log_every, lambda i, s: log.scalars(i + 1, s), config.steps),
                Every(config.sample_every, sample, config.steps),
                Every(config.eval_every, evaluate, config.steps),
                Every(config.snapshot_every, snapshot),
                Every(config.save_every, save, config.steps),
            ],
        )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def fid_measure(config: TrainConfig, images: Images) -> Callable[[nn.Module], float] | None:
    """A function that scores a generator, or None where no evaluation was asked for."""
    if not config.eval_every:
        return None
    from nas_gan.metrics.features import make_extractor
    from nas_gan.metrics.frechet import FrechetReference, StreamingStatistics
    from nas_gan.metrics.reference import cache_dir, find_reference
    from nas_gan.metrics.sampling import extract_features, latent_bank

    extractor = make_extractor(config.features, device=config.device)
    statistics, _ = find_reference(
        config.reference,
        extractor,
        dataset=config.dataset,
        resolution=images[torch.zeros(1, dtype=torch.long)].shape[-1],
        data=lambda: images,
        cache=cache_dir(),
    )
    reference = FrechetReference(statistics)
    latents = latent_bank(config.eval_samples, config.latent_dim, config.seed + 4)

    def measure(generator: nn.Module) -> float:
        streaming = StreamingStatistics(extractor.dim)
        streaming.update(extract_features(generator, latents, extractor, device=config.device))
        return reference.distance(streaming.result())

    return measure


def main(config: TrainConfig) -> int:
    check_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    images = load_dataset(
        config.dataset,
        size=GeneratorConfig.for_dataset(config.shape).image_size,
        root=config.data_root,
    )
    measure = fid_measure(config, images)
    with progress("training", config.steps) as advance:
        result = train(config, images, on_update=advance, measure_fid=measure)
    if result.status == "diverged":
        raise DivergedError(f"{result.message}; the last good state is in {config.run_dir}")
    sys.stdout.write(f"{result.step} steps, {config.run_dir / 'ckpt.pt'}\n")
    return 0


def _preset_from_arguments() -> TrainConfig:
    """The preset that `--config` names: its values are the defaults of all other flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    preset = parser.parse_known_args()[0].config
    return load_preset(preset) if preset else TrainConfig()


if __name__ == "__main__":
    sys.exit(
        run(
            main,
            TrainConfig,
            prog="python -m nas_gan.train",
            description=__doc__,
            default=_preset_from_arguments,
        )
    )
