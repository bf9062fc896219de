"""Every setting of a training run as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from nas_gan.data.images import Fit
from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.networks.searched import InitName
from nas_gan.training.upper_bound import Procedure

EvalMetric = Literal["fid", "accuracy"]


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training run. A preset is a TOML file with these names.

    Where a setting of the networks is not given, the model's own default stands.
    """

    config: Path | None = None
    """A preset with any of these settings, by its name or as a .toml file; flags override it."""
    run_dir: Path = Path("runs/train")
    """Where the run is kept; an unfinished one there is continued."""

    dataset: str = "fashion_mnist"
    """fashion_mnist, mnist, cifar10, cifar100, stl10, celeba, folder or synthetic."""
    data_root: Path | None = None
    """Folder of the data set, if it is not in its usual place."""
    fit: Fit = "crop"
    """How an image file becomes a square: cropped at its centre, stretched, or as the faces of
    MMD-GAN: scaled to cover 72 x 88 pixels, of which the middle 64 are kept (other sizes alike)."""
    flip: bool = False
    """Mirror half of the real images, drawn anew for every batch."""

    model: str = "mmd-nas"
    """Family of both networks, such as mmd-nas, adversarial-nas, dcgan, wgan or mnist-condgan."""
    discriminator: str | None = None
    """Another family for the discriminator."""
    networks: Path | None = None
    """A .json file {"generator": ..., "discriminator": ...} that describes both, layer by layer."""
    shape: str = "cifar10"
    """Published shape of a searched net: cifar10, cifar100, stl10, celeba64, celeba128."""
    genotype: Path | None = None
    """A searched genotype (.json or .npy) instead of the published one."""
    d_genotype: Path | None = None
    """That of the discriminator, where its family is searched."""
    image_size: int | None = None
    image_channels: int | None = None
    """3 for colour, 1 for grey."""
    n_classes: int | None = None
    """Classes of a conditional GAN; the data set must have as many."""
    gf_dim: int | None = None
    df_dim: int | None = None
    n_outputs: int | None = None
    """Numbers in a discriminator's score."""
    latent_dim: int | None = None
    activation: str | None = None
    """Of a searched generator; the other families have hidden_activation."""
    hidden_activation: str | None = None
    """In the generator's hidden slots; d_hidden_activation is the same of the discriminator."""
    output_activation: str | None = None
    d_hidden_activation: str | None = None
    d_output_activation: str | None = None
    activation_init: str | None = None
    """Start of activation parameters: default, normal or xavier_normal."""
    activation_init_mean: float | None = None
    activation_init_std: float | None = None
    activation_sharing: str | None = None
    freeze_activations_from: int | None = None
    """Activation parameters stop learning at the start of this epoch (from 0)."""
    spectral_norm: str | None = None
    """operator, kernel or none, instead of what the discriminator has by itself."""
    init: InitName | None = None
    """How weights are drawn; torch leaves it to torch."""

    loss: str = "latest"
    """By name: published, latest, logistic, hinge, wasserstein, rep, mmd_g and so on."""
    label_real: float | None = None
    """Label of real images, where the loss has labels."""
    label_fake: float | None = None
    label_generator: float | None = None
    """Label that the generator wants for its images."""
    image_noise: float = 0.0
    """Standard deviation of the noise on every image that the discriminator sees."""
    image_noise_steps: int | None = None
    """After so many steps the noise has fallen to nothing."""

    steps: int = 200_000
    batch_size: int = 128
    """Of all processes together."""
    generator_batch_size: int | None = None
    """Images in an update of the generator, no fewer than batch_size, which it is by default. The
    loss of each score alone looks at all of them, an MMD at as many as there are real ones."""
    n_critic: int = 1
    """Updates of the discriminator for one of the generator."""
    d_every: int = 1
    """The discriminator is updated in every so many steps only."""
    d_skip_from: int | None = None
    """From this step on (published: 1000) updates of the discriminator are left out at random, the
    more of them the further the generator's averaged loss, an MMD, is above 0.1."""
    g_optimizer: str = "Adam"
    """Any optimiser of torch by its name."""
    d_optimizer: str = "Adam"
    g_lr: float = 2e-4
    d_lr: float = 2e-4
    beta1: float = 0.0
    """Where the optimiser has betas."""
    beta2: float = 0.9
    momentum: float | None = None
    weight_decay: float = 0.0
    g_scheduler: str | None = None
    """linear_decay or any schedule of torch by its name, stepped with the generator's updates."""
    d_scheduler: str | None = None
    scheduler_step_size: int | None = None
    scheduler_gamma: float | None = None
    scheduler_last_step: int | None = None
    """A StepLR leaves the rate alone after so many updates."""
    g_clip: float | None = None
    """Largest norm of the generator's gradient."""
    d_clip: float | None = None
    ema_decay: float = 0.999
    ema_warm_up: bool = False
    """The average forgets its first updates sooner."""
    upper_bound: Procedure = "geometric"
    """How the bound rises; the saturate procedures follow the measured FID."""
    upper_bound_start: float = 4.0
    upper_bound_end: float = 64.0
    upper_bound_increase: float = 2.0

    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """bf16 is faster on what has it. fp64 trains in double precision, slowly, where
    losses fail in fp32; checkpoints are float32 all the same."""
    compile: bool = False
    """Run both networks through torch.compile."""
    compile_backend: str = "inductor"
    device: str = "cpu"
    threads: int | None = None
    seed: int = 12345

    log_every: int = 20
    log_gradients: bool = False
    """Norms of both gradients among the scalars."""
    log_health: bool = False
    """Mean kernels of an MMD loss (near 0.6 is healthy), mean scores of another."""
    log_activations: bool = False
    """Mean, largest and smallest value of every activation parameter."""
    sample_every: int = 500
    save_every: int = 250
    snapshot_every: int = 0
    """Keep ckpt-STEP.pt every so many steps; 0 keeps the newest only."""
    eval_every: int = 0
    """Measure every so many steps; 0 never. The weights of the best FID are in best.pt."""
    eval_metrics: tuple[EvalMetric, ...] = ("fid",)
    """fid, accuracy: in how many images of a conditional generator a small classifier of the data
    set sees the class asked for; or both."""
    eval_samples: int = 5000
    reference: str = "auto"
    """Reference statistics for FID: auto or an .npz file."""
    features: Literal["auto", "inception", "efficientnet-lite0"] = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "n_critic", "d_every", "save_every"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in _SIZES:
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidValueError(f"{name} must be at least 1; got {value}")
        if (n := self.generator_batch_size) is not None and n < self.batch_size:
            raise InvalidValueError(
                f"generator_batch_size must be at least batch_size, {self.batch_size}; got {n}"
            )
        if self.d_skip_from is not None and self.d_skip_from < 0:
            raise InvalidValueError(f"d_skip_from must be at least 0; got {self.d_skip_from}")
        self._check_metrics()
        if self.image_channels not in (None, 1, 3):
            raise InvalidValueError(f"image_channels must be 1 or 3; got {self.image_channels}")
        if self.upper_bound.startswith("saturate") and not self.measures_fid:
            raise InvalidValueError(
                f"upper_bound {self.upper_bound} follows the measured FID; set eval_every too, "
                "with fid among eval_metrics"
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
        if not (self.weight_decay >= 0 and self.image_noise >= 0):
            raise InvalidValueError(
                "weight_decay and image_noise must be at least 0; "
                f"got {self.weight_decay} and {self.image_noise}"
            )

    @property
    def measures_fid(self) -> bool:
        """Whether the run measures the FID of its generator as it goes on."""
        return bool(self.eval_every) and "fid" in self.eval_metrics

    def _check_metrics(self) -> None:
        for name in self.eval_metrics:
            if name not in get_args(EvalMetric):
                raise unknown_name("metric of eval_metrics", name, get_args(EvalMetric))
        if self.eval_every and not self.eval_metrics:
            raise InvalidValueError("eval_every is given but eval_metrics names none")


_SIZES = (
    *("image_size", "gf_dim", "df_dim", "n_outputs", "latent_dim"),
    *("scheduler_step_size", "scheduler_last_step", "image_noise_steps"),
)
