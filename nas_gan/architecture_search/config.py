"""Every setting of a search as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from nas_gan.architecture_search.amending import check_coefficient
from nas_gan.architecture_search.relaxation import GumbelLogits, TemperatureSchedule
from nas_gan.architecture_search.step import ArchitectureLoss, check_batch_size
from nas_gan.data.files import WHITE, parse_colour
from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.networks.genotype import Table
from nas_gan.networks.searched import InitName
from nas_gan.panels import (
    ADDRESS,
    DATA,
    EVALUATION,
    FILES,
    LOSS,
    MACHINE,
    NETWORK,
    OPTIMISER,
    Panel,
)
from nas_gan.settings import check_above, check_at_least, check_fraction
from nas_gan.training.finish import check_on_finish

SearchMetric = Literal["fid", "is"]
SPACE, RELAXATION = Panel("search space"), Panel("relaxation")
ARCHITECTURE, FINAL = Panel("architecture parameter"), Panel("finalist")


@dataclass(frozen=True)
class SearchConfig:
    """Every setting of a search. A preset is a TOML file with these names."""

    config: Path | None = None
    """Preset to start from: the name of a packaged one or a .toml file with any of these settings;
    options on the command line override it."""
    run_dir: Annotated[Path, ADDRESS] = Path("runs/search")
    """Directory of the search; an unfinished search there is resumed."""
    dataset: str = "cifar10"
    """Data set: fashion_mnist, mnist, cifar10, cifar100, stl10, celeba, crossfire, noto-emoji,
    openclipart, folder or synthetic."""
    data_root: Annotated[Path | None, ADDRESS] = None
    """Folder of the data set, if it is not in its usual place."""
    background: Annotated[str, DATA] = WHITE
    """Colour that transparent pixels of image files are laid over, such as white or #808080."""
    shape: Annotated[str, NETWORK] = "cifar10"
    """Published shape of the networks: cifar10, cifar100, stl10, celeba64 or celeba128."""
    gf_dim: Annotated[int, NETWORK] = 160
    """Width of the generator: channels of its feature maps."""
    df_dim: Annotated[int, NETWORK] = 80
    """Width of the discriminator: channels of its feature maps."""
    n_outputs: Annotated[int, NETWORK] = 16
    """Dimension of a score, the discriminator's output for one image."""
    activation: Annotated[str, NETWORK] = "pmish"
    """Activation of the generator; the discriminator has ReLU."""
    latent_dim: Annotated[int, NETWORK] = 120
    """Dimension of the latent vector."""
    table: Annotated[Table, SPACE] = "mmd-nas"
    """Upsampling operations to choose from; adversarial-nas has no bicubic one."""
    dead_conv_transpose: Annotated[bool, SPACE] = False
    """Never choose the transposed convolution of the mmd-nas table, as in the published code."""
    loss: str = "latest"
    """Adversarial loss of the weights, by the names of nas_gan.train."""
    arch_loss: Annotated[ArchitectureLoss, LOSS] = "hinge"
    """Loss of the architecture parameters: hinge, as published, or the bounded repulsive MMD."""
    upper_bound: Annotated[float, LOSS] = 4.0
    """Cap on the squared distances of real scores in bounded losses."""
    relaxation: Annotated[Literal["gumbel", "softmax"], RELAXATION] = "gumbel"
    """Weights of the operations: sampled (gumbel) or their expectation (softmax)."""
    gumbel_logits: Annotated[GumbelLogits, RELAXATION] = "log-probabilities"
    """What Gumbel noise is added to; the published code adds it to probabilities."""
    temperature_start: Annotated[float, RELAXATION] = 5.0
    """Temperature of the Gumbel softmax at the start."""
    temperature_end: Annotated[float, RELAXATION] = 0.1
    """Temperature of the Gumbel softmax at the end, to which it falls geometrically."""
    amending: Annotated[float, ARCHITECTURE] = 0.0
    """Coefficient of the second-order term in the architecture's gradient; 0 leaves it out."""
    steps: int = 48_750
    """Steps of the whole search."""
    batch_size: int = 128
    """Images per batch, summed over all processes and even: half of a batch trains the weights, the
    other half the architecture."""
    n_critic: Annotated[int, OPTIMISER] = 5
    """Updates of the discriminator per update of the generator."""
    g_lr: Annotated[float, OPTIMISER] = 2e-4
    """Learning rate of the generator's weights."""
    d_lr: Annotated[float, OPTIMISER] = 2e-4
    """Learning rate of the discriminator's weights."""
    beta1: Annotated[float, OPTIMISER] = 0.0
    """First beta of Adam for the weights."""
    beta2: Annotated[float, OPTIMISER] = 0.9
    """Second beta of Adam for the weights."""
    arch_lr: Annotated[float, ARCHITECTURE] = 3e-4
    """Learning rate of the architecture parameters."""
    arch_beta1: Annotated[float, ARCHITECTURE] = 0.5
    """First beta of Adam for the architecture parameters."""
    arch_beta2: Annotated[float, ARCHITECTURE] = 0.999
    """Second beta of Adam for the architecture parameters."""
    arch_weight_decay: Annotated[float, ARCHITECTURE] = 1e-4
    """Weight decay of the architecture parameters."""
    finalists: Annotated[int, FINAL] = 0
    """When the search ends, train so many of its most probable architectures from scratch, and keep
    the one with the lowest FID in finalist.json; 0 trains none."""
    finalist_steps: Annotated[int, FINAL] = 1000
    """Training steps of each of them, with the losses and rates of the search; the best third then
    go on to three times as many, and so on until one is left."""
    ema_decay: Annotated[float, OPTIMISER] = 0.999
    """Decay of the exponential moving average of the generator, which draws the samples."""
    init: Annotated[InitName, NETWORK] = "xavier_uniform"
    """Distribution of the initial weights; torch leaves torch's defaults."""
    precision: Annotated[Literal["fp32", "bf16"], MACHINE] = "fp32"
    """Arithmetic of the networks; bf16 is faster if the device has it."""
    device: str = "cpu"
    """Device to search on: cpu, cuda, cuda:1 and so on."""
    threads: Annotated[int | None, MACHINE] = None
    """Threads of torch on the CPU; torch's own choice if not given."""
    seed: int = 12345
    """Seed of all random numbers: the same seed and settings make the same search."""
    log_every: Annotated[int, FILES] = 20
    """Log the scalars every so many steps."""
    sample_every: Annotated[int, FILES] = 500
    """Draw a grid of samples every so many steps; 0 draws none."""
    derive_every: Annotated[int, FILES] = 390
    """Keep the genotype every so many steps; 0 keeps only the last."""
    save_every: Annotated[int, FILES] = 250
    """Save the state to resume from every so many steps."""
    save_every_minutes: Annotated[float, FILES] = 10.0
    """Save it also whenever so many minutes have passed; 0 saves by steps alone."""
    on_finish: Annotated[str | None, FILES] = None
    """Command that is run, or web address that is told, when the search ends, however it ends: its
    status, directory and reason."""

    eval_every: Annotated[int, EVALUATION] = 0
    """Measure the derived generator, with the weights of the supernet, every so many steps, and
    keep the genotype of the best FID in best_genotype.json; 0 never."""
    eval_metrics: Annotated[tuple[SearchMetric, ...], EVALUATION] = ("fid",)
    """What is measured: fid; is, the Inception score (a class score with other features)."""
    eval_samples: Annotated[int, EVALUATION] = 5000
    """Generated images per evaluation."""
    best_gain: Annotated[float, EVALUATION] = 1.0
    """Standard errors by which an FID must be below the best one to replace the best genotype; 0
    takes every smaller one."""
    reference: Annotated[str, EVALUATION] = "auto"
    """What the FID compares with: auto, a folder of images, or an .npz file of images, of features,
    or of mu and sigma."""
    features: Annotated[Literal["auto", "inception", "efficientnet-lite0"], EVALUATION] = "auto"
    """Network whose features the FID compares; auto is Inception if its weights are available."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            check_at_least(name, getattr(self, name), 1)
        for name in (
            *("seed", "eval_every", "best_gain", "arch_weight_decay", "save_every_minutes"),
            "finalists",
        ):
            check_at_least(name, getattr(self, name), 0)
        for name in ("g_lr", "d_lr", "arch_lr", "upper_bound"):
            check_above(name, getattr(self, name), 0)
        for name in ("beta1", "beta2", "arch_beta1", "arch_beta2"):
            check_fraction(name, getattr(self, name))
        if self.dead_conv_transpose and self.table != "mmd-nas":
            raise InvalidValueError(
                f"is about the table mmd-nas only; got {self.table}", setting="dead_conv_transpose"
            )
        for metric in self.eval_metrics:
            if metric not in get_args(SearchMetric):
                raise unknown_name("metric of eval_metrics", metric, get_args(SearchMetric))
        if self.eval_every and not self.eval_metrics:
            raise InvalidValueError(
                "must name a metric if eval_every is set", setting="eval_metrics"
            )
        if self.finalists and "fid" not in self.eval_metrics:
            raise InvalidValueError(
                "must hold fid, which chooses among finalists", setting="eval_metrics"
            )
        parse_colour(self.background)
        check_on_finish(self.on_finish)
        check_batch_size(self.batch_size)
        check_coefficient(self.amending)
        TemperatureSchedule(self.temperature_start, self.temperature_end)


# Whole numbers from 1 on, if they are given.
_COUNTS = (
    *("steps", "gf_dim", "df_dim", "n_outputs", "n_critic", "save_every", "threads"),
    *("eval_samples", "finalist_steps"),
)
