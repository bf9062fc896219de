"""What a search trains, and how: its supernets and its step, built from its settings."""

from __future__ import annotations

import torch

from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.draws import Sampling
from nas_gan.architecture_search.relaxation import Relaxation, TemperatureSchedule
from nas_gan.architecture_search.step import (
    ArchitectureStep,
    Optimizers,
    SearchLosses,
    Supernets,
    make_architecture_loss,
)
from nas_gan.architecture_search.supernet import (
    PUBLISHED_UP_COLUMNS,
    SuperDiscriminator,
    SuperGenerator,
    Supernet,
    initialize_supernet_,
)
from nas_gan.data.batches import ShuffledBatches
from nas_gan.data.images import Images
from nas_gan.data.loading import load_dataset
from nas_gan.errors import InvalidValueError
from nas_gan.losses import make_loss
from nas_gan.networks.searched import GeneratorConfig
from nas_gan.progress import Progress, no_progress
from nas_gan.seeds import folded
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.distributed import Processes, exchange_among, global_batch_norm_
from nas_gan.training.schedule import Schedule
from nas_gan.training.seeds import Stream


def load_images(config: SearchConfig, progress: Progress = no_progress) -> Images:
    """The data set of a search, in the size of its networks.

    `progress` shows a bar while the files of a folder are looked at.
    """
    size = GeneratorConfig.for_dataset(config.shape).image_size
    return load_dataset(
        config.dataset,
        size=size,
        root=config.data_root,
        background=config.background,
        progress=progress,
    )


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
    torch.manual_seed(folded(config.seed))
    for stream, network in ((Stream.GENERATOR, generator), (Stream.DISCRIMINATOR, discriminator)):
        rng = torch.Generator().manual_seed(folded(config.seed + stream))
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
            f"each of {processes.count} processes takes a part of both halves of a batch: "
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
            config.seed + Stream.UPDATES,
        ),
        real=batches,
        schedule=Schedule(config.steps, batches.per_epoch, n_critic=config.n_critic),
        bf16=config.precision == "bf16",
        exchange=exchange_among(processes),
    )
