"""Executors run measurements: in this process, or on the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ard.errors import ArdError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Applies one function to many items, and yields each result as soon as it is available."""

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Pairs of item and result, in any order."""
        ...


class SerialExecutor:
    """Runs one item after another, in this process."""

    def run(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Pairs of item and result, in order."""
        for item in items:
            yield item, function(item)


class RayExecutor:
    """Runs items on the workers of a Ray cluster, to which the function is sent once.

    Args:
        num_cpus_per_task: CPUs reserved per item.
        num_gpus_per_task: GPUs reserved per item; fractions are possible.

    Raises:
        ArdError: Ray is not installed.
    """

    def __init__(self, num_cpus_per_task: float = 1, num_gpus_per_task: float = 0) -> None:
        try:
            import ray
        except ImportError as error:
            raise ArdError('RayExecutor needs Ray: pip install "ard-gan[ray]"') from error
        self._ray = ray
        self._num_cpus, self._num_gpus = num_cpus_per_task, num_gpus_per_task

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Pairs of item and result, in the order in which they finish."""
        if not items:
            return
        shared = self._ray.put(function)
        task: Any = self._ray.remote(num_cpus=self._num_cpus, num_gpus=self._num_gpus)(_call)
        pending = {task.remote(shared, item): item for item in items}
        while pending:
            [done], _ = self._ray.wait(list(pending), num_returns=1)
            yield pending.pop(done), self._ray.get(done)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)
