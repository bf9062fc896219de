"""Networks in which every edge is a weighted sum of all its candidate operations.

How much of each operation an edge takes is a `Mixing`, which is passed in with the data: during the
search a relaxation of the architecture parameters, by default their softmax. Source:
AdversarialNAS (CVPR 2020) and its MMD line (ICASSP 2024, IEEE Access 2024).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import make_activation
from nas_gan.networks.genotype import (
    DOWN,
    FIRST,
    FIRST_EDGES,
    N_BLOCKS,
    N_CELLS,
    N_NORMAL_EDGES,
    N_RESAMPLING_EDGES,
    NORMAL,
    UP,
    Table,
)
from nas_gan.networks.operations import SKIP_MODE, Edge, UpEdge, make_edge, make_up_edge, resize
from nas_gan.networks.searched import GeneratorConfig, InitName, initialize_
from nas_gan.networks.searched_discriminator import (
    ACTIVATION,
    make_down_edge,
    make_first_edge,
    spectral_norm_,
)

ALPHA_STD = 1e-3
# The published generator mixes four upsampling operations with three weights: the last one, the
# transposed convolution, gets none.
PUBLISHED_UP_COLUMNS = 3


class Mixing(NamedTuple):
    """Weights of the candidate operations on every edge, which sum to 1 on each.

    `normal` is `(cells, 5, 7)`; `resampling` is `(3, 2, up operations)` in a generator and
    `(4, 2, 6)` in a discriminator.
    """

    normal: Tensor
    resampling: Tensor


class Supernet(nn.Module, ABC):
    """A network with architecture parameters beside its weights."""

    alphas_normal: nn.Parameter

    @property
    @abstractmethod
    def alphas_resampling(self) -> nn.Parameter:
        """Architecture parameters of the edges that change the size."""

    @property
    def alphas(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The architecture parameters."""
        return self.alphas_normal, self.alphas_resampling

    @property
    def weights(self) -> list[nn.Parameter]:
        """Every parameter that is not an architecture parameter."""
        architecture = {id(alpha) for alpha in self.alphas}
        return [p for p in self.parameters() if id(p) not in architecture]

    def logits(self) -> Mixing:
        """The architecture parameters; minus infinity if an edge has no such operation."""
        return Mixing(*self.alphas)

    def mean_mixing(self) -> Mixing:
        """The softmax of the architecture parameters."""
        return Mixing(*(logits.softmax(dim=-1) for logits in self.logits()))


class MixedEdge(nn.Module):
    """The weighted sum of candidate operations; `none` is a candidate without a module.

    Operations past the end of the weights are left out, as in the published code.
    """

    def __init__(self, operations: Mapping[str, Edge | UpEdge | None]) -> None:
        super().__init__()
        self.names = tuple(operations)
        self.ops = nn.ModuleDict({n: op for n, op in operations.items() if op is not None})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        # `none` adds nothing: its share is already missing from the weights of the others.
        pairs = zip(self.names, weights, strict=False)
        terms = [weight * self.ops[name](x) for name, weight in pairs if name in self.ops]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def _mixed_normal_edge(channels: int, activation: str) -> MixedEdge:
    return MixedEdge({name: make_edge(name, channels, activation) for name in NORMAL})


class SuperCell(nn.Module):
    """A cell of the generator with every operation on every edge, over the nodes 0..3.

    Takes `(n, c, h, w)`, earlier skip features and the cell's rows of a mixing, `(5, 7)` and
    `(2, up operations)`; returns `(skip_out, node3)`, both `(n, c, 2h, 2w)`.
    """

    def __init__(self, number: int, channels: int, activation: str, table: Table) -> None:
        super().__init__()
        ups = [{name: make_up_edge(name, channels, activation) for name in UP[table]}
               for _ in range(N_RESAMPLING_EDGES)]  # fmt: skip
        self.ups = nn.ModuleList(map(MixedEdge, ups))
        self.edges = nn.ModuleList(
            _mixed_normal_edge(channels, activation) for _ in range(N_NORMAL_EDGES)
        )
        self.skip_mode = SKIP_MODE[number]
        self.skip_in_ops = nn.ModuleList(
            nn.Conv2d(channels, channels, 1) for _ in range(number - 1)
        )

    def forward(self, x: Tensor, skips: Sequence[Tensor], mixing: Mixing) -> tuple[Tensor, Tensor]:
        up0, up1 = self.ups
        c0, c1, c2, c3, c4 = self.edges
        w0, w1, w2, w3, w4 = mixing.normal
        node0, node1 = up0(x, mixing.resampling[0]), up1(x, mixing.resampling[1])  # (n, c, 2h, 2w)
        size = (node0.shape[-2], node0.shape[-1])
        node2 = c0(node0, w0) + c1(node1, w1)
        for conv, skip in zip(self.skip_in_ops, skips, strict=True):
            node2 = node2 + conv(resize(skip, size, self.skip_mode))
        # As in `Cell`, the skip output holds the earlier skips.
        return node2, c2(node0, w2) + c3(node1, w3) + c4(node2, w4)


class SuperGenerator(Supernet):
    """`(n, latent_dim)` latents to `(n, 3, 8w, 8w)` images in [-1, 1].

    `config` gives the skeleton; its genotype is ignored. `up_columns` is the number of upsampling
    operations that take part, by default all.

    Raises:
        InvalidValueError: `up_columns` is not between 1 and the length of the table, or the
            skeleton has classes.
    """

    def __init__(
        self, config: GeneratorConfig, table: Table = "mmd-nas", up_columns: int | None = None
    ) -> None:
        super().__init__()
        if config.n_classes:
            raise InvalidValueError(
                "an architecture is searched without classes, and may be trained with them; got "
                f"n_classes {config.n_classes}"
            )
        self.config, self.table = config, table
        self.latent_dim = config.latent_dim
        self.image_shape = (config.image_channels, config.image_size, config.image_size)
        up_columns = len(UP[table]) if up_columns is None else up_columns
        if not 1 <= up_columns <= len(UP[table]):
            raise InvalidValueError(
                f"up_columns must be 1 to {len(UP[table])} for table {table!r}; got {up_columns}"
            )
        self.alphas_normal = nn.Parameter(torch.zeros(N_CELLS, N_NORMAL_EDGES, len(NORMAL)))
        self.alphas_up = nn.Parameter(torch.zeros(N_CELLS, N_RESAMPLING_EDGES, up_columns))
        width, channels = config.bottom_width, config.gf_dim
        self.part = config.latent_dim // config.latent_parts
        self.inputs = nn.ModuleList(
            nn.Linear(self.part, (width * 2**number) ** 2 * channels)
            for number in range(config.latent_parts)
        )
        self.cells = nn.ModuleList(
            SuperCell(number, channels, config.activation, table)
            for number in range(1, N_CELLS + 1)
        )
        self.to_rgb = nn.Sequential(
            nn.BatchNorm2d(channels),
            make_activation(config.activation),
            nn.Conv2d(channels, config.image_channels, 3, padding=1),
            nn.Tanh(),
        )

    @property
    def alphas_resampling(self) -> nn.Parameter:
        return self.alphas_up

    def forward(self, z: Tensor, mixing: Mixing | None = None) -> Tensor:
        mixing = mixing or self.mean_mixing()
        channels = self.config.gf_dim
        # Sizes are spelled out so that torch refuses latents of any other width.
        parts = z.split([self.part] * self.config.latent_parts, dim=1)
        h = z.new_zeros(())
        skips: list[Tensor] = []
        for number, cell in enumerate(self.cells):
            if number < len(parts):
                side = self.config.bottom_width * 2**number
                h = h + self.inputs[number](parts[number]).view(-1, channels, side, side)
            rows = Mixing(mixing.normal[number], mixing.resampling[number])
            skip, h = cell(h, skips, rows)  # (n, c, 2 * side, 2 * side)
            skips.append(skip)
        return self.to_rgb(h)


class SuperBlock(nn.Module):
    """A block of the discriminator with every operation on every edge.

    Takes `(n, c, h, w)`, in block 1 the image, and its rows of a mixing, `(5, 7)` and `(2, 6)`;
    returns `(n, df, h / 2, w / 2)`.
    """

    def __init__(self, number: int, channels: int, image_channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            MixedEdge({name: make_first_edge(name, image_channels, channels) for name in FIRST})
            if number == 1 and edge < len(FIRST_EDGES)
            else _mixed_normal_edge(channels, ACTIVATION)
            for edge in range(N_NORMAL_EDGES)
        )
        self.downs = nn.ModuleList(
            MixedEdge({name: make_down_edge(name, channels) for name in DOWN})
            for _ in range(N_RESAMPLING_EDGES)
        )

    def forward(self, x: Tensor, mixing: Mixing) -> Tensor:
        c0, c1, c2, c3, c4 = self.edges
        w0, w1, w2, w3, w4 = mixing.normal
        node0 = c0(x, w0)
        node1 = c1(x, w1) + c3(node0, w3)
        node2 = c2(x, w2) + c4(node0, w4)
        down0, down1 = self.downs
        return down0(node1, mixing.resampling[0]) + down1(node2, mixing.resampling[1])


class SuperDiscriminator(Supernet):
    """`(n, 3, h, w)` images to `(n, n_outputs)` scores; `h` and `w` are multiples of 16.

    The first three edges of block 1 have five operations, those of the first five architecture
    parameters. The published code leaves their weights as they come out of seven; here they sum
    to 1 like those of any other edge.
    """

    first_missing: Tensor

    def __init__(self, df_dim: int = 80, n_outputs: int = 16, image_channels: int = 3) -> None:
        super().__init__()
        for name, value in (("df_dim", df_dim), ("n_outputs", n_outputs)):
            if value < 1:
                raise InvalidValueError(f"{name} must be at least 1; got {value}")
        self.alphas_normal = nn.Parameter(torch.zeros(N_BLOCKS, N_NORMAL_EDGES, len(NORMAL)))
        self.alphas_down = nn.Parameter(torch.zeros(N_BLOCKS, N_RESAMPLING_EDGES, len(DOWN)))
        missing = torch.zeros(self.alphas_normal.shape, dtype=torch.bool)
        missing[0, : len(FIRST_EDGES), len(FIRST) :] = True
        self.register_buffer("first_missing", missing, persistent=False)
        self.blocks = nn.ModuleList(
            SuperBlock(number, df_dim, image_channels) for number in range(1, N_BLOCKS + 1)
        )
        self.linear = nn.Linear(df_dim, n_outputs, bias=False)

    @property
    def alphas_resampling(self) -> nn.Parameter:
        return self.alphas_down

    def logits(self) -> Mixing:
        normal = self.alphas_normal.masked_fill(self.first_missing, -torch.inf)
        return Mixing(normal, self.alphas_down)

    def forward(self, x: Tensor, mixing: Mixing | None = None) -> Tensor:
        mixing = mixing or self.mean_mixing()
        for number, block in enumerate(self.blocks):
            x = block(x, Mixing(mixing.normal[number], mixing.resampling[number]))
        return self.linear(torch.relu(x).sum(dim=(2, 3)))  # (n, df) -> (n, n_outputs)


def initialize_supernet_(supernet: Supernet, init: InitName, rng: torch.Generator) -> None:
    """Fill weights and architecture parameters of a freshly built supernet in place.

    A discriminator gets its spectral norm here too: the power iteration starts from the weights.
    """
    initialize_(supernet, init, rng)
    for alpha in supernet.alphas:
        nn.init.normal_(alpha, 0.0, ALPHA_STD, generator=rng)
    if isinstance(supernet, SuperDiscriminator):
        spectral_norm_(supernet)
