"""The generator that a genotype describes, and the discriminator for its training."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.networks.activations import LearnedActivation, make_activation
from nas_gan.networks.conditioning import (
    LabelledSequential,
    Projection,
    check_label,
    check_n_classes,
    make_norm,
)
from nas_gan.networks.genotype import MMD_NAS, N_CELLS, Genotype
from nas_gan.networks.operations import Cell
from nas_gan.networks.pooling import PooledConv2d

# data set -> (width of the first feature map, number of latent parts). The image is 8 times as
# wide. Only the CIFAR-10 net has three parts, one for each cell.
DATASET_SHAPES = {
    "cifar10": (4, 3),
    "cifar100": (4, 2),
    "stl10": (6, 2),
    "celeba64": (8, 2),
    "celeba128": (16, 2),
}
InitName = Literal[
    "normal", "orth", "xavier_uniform", "dcgan", "he_normal", "glorot", "mmd_gan", "torch"
]


@dataclass(frozen=True)
class GeneratorConfig:
    """The options of a `Generator`. The image is `8 * bottom_width` pixels wide.

    `n_classes` is 0 for a generator without labels, as the published ones are.
    """

    genotype: Genotype = MMD_NAS
    bottom_width: int = 4
    latent_dim: int = 120
    latent_parts: int = 3
    gf_dim: int = 256
    activation: str = "pmish"
    image_channels: int = 3
    _: KW_ONLY
    n_classes: int

    def __post_init__(self) -> None:
        check_n_classes(self.n_classes)
        for name in ("bottom_width", "latent_dim", "gf_dim", "image_channels"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.latent_parts not in (2, 3):
            raise InvalidValueError(f"latent_parts must be 2 or 3; got {self.latent_parts}")
        if self.latent_dim % self.latent_parts:
            raise InvalidValueError(
                f"latent_dim {self.latent_dim} does not divide into {self.latent_parts} equal parts"
            )

    @staticmethod
    def for_dataset(name: str, **changes: Any) -> GeneratorConfig:
        """The published settings for a data set, without classes.

        Args:
            name: `cifar10`, `cifar100`, `stl10`, `celeba64` or `celeba128`.
            **changes: Fields with other values.

        Raises:
            InvalidValueError: The data set has no published settings.
        """
        if name not in DATASET_SHAPES:
            raise InvalidValueError(
                f"no published shape for {name!r}; choose one of {', '.join(DATASET_SHAPES)}"
            )
        bottom_width, parts = DATASET_SHAPES[name]
        published: dict[str, Any] = {
            "bottom_width": bottom_width, "latent_parts": parts, "n_classes": 0,
        }  # fmt: skip
        return GeneratorConfig(**{**published, **changes})

    @property
    def image_size(self) -> int:
        """Height and width of the image in pixels."""
        return 8 * self.bottom_width

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, which `from_dict` reads back."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> GeneratorConfig:
        """Read what `to_dict` wrote; missing fields have their defaults, and no classes."""
        data = {"n_classes": 0, **data}
        if "genotype" in data:
            genotype = data["genotype"]
            rows = tuple(tuple(row) for row in genotype["rows"])
            data["genotype"] = Genotype(rows, genotype["table"])
        return GeneratorConfig(**data)


class Generator(nn.Module):
    """The generator that a genotype describes.

    It maps standard normal latents `(n, latent_dim)` to images `(n, c, 8w, 8w)` in [-1, 1], where
    w is `bottom_width`. Source: MMD-PMish-NAS (IEEE Access 2024), after AdversarialNAS (Gao et
    al., CVPR 2020).

    With classes it takes `(n, latent_dim + n_classes)`, whose last columns are the one-hot label.
    The batch norm before the image is then conditional, and so is one before each cell.

    Args:
        config: The settings.

    Raises:
        InvalidValueError: The genotype leaves a node of a cell without input, or the activation is
            not known.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.n_classes = config.n_classes
        self.latent_dim = config.latent_dim
        self.image_shape = (config.image_channels, config.image_size, config.image_size)
        width, channels = config.bottom_width, config.gf_dim
        self.part = config.latent_dim // config.latent_parts
        self.l1 = nn.Linear(self.part, width**2 * channels)
        self.l2 = nn.Linear(self.part, (2 * width) ** 2 * channels)
        if config.latent_parts == 3:
            self.l3 = nn.Linear(self.part, (4 * width) ** 2 * channels)
        self.cell1, self.cell2, self.cell3 = (
            Cell(config.genotype, number, channels, config.activation) for number in (1, 2, 3)
        )
        # The published net has a single norm, behind all cells: too late for a class to decide more
        # than what is shown of the features that all classes share.
        if self.n_classes:
            self.norms = nn.ModuleList(make_norm(channels, self.n_classes) for _ in range(N_CELLS))
        self.to_rgb = LabelledSequential(
            make_norm(channels, self.n_classes),
            make_activation(config.activation),
            nn.Conv2d(channels, config.image_channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        width, channels = self.config.bottom_width, self.config.gf_dim
        # Explicit sizes, so that torch refuses latents of another width.
        parts = [self.part] * self.config.latent_parts
        label = [self.n_classes] if self.n_classes else []
        z1, z2, *rest = z.split([*parts, *label], dim=1)
        onehot = rest.pop() if label else None
        h = self.l1(z1).view(-1, channels, width, width)
        skip1, h = self.cell1(self._normed(0, h, onehot))  # (n, c, 2w, 2w)
        h = h + self.l2(z2).view(-1, channels, 2 * width, 2 * width)
        skip2, h = self.cell2(self._normed(1, h, onehot), (skip1,))  # (n, c, 4w, 4w)
        if rest:
            h = h + self.l3(rest[0]).view(-1, channels, 4 * width, 4 * width)
        _, h = self.cell3(self._normed(2, h, onehot), (skip1, skip2))  # (n, c, 8w, 8w)
        return self.to_rgb(h, onehot)

    def _normed(self, cell: int, h: Tensor, onehot: Tensor | None) -> Tensor:
        """What enters a cell: normed for the class, if there is one."""
        return h if onehot is None else self.norms[cell](h, onehot)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The options of a `Discriminator`.

    `downsampling` is the number of leading blocks that halve the image: 2 up to 48 px, 3 at 64 px
    and 4 at 128 px. `n_classes` is 0 for one without labels, as the published ones are.
    """

    df_dim: int = 512
    n_outputs: int = 16
    downsampling: int = 2
    spectral_norm: bool = True
    image_channels: int = 3
    _: KW_ONLY
    n_classes: int

    def __post_init__(self) -> None:
        check_n_classes(self.n_classes)
        for name in ("df_dim", "n_outputs", "image_channels"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 2 <= self.downsampling <= 4:
            raise InvalidValueError(f"downsampling must be 2, 3 or 4; got {self.downsampling}")

    @staticmethod
    def for_image_size(size: int, **changes: Any) -> DiscriminatorConfig:
        """The published settings for images of `size` pixels, with fields changed by keyword."""
        published = {"downsampling": 4 if size >= 128 else 3 if size >= 64 else 2, "n_classes": 0}
        return DiscriminatorConfig(**{**published, **changes})


class _FirstBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, padding=1),
            nn.ReLU(),
            PooledConv2d(c_out, c_out, 3),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c_in, c_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class _Block(nn.Module):
    def __init__(self, channels: int, downsample: bool) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            PooledConv2d(channels, channels, 3)
            if downsample
            else nn.Conv2d(channels, channels, 3, padding=1),
        )
        # The names of weights in checkpoints want a sequence here.
        self.shortcut = (
            nn.Sequential(PooledConv2d(channels, channels, 1)) if downsample else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class Discriminator(nn.Module):
    """Maps images `(n, c, h, w)` to scores `(n, n_outputs)` for the kernel of an MMD loss.

    With classes it also takes one-hot labels `(n, n_classes)`, whose projection is added.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.n_classes = config.n_classes
        df = config.df_dim
        self.block1 = _FirstBlock(config.image_channels, df)
        self.block2 = _Block(df, downsample=True)
        self.block3 = _Block(df, downsample=config.downsampling >= 3)
        self.block4 = _Block(df, downsample=config.downsampling >= 4)
        self.linear = nn.Linear(df, config.n_outputs, bias=False)
        if self.n_classes:
            self.projection = Projection(df, config.n_outputs, self.n_classes)

    def forward(self, x: Tensor, onehot: Tensor | None = None) -> Tensor:
        check_label(onehot, self.n_classes)
        h = self.block4(self.block3(self.block2(self.block1(x))))
        features = torch.relu(h).sum(dim=(2, 3))  # (n, df)
        scores = self.linear(features)  # (n, n_outputs)
        return scores if onehot is None else scores + self.projection(features, onehot)


def initialize_(module: nn.Module, init: InitName, rng: torch.Generator) -> None:
    """Initialise the weights of a newly built network in place.

    `normal` (deviation 0.02), `orth` and `xavier_uniform` are for Conv2d, while Linear and
    ConvTranspose2d keep torch's distribution. `dcgan` (deviation 0.02) is for all convolutions.
    `he_normal`, `glorot` and `mmd_gan` are for every weight; the last is He's before a ReLU, leaky
    or not, and Glorot's elsewhere, with biases of 0. `torch` is torch's distribution for
    everything. Batch normalisation starts at N(1, 0.02) with the first four and at 1 otherwise, and
    at 1 for every class.
    Learned activations, and weights that keep torch's distribution, are also drawn from `rng`, so
    that a seed determines all of them.

    Raises:
        InvalidValueError: The name is not one of these.
    """
    if init not in get_args(InitName):
        raise unknown_name("init", init, get_args(InitName))
    slopes = _negative_slopes(module) if init == "mmd_gan" else {}
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            _draw_weight(layer, init, slopes.get(layer), rng)
            if layer.bias is not None and init == "mmd_gan":
                nn.init.zeros_(layer.bias)
            elif layer.bias is not None:
                bound = _fan_in(layer) ** -0.5
                nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine:
            if init in ("normal", "orth", "xavier_uniform", "dcgan"):
                nn.init.normal_(layer.weight, 1.0, 0.02, generator=rng)
            else:
                nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, LearnedActivation):
            layer.reset_parameters(rng)


def _draw_weight(
    layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear,
    init: InitName,
    slope: float | None,
    rng: torch.Generator,
) -> None:
    """Fill one weight; `slope` is the negative slope of the ReLU after it, if there is one."""
    weight, fan_in = layer.weight, _fan_in(layer)
    is_conv = isinstance(layer, nn.Conv2d)
    if (init == "normal" and is_conv) or (init == "dcgan" and not isinstance(layer, nn.Linear)):
        nn.init.normal_(weight, 0.0, 0.02, generator=rng)
    elif init == "orth" and is_conv:
        nn.init.orthogonal_(weight, generator=rng)
    elif init == "he_normal" or slope is not None:
        variance = 2 / (1 + (slope or 0.0) ** 2) / fan_in
        nn.init.normal_(weight, 0.0, variance**0.5, generator=rng)
    elif init in ("glorot", "mmd_gan") or (init == "xavier_uniform" and is_conv):
        nn.init.xavier_uniform_(weight, generator=rng)
    else:
        nn.init.uniform_(weight, -(fan_in**-0.5), fan_in**-0.5, generator=rng)


def _fan_in(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> int:
    """Number of weights per output of the layer, without strides."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.weight[:, 0].numel() // layer.groups
    return layer.weight[0].numel()


def _negative_slopes(module: nn.Module) -> dict[nn.Module, float]:
    """The negative slope of the ReLU after each layer and before the next one, if there is one."""
    slopes: dict[nn.Module, float] = {}
    last: nn.Module | None = None
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            last = layer
        elif isinstance(layer, nn.ReLU | nn.LeakyReLU) and last is not None:
            slopes[last] = layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0
            last = None
    return slopes


def build_discriminator(
    config: DiscriminatorConfig,
    init: InitName = "xavier_uniform",
    rng: torch.Generator | None = None,
) -> Discriminator:
    """A discriminator with initialised weights and, if the settings say so, spectral norm.

    The weights are drawn before spectral norm is added, whose power iteration starts from them.
    """
    discriminator = Discriminator(config)
    if rng is not None:
        initialize_(discriminator, init, rng)
    if config.spectral_norm:
        for layer in list(discriminator.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)
    return discriminator
