"""Every setting of a search as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nas_gan.architecture_search.amending import check_coefficient
from nas_gan.architecture_search.relaxation import GumbelLogits, TemperatureSchedule
from nas_gan.architecture_search.step import ArchitectureLoss, check_batch_size
from nas_gan.errors import InvalidValueError
from nas_gan.networks.genotype import Table
from nas_gan.networks.searched import InitName


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
