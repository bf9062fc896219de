"""Every setting of a training run as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from nas_gan.data.files import WHITE, parse_colour
from nas_gan.data.images import Fit
from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.losses.settings import LossSettings
from nas_gan.networks.searched import InitName
from nas_gan.panels import (
    ACTIVATIONS,
    ADDRESS,
    DATA,
    EVALUATION,
    FILES,
    LOGGING,
    LOSS,
    MACHINE,
    NETWORK,
    OPTIMISER,
    Panel,
)
from nas_gan.settings import (
    check_above,
    check_at_least,
    check_finite,
    check_fraction,
    settings_field,
    tables_of,
)
from nas_gan.training.alarm import CollapseAlarm
from nas_gan.training.augmentation import Augmentation
from nas_gan.training.finish import check_on_finish
from nas_gan.training.optimizers import OptimizerSettings, SchedulerSettings
from nas_gan.training.upper_bound import Procedure

EvalMetric = Literal["fid", "is", "accuracy"]
UPDATES, SCHEDULE = Panel("update"), Panel("learning rate schedule")
ALARM = Panel("unattended run")


_ROLES = [(role, what) for role in "gd" for what in ("optimizer", "scheduler")]


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training run. A preset is a TOML file with these names.

    A setting of the networks that is not given has the default of its model.
    """

    # Keys of the tables of a preset that have a setting of their own.
    ALIASES: ClassVar[Mapping[str, str]] = {
        "loss.name": "loss",
        **{f"{role}_{what}.name": f"{role}_{what}" for role, what in _ROLES},
        **{f"{role}_optimizer.lr": f"{role}_lr" for role in "gd"},
    }

    config: Path | None = None
    """Preset to start from: the name of a packaged one or a .toml file with any of these settings;
    options on the command line override it."""
    run_dir: Annotated[Path, ADDRESS] = Path("runs/train")
    """Directory of the run; an unfinished run there is resumed."""

    dataset: str = "fashion_mnist"
    """Data set: fashion_mnist, mnist, cifar10, cifar100, stl10, celeba, crossfire, noto-emoji,
    openclipart, folder or synthetic."""
    data_root: Annotated[Path | None, ADDRESS] = None
    """Folder of the data set, if it is not in its usual place."""
    fit: Annotated[Fit, DATA] = "crop"
    """How an image file becomes a square: cropped at its centre, stretched, or cropped like the
    faces of MMD-GAN (scaled to cover 72 x 88 pixels, of which the middle 64 x 64 are kept)."""
    background: Annotated[str, DATA] = WHITE
    """Colour that transparent pixels of image files are laid over, such as white or #808080."""
    flip: Annotated[bool, DATA] = False
    """Mirror half of the real images, chosen anew for every batch."""
    diffaugment: Annotated[tuple[str, ...], DATA] = ()
    """Changes of all images that the discriminator sees, for small data sets (DiffAugment):
    color,translation,cutout or some of them."""

    model: str = "mmd-nas"
    """Family of both networks, such as mmd-nas, adversarial-nas, dcgan, wgan or mnist-condgan."""
    discriminator: Annotated[str | None, NETWORK] = None
    """Family of the discriminator, if it is not that of the generator."""
    networks: Annotated[Path | None, NETWORK] = None
    """A .json file {"generator": ..., "discriminator": ...} that describes both layer by layer."""
    shape: Annotated[str, NETWORK] = "cifar10"
    """Published shape of a searched network: cifar10, cifar100, stl10, celeba64 or celeba128."""
    genotype: Annotated[Path | None, NETWORK] = None
    """Genotype of a searched generator (.json or .npy), instead of the published one."""
    d_genotype: Annotated[Path | None, NETWORK] = None
    """Genotype of a searched discriminator (.json or .npy)."""
    image_size: Annotated[int | None, NETWORK] = None
    """Height and width of the images in pixels."""
    image_channels: Annotated[int | None, NETWORK] = None
    """Channels of the images: 3 for colour, 1 for grey."""
    n_classes: Annotated[int | None, NETWORK] = None
    """Classes of a conditional GAN; the data set must have as many."""
    gf_dim: Annotated[int | None, NETWORK] = None
    """Width of the generator: channels of its feature maps, or of the last hidden one in DCGANs."""
    df_dim: Annotated[int | None, NETWORK] = None
    """Width of the discriminator: channels of its feature maps, or of the first one in DCGANs."""
    n_outputs: Annotated[int | None, NETWORK] = None
    """Dimension of a score, the discriminator's output for one image."""
    latent_dim: Annotated[int | None, NETWORK] = None
    """Dimension of the latent vector."""
    activation: Annotated[str | None, ACTIVATIONS] = None
    """Activation of a searched generator; other families have hidden_activation."""
    hidden_activation: Annotated[str | None, ACTIVATIONS] = None
    """Activation between the generator's layers."""
    output_activation: Annotated[str | None, ACTIVATIONS] = None
    """Activation behind the generator's last layer."""
    d_hidden_activation: Annotated[str | None, ACTIVATIONS] = None
    """Activation between the discriminator's layers."""
    d_output_activation: Annotated[str | None, ACTIVATIONS] = None
    """Activation behind the discriminator's last layer."""
    activation_init: Annotated[str | None, ACTIVATIONS] = None
    """How learned activation parameters are initialised: default, normal or xavier_normal."""
    activation_init_mean: Annotated[float | None, ACTIVATIONS] = None
    """Mean of a normal initialisation of activation parameters."""
    activation_init_std: Annotated[float | None, ACTIVATIONS] = None
    """Standard deviation of a normal initialisation of activation parameters."""
    activation_sharing: Annotated[str | None, ACTIVATIONS] = None
    """What has a learned activation parameter of its own: unit, channel or site (a whole layer)."""
    freeze_activations_from: Annotated[int | None, ACTIVATIONS] = None
    """Epoch, from 0, at whose start activation parameters stop learning."""
    spectral_norm: Annotated[str | None, NETWORK] = None
    """Spectral norm of the discriminator, instead of its default: operator, kernel or none."""
    product_of_norms: Annotated[float | None, NETWORK] = None
    """Product of the spectral norms of the layers of an mmd-gan discriminator."""
    init: Annotated[InitName | None, NETWORK] = None
    """Distribution of the initial weights; torch leaves torch's defaults."""

    loss: str = "latest"
    """Adversarial loss: published, latest, logistic, hinge, wasserstein, rep, mmd_g and others."""
    loss_settings: Annotated[LossSettings, LOSS] = field(default_factory=LossSettings)
    """What is changed of the loss; the table [loss] of a preset, whose name is the loss."""
    label_real: Annotated[float | None, LOSS] = None
    """Label of real images, if the loss has labels."""
    label_fake: Annotated[float | None, LOSS] = None
    """Label of generated images in the discriminator's loss, if it has labels."""
    label_generator: Annotated[float | None, LOSS] = None
    """Label of generated images in the generator's loss, if it has labels."""
    image_noise: Annotated[float, LOSS] = 0.0
    """Standard deviation of the noise added to every image that the discriminator sees."""
    image_noise_steps: Annotated[int | None, LOSS] = None
    """Steps in which the noise falls linearly to 0; it stays as it is if not given."""

    steps: int = 200_000
    """Training steps of the whole run."""
    batch_size: int = 128
    """Images per batch, summed over all processes."""
    generator_batch_size: Annotated[int | None, UPDATES] = None
    """Images in an update of the generator, at least batch_size and batch_size by default; an MMD
    compares only as many of them as there are real ones."""
    n_critic: Annotated[int, UPDATES] = 1
    """Updates of the discriminator per update of the generator."""
    d_every: Annotated[int, UPDATES] = 1
    """Update the discriminator in every so many steps only."""
    d_skip_from: Annotated[int | None, UPDATES] = None
    """Step from which on updates of the discriminator are skipped at random (published: 1000), more
    often the further the generator's averaged loss, an MMD, is above 0.1."""
    g_optimizer: Annotated[str, OPTIMISER] = "Adam"
    """Optimiser of the generator: any of torch, by name."""
    d_optimizer: Annotated[str, OPTIMISER] = "Adam"
    """Optimiser of the discriminator: any of torch, by name."""
    g_optimizer_settings: Annotated[OptimizerSettings, OPTIMISER] = field(
        default_factory=OptimizerSettings
    )
    """What the generator's optimiser has of its own; the table [g_optimizer] of a preset."""
    d_optimizer_settings: Annotated[OptimizerSettings, OPTIMISER] = field(
        default_factory=OptimizerSettings
    )
    """What the discriminator's optimiser has of its own; the table [d_optimizer] of a preset."""
    g_lr: Annotated[float, OPTIMISER] = 2e-4
    """Learning rate of the generator."""
    d_lr: Annotated[float, OPTIMISER] = 2e-4
    """Learning rate of the discriminator."""
    beta1: Annotated[float, OPTIMISER] = 0.0
    """First beta of both optimisers, if they have betas."""
    beta2: Annotated[float, OPTIMISER] = 0.9
    """Second beta of both optimisers, if they have betas."""
    momentum: Annotated[float | None, OPTIMISER] = None
    """Momentum of both optimisers, if they have one."""
    weight_decay: Annotated[float, OPTIMISER] = 0.0
    """Weight decay of both optimisers."""
    g_scheduler: Annotated[str | None, SCHEDULE] = None
    """Learning rate schedule of the generator, stepped with its updates: linear_decay or any of
    torch, by name."""
    d_scheduler: Annotated[str | None, SCHEDULE] = None
    """Learning rate schedule of the discriminator, stepped with its updates."""
    g_scheduler_settings: Annotated[SchedulerSettings, SCHEDULE] = field(
        default_factory=SchedulerSettings
    )
    """What the generator's schedule has of its own; the table [g_scheduler] of a preset."""
    d_scheduler_settings: Annotated[SchedulerSettings, SCHEDULE] = field(
        default_factory=SchedulerSettings
    )
    """What the discriminator's schedule has of its own; the table [d_scheduler] of a preset."""
    scheduler_step_size: Annotated[int | None, SCHEDULE] = None
    """Updates between two steps of a StepLR."""
    scheduler_gamma: Annotated[float | None, SCHEDULE] = None
    """Factor by which a schedule lowers the rate at each of its steps."""
    scheduler_last_step: Annotated[int | None, SCHEDULE] = None
    """Update after which a StepLR leaves the rate alone."""
    g_clip: Annotated[float | None, UPDATES] = None
    """Largest norm of the generator's gradient; a longer one is scaled down to it."""
    d_clip: Annotated[float | None, UPDATES] = None
    """Largest norm of the discriminator's gradient; a longer one is scaled down to it."""
    ema_decay: Annotated[float, UPDATES] = 0.999
    """Decay of the exponential moving average of the generator, which is what is saved."""
    ema_warm_up: Annotated[bool, UPDATES] = False
    """Start the average with a smaller decay, so that it soon forgets the initial weights."""
    standing_statistics: Annotated[int, UPDATES] = 0
    """Latents on which the batch statistics of the averaged generator are measured anew whenever it
    is drawn, measured or saved, such as 512; 0 saves their average."""
    upper_bound: Annotated[Procedure, LOSS] = "geometric"
    """How the upper bound of the repulsive loss rises: fixed, geometric in the steps, or saturate
    and saturate_linear, which raise it when the measured FID stops falling."""
    upper_bound_start: Annotated[float, LOSS] = 4.0
    """Upper bound at the start."""
    upper_bound_end: Annotated[float, LOSS] = 64.0
    """Largest upper bound."""
    upper_bound_increase: Annotated[float, LOSS] = 2.0
    """What saturate multiplies the bound by, or saturate_linear adds to it, each time."""

    precision: Annotated[Literal["fp32", "bf16", "fp64"], MACHINE] = "fp32"
    """Arithmetic: bf16 is faster if the device has it; fp64 is slow and for losses that fail in
    fp32 (checkpoints are float32 all the same)."""
    compile: Annotated[bool, MACHINE] = False
    """Run both networks through torch.compile."""
    compile_backend: Annotated[str, MACHINE] = "inductor"
    """Backend of torch.compile."""
    device: str = "cpu"
    """Device to train on: cpu, cuda, cuda:1 and so on."""
    threads: Annotated[int | None, MACHINE] = None
    """Threads of torch on the CPU; torch's own choice if not given."""
    seed: int = 12345
    """Seed of all random numbers: the same seed and settings make the same run."""

    log_every: Annotated[int, LOGGING] = 20
    """Log the scalars every so many steps."""
    log_gradients: Annotated[bool, LOGGING] = False
    """Log the norms of both gradients."""
    log_health: Annotated[bool, LOGGING] = False
    """Log mean kernels of an MMD loss (about 0.6 is healthy), or mean scores of other losses."""
    log_activations: Annotated[bool, LOGGING] = False
    """Log mean, largest and smallest value of every activation parameter."""
    sample_every: Annotated[int, FILES] = 500
    """Draw a grid of samples every so many steps; 0 draws none."""
    save_every: Annotated[int, FILES] = 250
    """Save the checkpoint and the state to resume from every so many steps."""
    save_every_minutes: Annotated[float, FILES] = 10.0
    """Save them also whenever so many minutes have passed; 0 saves by steps alone."""
    snapshot_every: Annotated[int, FILES] = 0
    """Keep a checkpoint ckpt-STEP.pt every so many steps; 0 keeps only the newest."""
    eval_every: Annotated[int, EVALUATION] = 0
    """Evaluate every so many steps and keep the weights of the best FID in best.pt; 0 never."""
    eval_metrics: Annotated[tuple[EvalMetric, ...], EVALUATION] = ("fid",)
    """What is measured, one or several: fid; is, the Inception score (a class score with other
    features); accuracy, the share of a conditional generator's images in which a small classifier
    of the data set sees the class asked for."""
    eval_samples: Annotated[int, EVALUATION] = 5000
    """Generated images per evaluation."""
    best_gain: Annotated[float, EVALUATION] = 1.0
    """Standard errors by which an FID must be below the best one to replace best.pt; 0 takes every
    smaller one."""
    alarm_fid_factor: Annotated[float | None, ALARM] = None
    """Stop when the FID is so many times the best one, and keep the last good state."""
    alarm_kernel_margin: Annotated[float | None, ALARM] = None
    """Stop when a mean kernel of an MMD loss is within this of 0 or 1, such as 0.01."""
    alarm_patience: Annotated[int, ALARM] = 3
    """Signs of collapse in a row that stop the run; from the first one on nothing is saved."""
    on_finish: Annotated[str | None, ALARM] = None
    """Command that is run, or web address that is told, when the run ends, however it ends: its
    status, directory and reason."""
    reference: Annotated[str, EVALUATION] = "auto"
    """What the FID compares with: auto, a folder of images, or an .npz file of images, of features,
    or of mu and sigma."""
    features: Annotated[Literal["auto", "inception", "efficientnet-lite0"], EVALUATION] = "auto"
    """Network whose features the FID compares; auto is Inception if its weights are available."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            check_at_least(name, getattr(self, name), 1)
        for name in (
            "seed",
            "standing_statistics",
            "d_skip_from",
            "weight_decay",
            "image_noise",
            "save_every_minutes",
        ):
            check_at_least(name, getattr(self, name), 0)
        for table in tables_of(TrainConfig):
            check_finite(table, asdict(getattr(self, settings_field(table))))
        check_at_least("loss.extra_epochs", self.loss_settings.extra_epochs, 0)
        for table in ("g_scheduler", "d_scheduler"):
            for name in ("step_size", "last_step", "total_iters", "T_max", "T_0", "T_mult"):
                value = getattr(getattr(self, settings_field(table)), name)
                check_at_least(f"{table}.{name}", value, 1)
        for name in ("g_lr", "d_lr", "product_of_norms"):
            check_above(name, getattr(self, name), 0)
        for name in ("beta1", "beta2"):
            check_fraction(name, getattr(self, name))
        if self.batch_size < 2:
            raise InvalidValueError(
                "must be at least 2, since the MMD losses need pairs", setting="batch_size"
            )
        if (n := self.generator_batch_size) is not None and n < self.batch_size:
            raise InvalidValueError(
                f"must be at least batch_size, {self.batch_size}; got {n}",
                setting="generator_batch_size",
            )
        if self.image_channels not in (None, 1, 3):
            raise InvalidValueError(
                f"must be 1 or 3; got {self.image_channels}", setting="image_channels"
            )
        check_at_least("best_gain", self.best_gain, 0)
        check_on_finish(self.on_finish)
        CollapseAlarm(self.alarm_fid_factor, self.alarm_kernel_margin, self.alarm_patience)
        if self.alarm_fid_factor is not None and not self.measures_fid:
            raise InvalidValueError(
                "follows the measured FID; set eval_every too, with fid among eval_metrics",
                setting="alarm_fid_factor",
            )
        parse_colour(self.background)
        # Written with commas, as a command line has it, or as the list of a preset.
        named = tuple(part for name in self.diffaugment for part in name.split(","))
        object.__setattr__(self, "diffaugment", Augmentation(named).changes)
        self._check_metrics()
        if self.upper_bound.startswith("saturate") and not self.measures_fid:
            raise InvalidValueError(
                f"{self.upper_bound} follows the measured FID; set eval_every too, with fid among "
                "eval_metrics",
                setting="upper_bound",
            )

    @property
    def measures_fid(self) -> bool:
        """Whether the run measures the FID of its generator along the way."""
        return bool(self.eval_every) and "fid" in self.eval_metrics

    def _check_metrics(self) -> None:
        for name in self.eval_metrics:
            if name not in get_args(EvalMetric):
                raise unknown_name("metric of eval_metrics", name, get_args(EvalMetric))
        if self.eval_every and not self.eval_metrics:
            raise InvalidValueError(
                "must name a metric if eval_every is set", setting="eval_metrics"
            )


# Whole numbers from 1 on, if they are given.
_COUNTS = (
    *("steps", "batch_size", "n_critic", "d_every", "save_every", "threads"),
    *("image_size", "gf_dim", "df_dim", "n_outputs", "latent_dim"),
    *("scheduler_step_size", "scheduler_last_step", "image_noise_steps"),
)
