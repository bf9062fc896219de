"""Rows that do not fit into memory together, taken in halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


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


def halving_batches(measure: Callable[[int], Result], batch_size: int) -> Result:
    """`measure(batch_size)`, or with half of it, as often as a GPU has no memory for a batch.

    It is for sums over many batches: one that failed in the middle starts anew, so that nothing is
    counted twice.

    Args:
        measure: measures all rows in batches of the given size; the result must not depend on it.
        batch_size: rows per batch at first.

    Raises:
        torch.OutOfMemoryError: there is no memory for a single row.
    """
    while True:
        try:
            return measure(batch_size)
        except torch.OutOfMemoryError:
            if batch_size < 2:
                raise
        # Outside of the handler: the error holds on to the memory of the call that failed.
        batch_size = -(-batch_size // 2)
