"""Memory: how much there is, how much of it a row of latents takes, and how many rows fit."""

from __future__ import annotations

import re
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas_gan.networks.halving import halving_batches
from nas_gan.networks.structure import evaluating

Result = TypeVar("Result")
# The shares of the memory that is available which the activations of a batch may take, and what is
# kept for later. Kernels need room of their own, and there may be other workers on the machine.
ACTIVATIONS, KEPT = 1 / 4, 1 / 8
# How many rows show what one takes. Some networks refuse a batch of one.
SHOWN_ROWS = 2


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process can still take without swapping; None if the system does not say.

    The least of what Linux has and of what the control groups of this process have left, as those
    of a container or of a batch system.

    Args:
        root: the folder with `proc` and `sys`.
    """
    meminfo = _text(root / "proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo)
    if found is None:
        return None
    left = [int(found[1]) * 1024]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        groups = root / "sys/fs/cgroup"
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            groups /= "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = groups / path.strip("/")
        # A container sees its own group as the root, under whatever path it has outside.
        for group in dict.fromkeys((own, *own.parents)):
            if group.is_relative_to(groups):
                left += _left_in(group, *names)
    return max(0, min(left))


def _left_in(group: Path, limit: str, usage: str, reclaimable: str) -> list[int]:
    """What a control group has left, if it limits memory. Pages of files count as free."""
    most, used = _text(group / limit).strip(), _text(group / usage).strip()
    if not (most.isdigit() and used.isdigit()):  # "max", or no such file
        return []
    pages = re.search(rf"^{reclaimable} (\d+)", _text(group / "memory.stat"), re.MULTILINE)
    return [int(most) - int(used) + (int(pages[1]) if pages else 0)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def peak_bytes() -> int:
    """The most memory that this process has had."""
    status = _text(Path("/proc/self/status"))
    # Not ru_maxrss, which a process inherits from the one that started it.
    if found := re.search(r"VmHWM:\s+(\d+) kB", status):
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # a system without it does not say
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bytes_to_keep(most: int) -> int:
    """How many bytes may be kept for later: `most`, or less if memory is short."""
    there = available_bytes()
    return most if there is None else min(most, int(KEPT * there))


@dataclass(frozen=True)
class Activations:
    """Bytes that a pass takes beside weights and inputs, for a row of its batch.

    Attributes:
        alive: the most that is there at a time without gradients.
        made: all that is made on the way, which a pass with gradients keeps.
    """

    alive: int
    made: int


def activations_of(network: nn.Module, latents: Tensor) -> Activations:
    """What the activations of a row take, from a pass over the first rows of `latents`."""
    rows = latents[:SHOWN_ROWS]
    count = _Count()
    with warnings.catch_warnings(), evaluating(network), count:
        # What there is to warn of, such as a checkpoint without gradients, the real pass tells.
        warnings.simplefilter("ignore")
        network(rows)
    return Activations(-(-count.most // len(rows)), -(-count.made // len(rows)))


class _Count(TorchDispatchMode):
    """Counts the bytes of what operators return, for as long as somebody holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = self.made = 0
        self._holders: Counter[int] = Counter()  # by the address of a storage

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_address(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            address = _address(tensor)
            if address in given and not self._holders[address]:
                continue  # a view of a weight or of the latents
            size = tensor.untyped_storage().nbytes()
            if not self._holders[address]:
                self.alive += size
                self.made += size
                self.most = max(self.most, self.alive)
            self._holders[address] += 1
            weakref.finalize(tensor, self._dropped, address, size)
        return result

    def _dropped(self, address: int, size: int) -> None:
        self._holders[address] -= 1
        if not self._holders[address]:
            self.alive -= size


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def fitting_rows(
    network: nn.Module,
    latents: Tensor,
    most: int,
    *,
    gradients: bool = False,
) -> int:
    """How many rows the network can take at a time on a CPU: `most`, or a power of two below it.

    On another device it is `most`: what does not fit there is an error that can be caught (see
    `nas_gan.networks.halving`), while a system that is out of memory ends the process.

    Args:
        network: maps latents to images; it is not changed.
        latents: `(n, latent_dim)`; the first few rows show what one takes.
        most: the batch size that is wanted.
        gradients: whether gradients flow back through the pass.
    """
    if latents.device.type != "cpu" or most <= 1 or (there := available_bytes()) is None:
        return most
    found = activations_of(network, latents)
    row = found.made if gradients else found.alive
    fitting = int(ACTIVATIONS * there) // max(row, 1)
    if fitting >= most:
        return most
    return 1 << max(fitting, 1).bit_length() - 1


def in_fitting_batches(
    measure: Callable[[int], Result],
    network: nn.Module,
    latents: Tensor,
    most: int,
    *,
    gradients: bool = False,
) -> Result:
    """`measure(batch_size)` with batches that fit: chosen on a CPU, found out on a GPU.

    Args:
        measure: measures all latents in batches of the given size; its result must not depend on
            it, apart from rounding.
        network: the network that it runs.
        latents: `(n, latent_dim)`.
        most: the batch size that is wanted.
        gradients: whether gradients flow back through the network.
    """
    rows = min(most, len(latents))
    return halving_batches(measure, fitting_rows(network, latents, rows, gradients=gradients))
