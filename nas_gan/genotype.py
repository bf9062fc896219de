"""The searched architecture as a value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nas_gan.errors import InvalidValueError
from nas_gan.files import atomic_path

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
# The two code lines number their upsampling operations differently: index 2 means bicubic in one
# and a transposed convolution in the other. A genotype therefore names the table it indexes.
UP: dict[Table, tuple[str, ...]] = {
    "mmd-nas": ("nearest", "bilinear", "bicubic", "conv_transpose"),
    "adversarial-nas": ("nearest", "bilinear", "conv_transpose"),
}
EDGES = ("up0", "up1", "c0", "c1", "c2", "c3", "c4")
N_CELLS = 3


@dataclass(frozen=True)
class Genotype:
    """Three cells, each a row of seven operation indices `(up0, up1, c0, c1, c2, c3, c4)`.

    Raises:
        InvalidValueError: a row is missing, too short, or indexes past the end of its table.
    """

    rows: tuple[tuple[int, ...], ...]
    table: Table = "mmd-nas"

    def __post_init__(self) -> None:
        if not isinstance(self.table, str) or self.table not in UP:
            raise InvalidValueError(
                f"genotype table must be one of {', '.join(UP)}; got {self.table!r}"
            )
        shape = (len(self.rows), *{len(row) for row in self.rows})
        if shape != (N_CELLS, len(EDGES)):
            raise InvalidValueError(
                f"a genotype is {N_CELLS} x {len(EDGES)} indices; got {self.rows}"
            )
        for cell, row in enumerate(self.rows, start=1):
            for edge, index in zip(EDGES, row, strict=True):
                size = len(UP[self.table] if edge.startswith("up") else NORMAL)
                if not isinstance(index, int) or not 0 <= index < size:
                    raise InvalidValueError(
                        f"cell{cell}.{edge}: operation {index!r} does not exist; "
                        f"table {self.table!r} has 0..{size - 1}"
                    )

    def operation(self, cell: int, edge: str) -> str:
        """Name of the operation on one edge of cell 1, 2 or 3."""
        index = self.rows[cell - 1][EDGES.index(edge)]
        return UP[self.table][index] if edge.startswith("up") else NORMAL[index]

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps({"table": self.table, "rows": self.rows})

    @staticmethod
    def from_json(text: str) -> Genotype:
        """Read what `to_json` wrote."""
        try:
            data = json.loads(text)
            rows, table = tuple(tuple(row) for row in data["rows"]), data["table"]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InvalidValueError(f"not a genotype: {error!r}") from error
        return Genotype(rows, table)

    def to_npy(self, path: Path) -> None:
        """Write the `(3, 7)` uint8 array of the published code."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.array(self.rows, dtype=np.uint8))

    @staticmethod
    def from_npy(path: Path, table: Table = "mmd-nas") -> Genotype:
        """Read a `(3, 7)` integer array; the file does not say which table it indexes."""
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InvalidValueError(f"{path}: not a genotype array ({error})") from error
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
            raise InvalidValueError(
                f"{path}: a genotype is a 3 x 7 integer array; got {array.shape} of {array.dtype}"
            )
        return Genotype(tuple(tuple(int(i) for i in row) for row in array), table)


# The genotype of MMD-PMish-NAS (IEEE Access 2024), used there for every data set.
MMD_NAS = Genotype(((0, 1, 3, 4, 6, 4, 1), (1, 1, 4, 0, 5, 5, 3), (0, 1, 4, 5, 6, 4, 4)))
# The genotype of AdversarialNAS (CVPR 2020).
ADVERSARIAL_NAS = Genotype(
    ((1, 1, 1, 0, 3, 3, 1), (1, 1, 0, 1, 3, 3, 3), (0, 1, 0, 3, 3, 0, 3)), "adversarial-nas"
)
