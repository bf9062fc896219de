"""The discriminator that a genotype describes, and its own operations.

Every block halves the image, so that 32 pixels become 2. Source: AdversarialNAS (Gao, Chen, Liu,
Tan, Zhu, Liu; CVPR 2020).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from nas_gan.errors import InvalidValueError
from nas_gan.networks.conditioning import Projection, check_label, check_n_classes
from nas_gan.networks.genotype import D_EDGES, FIRST_EDGES, N_BLOCKS, DiscriminatorGenotype
from nas_gan.networks.operations import CONVOLUTIONS, Edge, make_edge
from nas_gan.networks.searched import InitName, initialize_

# In S1 and in AdversarialNAS, whatever that of the generator is.
ACTIVATION = "relu"
POOLS = {"avg_pool": nn.AvgPool2d, "max_pool": nn.MaxPool2d}


def make_first_edge(name: str, c_in: int, c_out: int) -> Edge:
    """A convolution of the image, `(n, c_in, h, w)` to `(n, c_out, h, w)`, without activation."""
    kernel, padding, dilation = CONVOLUTIONS[name]
    return Edge(nn.Conv2d(c_in, c_out, kernel, padding=padding, dilation=dilation))


def make_down_edge(name: str, channels: int) -> Edge:
    """A downsampling operation, `(n, c, h, w)` to `(n, c, h / 2, w / 2)`.

    Convolutions have stride 2 and follow an activation; pools have neither.
    """
    if name in POOLS:
        return Edge(POOLS[name](2))
    kernel, padding, dilation = CONVOLUTIONS[name]
    conv = nn.Conv2d(channels, channels, kernel, stride=2, padding=padding, dilation=dilation)
    return Edge(nn.Sequential(nn.ReLU(), conv))


@dataclass(frozen=True)
class SearchedDiscriminatorConfig:
    """The options of a `SearchedDiscriminator`; `n_classes` is 0 for one without labels."""

    genotype: DiscriminatorGenotype
    df_dim: int = 80
    n_outputs: int = 16
    spectral_norm: bool = True
    image_channels: int = 3
    _: KW_ONLY
    n_classes: int

    def __post_init__(self) -> None:
        check_n_classes(self.n_classes)
        for name in ("df_dim", "n_outputs", "image_channels"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1; got {getattr(self, name)}")


class Block(nn.Module):
    """Up to five normal edges between three nodes, and two downsampling edges that are summed.

    Takes `(n, c, h, w)`, in block 1 the image, and returns `(n, df, h / 2, w / 2)`. An unused edge
    `c0` is not built.

    Raises:
        InvalidValueError: The genotype leaves a node without input.
    """

    c0: Edge | None
    c1: Edge | None
    c2: Edge | None
    c3: Edge | None
    c4: Edge | None
    down0: Edge
    down1: Edge

    def __init__(self, config: SearchedDiscriminatorConfig, number: int) -> None:
        super().__init__()
        names = {edge: config.genotype.operation(number, edge) for edge in D_EDGES}
        _check_inputs(names, number)
        if names["c3"] == names["c4"] == "none":
            names["c0"] = "none"
        for edge, name in names.items():
            self.add_module(edge, _make_edge(config, number, edge, name))

    def forward(self, x: Tensor) -> Tensor:
        node0 = self.c0(x) if self.c0 is not None else None
        node1 = _sum_present((self.c1, x), (self.c3, node0))
        node2 = _sum_present((self.c2, x), (self.c4, node0))
        return self.down0(node1) + self.down1(node2)


def _make_edge(
    config: SearchedDiscriminatorConfig, number: int, edge: str, name: str
) -> Edge | None:
    if edge.startswith("down"):
        return make_down_edge(name, config.df_dim)
    if number == 1 and edge in FIRST_EDGES and name != "none":
        return make_first_edge(name, config.image_channels, config.df_dim)
    return make_edge(name, config.df_dim, ACTIVATION)


def _check_inputs(names: dict[str, str], number: int) -> None:
    for node, inputs in ((1, ("c1", "c3")), (2, ("c2", "c4"))):
        if all(names[edge] == "none" for edge in inputs):
            raise InvalidValueError(
                f"block{number}: node {node} has no input; one of {', '.join(inputs)} "
                "must not be none"
            )
    for edge in ("c3", "c4"):
        if names["c0"] == "none" and names[edge] != "none":
            raise InvalidValueError(
                f"block{number}: {edge} reads node 0, which has no input; c0 must not be none"
            )


def _sum_present(*edges: tuple[nn.Module | None, Tensor | None]) -> Tensor:
    outputs = [edge(x) for edge, x in edges if edge is not None]
    total: Tensor = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total


class SearchedDiscriminator(nn.Module):
    """Maps images `(n, c, h, w)` to scores `(n, n_outputs)`; h and w are multiples of 16.

    With classes it also takes one-hot labels `(n, n_classes)`, whose projection is added.
    """

    def __init__(self, config: SearchedDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.n_classes = config.n_classes
        self.blocks = nn.Sequential(*(Block(config, n) for n in range(1, N_BLOCKS + 1)))
        self.linear = nn.Linear(config.df_dim, config.n_outputs, bias=False)
        if self.n_classes:
            self.projection = Projection(config.df_dim, config.n_outputs, self.n_classes)

    def forward(self, x: Tensor, onehot: Tensor | None = None) -> Tensor:
        check_label(onehot, self.n_classes)
        h = self.blocks(x)  # (n, df, h / 16, w / 16)
        features = torch.relu(h).sum(dim=(2, 3))  # (n, df)
        scores = self.linear(features)  # (n, n_outputs)
        return scores if onehot is None else scores + self.projection(features, onehot)


def build_searched_discriminator(
    config: SearchedDiscriminatorConfig,
    init: InitName = "xavier_uniform",
    rng: torch.Generator | None = None,
) -> SearchedDiscriminator:
    """A searched discriminator with initialised weights and, if the settings ask, spectral norm."""
    discriminator = SearchedDiscriminator(config)
    if rng is not None:
        initialize_(discriminator, init, rng)
    if config.spectral_norm:
        spectral_norm_(discriminator)
    return discriminator


def spectral_norm_(module: nn.Module) -> None:
    """Add spectral norm to every convolution and linear map of `module`, in place.

    The power iteration starts from the present weights and from torch's global generator.
    """
    for layer in list(module.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            spectral_norm(layer)
