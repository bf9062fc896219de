"""What runs one function on many items, in this process or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Applies one function to many items, and yields each result as soon as it is available."""

    @property
    def n_workers(self) -> int:
        """How many items run at a time."""
        ...

    @property
    def n_trainers(self) -> int:
        """How many of them, if the function trains: see `RayExecutor`."""
        ...

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Pairs of item and result, in any order."""
        ...


class SerialExecutor:
    """Runs one item after another, in this process."""

    n_workers = n_trainers = 1

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Pairs of item and result, in order."""
        for item in items:
            yield item, function(item)
