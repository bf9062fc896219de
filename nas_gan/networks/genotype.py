"""A searched architecture as a value."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nas_gan.errors import InvalidValueError, UnreadableError
from nas_gan.files import atomic_path
from nas_gan.reading import parse_json, read_npy

Table = Literal["mmd-nas", "adversarial-nas"]

NORMAL = (
    "none",
    "skip_connect",
    "conv_1x1",
    "conv_3x3",
    "conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
# The two published codes number upsampling operations differently: index 2 is bicubic in one and a
# transposed convolution in the other. A genotype therefore names its table.
UP: dict[Table, tuple[str, ...]] = {
    "mmd-nas": ("nearest", "bilinear", "bicubic", "conv_transpose"),
    "adversarial-nas": ("nearest", "bilinear", "conv_transpose"),
}
EDGES = ("up0", "up1", "c0", "c1", "c2", "c3", "c4")
N_CELLS = 3

# The first edges of a searched discriminator read the image: they are never the identity, and have
# no activation.
FIRST = NORMAL[2:]
DOWN = ("avg_pool", "max_pool", "conv_3x3", "conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
D_EDGES = ("c0", "c1", "c2", "c3", "c4", "down0", "down1")
FIRST_EDGES = D_EDGES[:3]
N_BLOCKS = 4
# A genotype of indices is some tens of them.
_ARRAY_BYTES = 1 << 16
# For a cell and for a block.
N_NORMAL_EDGES, N_RESAMPLING_EDGES = 5, 2
D_TABLE = "discriminator"


@dataclass(frozen=True)
class Genotype:
    """The architecture of a searched generator: which operation each edge of its cells holds.

    Source: AdversarialNAS (Gao et al., CVPR 2020) and MMD-PMish-NAS (IEEE Access 2024).

    Attributes:
        rows: One row per cell, three in all; each has seven operation indices
            `(up0, up1, c0, c1, c2, c3, c4)`.
        table: The table that the indices of the upsampling edges refer to, `mmd-nas` or
            `adversarial-nas`.

    Raises:
        InvalidValueError: The table is not known, a row is missing or too short, or an index is
            beyond the end of its table.
    """

    rows: tuple[tuple[int, ...], ...]
    table: Table = "mmd-nas"

    def __post_init__(self) -> None:
        if not isinstance(self.table, str) or self.table not in UP:
            raise InvalidValueError(
                f"genotype table must be one of {', '.join(UP)}; got {self.table!r}"
            )
        _check_rows("cell", self.rows, EDGES, N_CELLS, self._choices)

    def _choices(self, cell: int, edge: str) -> tuple[str, ...]:
        return UP[self.table] if edge.startswith("up") else NORMAL

    def operation(self, cell: int, edge: str) -> str:
        """The name of the operation on an edge, such as `up0` or `c3`, of cell 1, 2 or 3."""
        return self._choices(cell, edge)[self.rows[cell - 1][EDGES.index(edge)]]

    def to_json(self, **measured: float) -> str:
        """The genotype as one line of JSON, with figures beside it; `from_json` reads it back."""
        return json.dumps({"table": self.table, "rows": self.rows, **measured})

    @staticmethod
    def from_json(text: str) -> Genotype:
        """Read what `to_json` wrote.

        Raises:
            InvalidValueError: The text is not a genotype.
        """
        return Genotype(*_read_json(text))

    def to_npy(self, path: Path) -> None:
        """Write the indices as a `(3, 7)` uint8 array, the format of the published code."""
        _write_array(self.rows, path)

    @staticmethod
    def from_npy(path: Path, table: Table = "mmd-nas") -> Genotype:
        """Read a `(3, 7)` integer array.

        Args:
            path: The .npy file.
            table: The table that the indices refer to, which the file does not record.

        Raises:
            InvalidValueError: The file does not hold such an array.
        """
        return Genotype(_read_array(path, N_CELLS), table)


@dataclass(frozen=True)
class DiscriminatorGenotype:
    """The architecture of a searched discriminator.

    Attributes:
        rows: One row per block, four in all; each has seven operation indices
            `(c0, c1, c2, c3, c4, down0, down1)`. `c0`, `c1` and `c2` of block 1 read the image,
            so they index `FIRST`, which has no `none`.

    Raises:
        InvalidValueError: A row is missing or too short, or an index is beyond the end of its
            table.
    """

    rows: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        _check_rows("block", self.rows, D_EDGES, N_BLOCKS, discriminator_choices)

    def operation(self, block: int, edge: str) -> str:
        """The name of the operation on an edge, such as `c0` or `down1`, of block 1, 2, 3 or 4."""
        return discriminator_choices(block, edge)[self.rows[block - 1][D_EDGES.index(edge)]]

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps({"table": D_TABLE, "rows": self.rows})

    @staticmethod
    def from_json(text: str) -> DiscriminatorGenotype:
        """Read what `to_json` wrote."""
        rows, table = _read_json(text)
        if table != D_TABLE:
            raise InvalidValueError(
                f"expected the genotype of a discriminator (table {D_TABLE!r}); got table {table!r}"
            )
        return DiscriminatorGenotype(rows)

    def to_npy(self, path: Path) -> None:
        """Write the `(4, 7)` uint8 array of the published code."""
        _write_array(self.rows, path)

    @staticmethod
    def from_npy(path: Path) -> DiscriminatorGenotype:
        """Read a `(4, 7)` integer array."""
        return DiscriminatorGenotype(_read_array(path, N_BLOCKS))


def discriminator_choices(block: int, edge: str) -> tuple[str, ...]:
    """Names of the operations that an edge of block 1, 2, 3 or 4 can have."""
    if edge.startswith("down"):
        return DOWN
    return FIRST if block == 1 and edge in FIRST_EDGES else NORMAL


def _check_rows(
    part: str,
    rows: tuple[tuple[int, ...], ...],
    edges: tuple[str, ...],
    n_rows: int,
    choices: Callable[[int, str], tuple[str, ...]],
) -> None:
    shape = (len(rows), *{len(row) for row in rows})
    if shape != (n_rows, len(edges)):
        raise InvalidValueError(
            f"a genotype is {n_rows} x {len(edges)} indices; got {str(rows)[:200]}"
        )
    for number, row in enumerate(rows, start=1):
        for edge, index in zip(edges, row, strict=True):
            size = len(choices(number, edge))
            if type(index) is not int or not 0 <= index < size:
                raise InvalidValueError(
                    f"{part}{number}.{edge}: operation {index!r} does not exist; "
                    f"choose one of 0..{size - 1} ({', '.join(choices(number, edge))})"
                )


def _read_json(text: str) -> tuple[tuple[tuple[int, ...], ...], Any]:
    try:
        data = parse_json(text, "the text")
        return tuple(tuple(row) for row in data["rows"]), data["table"]
    except (KeyError, TypeError, UnreadableError) as error:
        raise InvalidValueError(f"not a genotype: {error!r}") from error


def _write_array(rows: tuple[tuple[int, ...], ...], path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(rows, dtype=np.uint8))


def _read_array(path: Path, n_rows: int) -> tuple[tuple[int, ...], ...]:
    try:
        array = read_npy(path, _ARRAY_BYTES)
    except UnreadableError as error:
        raise InvalidValueError(f"{path}: not a genotype array ({error})") from error
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidValueError(
            f"{path}: a genotype is a {n_rows} x 7 integer array; "
            f"got {array.shape} of {array.dtype}"
        )
    return tuple(tuple(int(i) for i in row) for row in array)


# The genotype of MMD-PMish-NAS (IEEE Access 2024), used there for every data set.
MMD_NAS = Genotype(((0, 1, 3, 4, 6, 4, 1), (1, 1, 4, 0, 5, 5, 3), (0, 1, 4, 5, 6, 4, 4)))
# The genotype of AdversarialNAS (CVPR 2020).
ADVERSARIAL_NAS = Genotype(
    ((1, 1, 1, 0, 3, 3, 1), (1, 1, 0, 1, 3, 3, 3), (0, 1, 0, 3, 3, 0, 3)), "adversarial-nas"
)
