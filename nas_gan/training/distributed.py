"""One training run in several processes: what they exchange to compute what one would.

Started by torchrun, each process takes its rows of the global batch. The losses are those of the
global batch in every process: scores are gathered, since the mean of two MMDs is not the MMD of
both halves, and batch normalisation uses the moments of all images. What is left is the mean of
gradients, and that is DistributedDataParallel's.

torch's wrapper is used directly and not through accelerate, whose `prepare` replaces networks and
optimisers by its own: an adversarial step needs a network with and without its wrapper in one
update (gradients of a frozen discriminator reach no reducer, and a gradient penalty is
differentiated twice).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from nas_gan.errors import InvalidValueError
from nas_gan.remote.addresses import address_of, is_remote

Batch = TypeVar("Batch", bound=Tensor | tuple[Tensor, Tensor])


@dataclass(frozen=True)
class Processes:
    """This process among those of the run: number `rank` of `count`, computing on `device`."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0


@contextmanager
def joined_processes(device: str = "cpu") -> Iterator[Processes]:
    """The processes that torchrun started, joined; without torchrun this one alone.

    `cuda` becomes the GPU with this process's number on its machine.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Processes(device=device)
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Exchange:
    """What a step of one process exchanges with the other processes of its run.

    Attributes:
        share: rows of a global batch to those of this process.
        gather: scores of this process to those of all, in order of rank.
        mean: gradients of this process to their means over all, which can be differentiated.
        synchronise: a network to one whose gradients are averaged over processes in `backward`.
    """

    share: Callable[[Tensor], Tensor] = lambda batch: batch
    gather: Callable[[Tensor], Tensor] = lambda scores: scores
    mean: Callable[[Sequence[Tensor]], list[Tensor]] = list
    synchronise: Callable[[nn.Module], nn.Module] = lambda module: module


# A single process keeps everything to itself.
ALONE = Exchange()


def exchange_among(processes: Processes) -> Exchange:
    """How this process exchanges batches, scores and gradients with the others."""
    return Exchange(
        partial(own_rows, processes=processes), gather_scores, mean_over_processes, synchronised
    )


class Share(Generic[Batch]):
    """This process's rows of every global batch that `sampler(index)` returns.

    Raises:
        InvalidValueError: the batch does not divide into equal parts (on the first call).
    """

    def __init__(self, sampler: Callable[[int], Batch], processes: Processes) -> None:
        self.sampler, self.processes = sampler, processes

    def __call__(self, index: int) -> Batch:
        batch = self.sampler(index)
        if isinstance(batch, Tensor):
            return cast("Batch", own_rows(batch, self.processes))
        images, labels = batch
        return cast("Batch", (own_rows(images, self.processes), own_rows(labels, self.processes)))


def own_rows(batch: Tensor, processes: Processes) -> Tensor:
    """The rows of this process, `(n, ...)` to `(n / count, ...)`: the ranks' parts in order.

    Raises:
        InvalidValueError: the batch does not divide into equal parts.
    """
    check_divides(len(batch), processes)
    n = len(batch) // processes.count
    return batch[processes.rank * n : (processes.rank + 1) * n]


def check_processes(run_dir: Path, processes: Processes) -> None:
    """Raise InvalidValueError if several processes would need one remote run directory."""
    if processes.count > 1 and is_remote(run_dir):
        raise InvalidValueError(
            f"is {address_of(run_dir)}, which is for a run in one process; there are "
            f"{processes.count}; use a local directory",
            setting="run_dir",
        )


def check_divides(n: int, processes: Processes) -> None:
    """Raise InvalidValueError unless a batch of `n` has equal parts for all processes."""
    if n % (count := processes.count):
        raise InvalidValueError(
            f"a batch of {n} does not divide into {count} processes; use a multiple of {count}"
        )


def broadcast_from_main(value: float, processes: Processes) -> float:
    """The number of the main process, in all processes."""
    if processes.count == 1:
        return value
    number = torch.tensor(value, dtype=torch.float64, device=processes.device)
    dist.broadcast(number, src=0)
    return number.item()


def synchronised(module: nn.Module) -> nn.Module:
    """The module, wrapped so that gradients become their mean over all processes in `backward`."""
    if not _together():
        return module
    # Buffers are the same everywhere: batch moments are global, power iterations deterministic.
    known = inspect.signature(DistributedDataParallel).parameters
    # Newer versions of torch have another name for it, and warn of the older one.
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(module, **options)


def gather_scores(scores: Tensor) -> Tensor:
    """The scores of all processes in order of rank, `(n, d)` to `(count n, d)`.

    Its gradient is the sum of the gradients of all processes' losses. When every process has the
    same loss of the global batch, the mean of their gradients is the gradient of that loss.
    """
    if not _together():
        return scores
    gathered: Tensor = _Gather.apply(scores)
    return gathered


def mean_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor's mean over all processes, differentiable twice.

    They travel as one tensor, and must therefore be of one type.
    """
    if not _together() or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    means = _summed(flat) / dist.get_world_size()
    parts = means.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def global_batch_norm_(module: nn.Module) -> nn.Module:
    """Let the batch normalisation of a network use the moments of all processes, in place.

    torch's own SyncBatchNorm runs on GPUs only. Names and values of parameters stay; does nothing
    in a single process.
    """
    if _together():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
                setattr(module, name, GlobalBatchNorm.like(child))
            else:
                global_batch_norm_(child)
    return module


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation by the moments of the batches of all processes together."""

    @classmethod
    def like(cls, norm: _BatchNorm) -> GlobalBatchNorm:
        """With the settings, parameters and statistics of `norm`."""
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        new._parameters, new._buffers = norm._parameters, norm._buffers
        return new.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch normalisation needs at least 2 axes; got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = (1, -1, *(1,) * (input.ndim - 2))
        with torch.autocast(input.device.type, enabled=False):
            x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
            n = x.numel() // x.shape[1] * dist.get_world_size()
            mean = _summed(x.sum(dim=axes)) / n
            centred = x - mean.view(shape)
            # From centred values: the difference of two means of squares would cancel.
            variance = _summed(centred.square().sum(dim=axes)) / n
            out = centred * (variance + self.eps).rsqrt().view(shape)
            if self.affine:
                out = out * self.weight.view(shape) + self.bias.view(shape)
        self._follow(mean.detach(), variance.detach() * (n / max(n - 1, 1)))
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics; like torch's they hold the unbiased variance."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _summed(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)
    return total


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient is a sum over processes too, and has one itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


class _Gather(torch.autograd.Function):
    """Rows of all processes; the gradient is the sum over processes, cut to the own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.n = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)[dist.get_rank() * ctx.n : (dist.get_rank() + 1) * ctx.n]
