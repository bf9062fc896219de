"""Search an architecture: `python -m nas_gan.search --config nas_gan/presets/search_cifar10.toml`.

The run directory holds genotype.json (what `python -m nas_gan.train --genotype` takes),
discriminator.json, both as graphs, genotypes/ (those found along the way), config.json, state.pt
(everything a continuation needs), log.jsonl, TensorBoard events and sample grids. The same command
goes on where it was stopped. On several GPUs or processes:
`torchrun --nproc-per-node 2 -m nas_gan.search ...`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from nas_gan.architecture_search.amending import check_coefficient
from nas_gan.architecture_search.drawing import draw
from nas_gan.architecture_search.draws import Sampling
from nas_gan.architecture_search.relaxation import GumbelLogits, Relaxation, TemperatureSchedule
from nas_gan.architecture_search.step import (
    ArchitectureLoss,
    ArchitectureStep,
    Optimizers,
    SearchLosses,
    Supernets,
    check_batch_size,
    make_architecture_loss,
)
from nas_gan.architecture_search.supernet import (
    PUBLISHED_UP_COLUMNS,
    SuperDiscriminator,
    SuperGenerator,
    Supernet,
    initialize_supernet_,
)
from nas_gan.cli import progress, run
from nas_gan.data.batches import ShuffledBatches
from nas_gan.data.images import Images
from nas_gan.data.loading import load_dataset
from nas_gan.devices import check_device
from nas_gan.errors import DivergedError, InvalidValueError
from nas_gan.files import write_json, write_text
from nas_gan.losses import make_loss
from nas_gan.networks.genotype import D_EDGES, EDGES, DiscriminatorGenotype, Genotype, Table
from nas_gan.networks.searched import GeneratorConfig, InitName
from nas_gan.pictures.grid import grid_image, save_grid
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.distributed import (
    Processes,
    exchange_among,
    global_batch_norm_,
    joined_processes,
)
from nas_gan.training.draws import StepLatents
from nas_gan.training.log import RunLog
from nas_gan.training.loop import Every, TrainingResult, run_training
from nas_gan.training.preset import preset_from_arguments
from nas_gan.training.schedule import Schedule
from nas_gan.training.state import resume, save_state


@dataclass(frozen=True)
class SearchConfig:
    """Every setting of a search. A preset is a TOML file with these names."""

    config: Path | None = None
    """A preset (.toml) with any of these settings; flags override it."""
    run_dir: Path = Path("runs/search")
    """Where the search is kept; an unfinished one there is continued."""
    dataset: str = "cifar10"
    """fashion_mnist, mnist, cifar10, cifar100, stl10, celeba, folder or synthetic."""
    data_root: Path | None = None
    """Folder of the data set, if it is not in its usual place."""
    shape: str = "cifar10"
    """Published net shape: cifar10, cifar100, stl10, celeba64, celeba128."""
    gf_dim: int = 160
    df_dim: int = 80
    n_outputs: int = 16
    """Numbers in a discriminator's score."""
    activation: str = "pmish"
    """Of the generator; the discriminator has ReLU."""
    latent_dim: int = 120
    table: Table = "mmd-nas"
    """Upsampling operations to choose from; adversarial-nas has no bicubic."""
    dead_conv_transpose: bool = False
    """As published for mmd-nas: the transposed convolution is there and can never be chosen."""
    loss: str = "latest"
    """Loss of the weights, by the names that nas_gan.train knows."""
    arch_loss: ArchitectureLoss = "hinge"
    """Loss of the architecture parameters: hinge (as published) or the bounded repulsive MMD."""
    upper_bound: float = 4.0
    """Cap on squared distances of real scores in bounded losses."""
    relaxation: Literal["gumbel", "softmax"] = "gumbel"
    """Sampled weights of the operations, or their expectation."""
    gumbel_logits: GumbelLogits = "log-probabilities"
    """What the noise is added to; the published code has it added to probabilities."""
    temperature_start: float = 5.0
    temperature_end: float = 0.1
    amending: float = 0.0
    """Coefficient of the second-order term in the architecture's gradient; 0 leaves it out."""
    steps: int = 48_750
    batch_size: int = 128
    """Even: half of a batch trains weights, the other half the architecture. Of all processes."""
    n_critic: int = 5
    g_lr: float = 2e-4
    d_lr: float = 2e-4
    beta1: float = 0.0
    beta2: float = 0.9
    arch_lr: float = 3e-4
    arch_beta1: float = 0.5
    arch_beta2: float = 0.999
    arch_weight_decay: float = 1e-4
    ema_decay: float = 0.999
    init: InitName = "xavier_uniform"
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"
    threads: int | None = None
    seed: int = 12345
    log_every: int = 20
    sample_every: int = 500
    derive_every: int = 390
    """Keep the genotype as it is every so many steps; 0 keeps the last only."""
    save_every: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "gf_dim", "df_dim", "n_outputs", "n_critic", "save_every"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("g_lr", "d_lr", "arch_lr", "upper_bound"):
            if not getattr(self, name) > 0:
                raise InvalidValueError(f"{name} must be above 0; got {getattr(self, name)}")
        for name in ("beta1", "beta2", "arch_beta1", "arch_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be in [0, 1); got {getattr(self, name)}")
        if not self.arch_weight_decay >= 0:
            raise InvalidValueError(
                f"arch_weight_decay must be 0 or above; got {self.arch_weight_decay}"
            )
        if self.seed < 0 or (self.threads is not None and self.threads < 1):
            raise InvalidValueError(
                f"seed must be at least 0 and threads 1; got {self.seed} and {self.threads}"
            )
        if self.dead_conv_transpose and self.table != "mmd-nas":
            raise InvalidValueError("dead_conv_transpose is about the table mmd-nas only")
        check_batch_size(self.batch_size)
        check_coefficient(self.amending)
        TemperatureSchedule(self.temperature_start, self.temperature_end)


# Settings that may change between two parts of one search without changing what it computes.
_FREE = (
    *("config", "run_dir", "data_root", "device", "threads"),
    *("log_every", "sample_every", "derive_every", "save_every"),
)


def _fingerprint(config: SearchConfig, images: Images) -> dict[str, str]:
    settings = {k: str(v) for k, v in asdict(config).items() if k not in _FREE}
    return settings | {"data_sha256": images.digest}


def build_supernets(config: SearchConfig) -> Supernets:
    """Initialised supernets on the run's device."""
    skeleton = GeneratorConfig.for_dataset(
        config.shape,
        gf_dim=config.gf_dim,
        latent_dim=config.latent_dim,
        activation=config.activation,
    )
    columns = PUBLISHED_UP_COLUMNS if config.dead_conv_transpose else None
    generator = SuperGenerator(skeleton, config.table, columns)
    discriminator = SuperDiscriminator(config.df_dim, config.n_outputs)
    # The power iteration of spectral norm starts from the global generator.
    torch.manual_seed(config.seed)
    for offset, network in enumerate((generator, discriminator)):
        rng = torch.Generator().manual_seed(config.seed + offset)
        initialize_supernet_(network, config.init, rng)
        network.to(config.device).to(memory_format=torch.channels_last)
        global_batch_norm_(network)
    return Supernets(
        generator, discriminator, ExponentialMovingAverage(generator, config.ema_decay)
    )


def build_step(
    config: SearchConfig,
    networks: Supernets,
    images: Images,
    processes: Processes | None = None,
) -> ArchitectureStep:
    """The update of a search, on this process's share of every half of a batch.

    Raises:
        InvalidValueError: a loss is unknown, or half of a batch does not divide into equal parts
            for all processes.
    """
    processes = processes or Processes(device=config.device)
    if config.batch_size % (share := 2 * processes.count):
        raise InvalidValueError(
            f"each of {processes.count} processes has its part of both halves of a batch: "
            f"batch_size must be a multiple of {share}; got {config.batch_size}"
        )
    batches = ShuffledBatches(images, config.batch_size, config.seed)

    def weights_adam(network: Supernet, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.weights, lr, (float(config.beta1), float(config.beta2)))

    def alphas_adam(network: Supernet) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            network.alphas,
            config.arch_lr,
            (float(config.arch_beta1), float(config.arch_beta2)),
            weight_decay=config.arch_weight_decay,
        )

    return ArchitectureStep(
        networks,
        optimizers=Optimizers(
            g_weights=weights_adam(networks.generator, config.g_lr),
            d_weights=weights_adam(networks.discriminator, config.d_lr),
            g_alphas=alphas_adam(networks.generator),
            d_alphas=alphas_adam(networks.discriminator),
        ),
        losses=SearchLosses(
            make_loss(config.loss),
            make_architecture_loss(config.arch_loss),
            config.amending,
            config.upper_bound,
        ),
        sampling=Sampling(
            Relaxation(config.relaxation, config.gumbel_logits),
            TemperatureSchedule(config.temperature_start, config.temperature_end),
            config.seed + 2,
        ),
        real=batches,
        schedule=Schedule(config.steps, batches.per_epoch, n_critic=config.n_critic),
        bf16=config.precision == "bf16",
        exchange=exchange_among(processes),
    )


def search(
    config: SearchConfig,
    images: Images,
    *,
    on_update: Callable[[int], None] = lambda n: None,
    processes: Processes | None = None,
) -> TrainingResult:
    """Run, or go on with, the search that `config` describes, and keep it in its run directory.

    `on_update(n)` is told of finished updates. Of several processes the main one alone writes.
    """
    processes = processes or Processes(device=config.device)
    networks = build_supernets(config)
    step = build_step(config, networks, images, processes)
    fingerprint = _fingerprint(config, images)
    first = resume(config.run_dir, fingerprint, step)
    if not processes.is_main:
        return run_training(step, n_steps=config.steps, first=first)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
    write_json(config.run_dir / "config.json", plain)
    log = RunLog(config.run_dir, first)
    grid_latents = StepLatents(config.seed + 3, 64, config.latent_dim)(0)
    on_update(first)

    def save(index: int, scalars: Mapping[str, float]) -> None:
        save_state(config.run_dir, fingerprint, step, index + 1)

    def derive(index: int, scalars: Mapping[str, float]) -> None:
        folder = config.run_dir / "genotypes"
        generator, discriminator = networks.genotypes()
        write_text(folder / f"{index + 1:06d}.json", generator.to_json())
        write_text(folder / f"{index + 1:06d}_discriminator.json", discriminator.to_json())

    def sample(index: int, scalars: Mapping[str, float]) -> None:
        with torch.inference_mode():
            drawn = networks.average.average(grid_latents.to(config.device)).cpu()
        save_grid(drawn, config.run_dir / "samples" / f"{index + 1:06d}.png")
        log.image(index + 1, grid_image(drawn))

    with closing(log):
        result = run_training(
            step,
            n_steps=config.steps,
            first=first,
            callbacks=[
                lambda index, scalars: on_update(1),
                Every(config.log_every, lambda i, s: log.scalars(i + 1, s), config.steps),
                Every(config.sample_every, sample, config.steps),
                Every(config.derive_every, derive, config.steps),
                Every(config.save_every, save, config.steps),
            ],
        )
    if result.status == "finished":
        generator, discriminator = networks.genotypes()
        write_text(config.run_dir / "genotype.json", generator.to_json())
        write_text(config.run_dir / "discriminator.json", discriminator.to_json())
    return result


def table_of(genotype: Genotype | DiscriminatorGenotype) -> str:
    """The operations of a genotype, a line for each cell or block, in columns."""
    is_generator = isinstance(genotype, Genotype)
    edges, part = (EDGES, "cell") if is_generator else (D_EDGES, "block")
    rows = [["", *edges]]
    for number in range(1, len(genotype.rows) + 1):
        operations = (genotype.operation(number, edge) for edge in edges)
        rows.append([f"{part} {number}", *operations])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def main(config: SearchConfig) -> int:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with joined_processes(config.device) as processes:
        config = replace(config, device=processes.device)
        check_device(config.device)
        images = load_dataset(
            config.dataset,
            size=GeneratorConfig.for_dataset(config.shape).image_size,
            root=config.data_root,
        )
        # One bar for all processes.
        bar = progress("searching", config.steps) if processes.is_main else nullcontext(_ignore)
        with bar as advance:
            result = search(config, images, on_update=advance, processes=processes)
    if result.status == "diverged":
        raise DivergedError(f"{result.message}; the last good state is in {config.run_dir}")
    if processes.is_main:
        _show(config, result)
    return 0


def _ignore(n: int) -> None:
    pass


def _show(config: SearchConfig, result: TrainingResult) -> None:
    """What was found, on the screen and as graphs in the run directory."""
    path = config.run_dir / "genotype.json"
    genotype = Genotype.from_json(path.read_text())
    judge_path = config.run_dir / "discriminator.json"
    judge = DiscriminatorGenotype.from_json(judge_path.read_text())
    sys.stdout.write(f"{table_of(genotype)}\n{table_of(judge)}\n{result.step} steps, {path}\n")
    for found, file in ((genotype, path), (judge, judge_path)):
        if missing := draw(found, file.with_suffix(".gv")):
            sys.stderr.write(f"{missing}\n")


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
