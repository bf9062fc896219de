"""Rows that do not fit into memory together, taken in halves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def halving(call: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`call(rows)`, or what it makes of either half if a GPU has no memory for all of them.

    Args:
        call: maps rows `(n, ...)` to as many rows.
        rows: the rows.

    Raises:
        torch.OutOfMemoryError: there is no memory for a single row.
    """
    try:
        return call(rows)
    except torch.OutOfMemoryError:
        if len(rows) < 2:
            raise
    # Outside of the handler: the error holds on to the memory of the call that failed.
    return torch.cat([halving(call, half) for half in rows.split(-(-len(rows) // 2))])
