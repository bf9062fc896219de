"""Which workers a cluster has room for, and which device each of them works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_gan.errors import WorkerError

CPU, CUDA = "cpu", "cuda"


@dataclass(frozen=True)
class Wanted:
    """The workers that are asked for.

    Attributes:
        n_workers: how many; as many as there is room for if None.
        threads: CPU threads of a worker, for which as many CPUs are reserved.
        gpus: GPUs reserved for a worker; several share one if it is a fraction.
        cpu_workers: how many more there are without a GPU.
    """

    n_workers: int | None = None
    threads: int = 1
    gpus: float = 0.0
    cpu_workers: int = 0


def n_workers_of(wanted: Wanted, nodes: Sequence[Mapping[str, Any]]) -> int:
    """How many workers to start, apart from those that have no GPU where the others have one.

    Args:
        wanted: what is asked for.
        nodes: the nodes of the cluster, as Ray lists them.

    Raises:
        WorkerError: no node has room for a worker, or those without a GPU take all the room.
    """
    room = _room(nodes, wanted.threads, wanted.gpus)
    if not room:
        found = ", ".join(f"{cpu:g} and {gpu:g}" for cpu, gpu in _resources(nodes)) or "none"
        raise WorkerError(
            f"has room for no worker of {wanted.threads} CPUs and {wanted.gpus:g} GPUs; its nodes "
            f"have CPUs and GPUs: {found}; use fewer threads or GPUs per worker, or add a node",
            setting="ray_address",
        )
    places = _room(nodes, wanted.threads, 0)
    if wanted.cpu_workers >= places:
        raise WorkerError(
            f"is {wanted.cpu_workers}, but the cluster has CPUs for {places} workers of "
            f"{wanted.threads} CPUs, and those with a GPU need some too; use fewer, or fewer "
            "threads",
            setting="cpu_workers",
        )
    return wanted.n_workers or min(room, places - wanted.cpu_workers)


def worker_device(gpus: Sequence[object], cuda_available: bool) -> str:
    """The device of a worker, in torch's words.

    Args:
        gpus: the ids of the GPUs that Ray has given to the worker, the only ones that it sees.
        cuda_available: whether torch can use a GPU there.

    Raises:
        WorkerError: the worker has a GPU, and torch cannot use it.
    """
    if not gpus:
        return CPU  # whatever else the machine has belongs to other workers
    if not cuda_available:
        raise WorkerError(
            f"Ray gave a worker GPU {', '.join(map(str, gpus))}, but torch sees no CUDA there; "
            "install a driver and a torch for CUDA on every node with GPUs, or let Ray count no "
            "GPU on that node"
        )
    return CUDA


def device_there(device: str, own: str) -> str:
    """The device on a worker of what was on `device` where it was sent from.

    Args:
        device: the name of a device.
        own: that of the worker; it takes the place of any GPU.
    """
    return own if device.partition(":")[0] == CUDA else device


def _resources(nodes: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """CPUs and GPUs of each living node."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return [(found.get("CPU", 0.0), found.get("GPU", 0.0)) for found in alive]


def _room(nodes: Sequence[Mapping[str, Any]], threads: int, gpus: float) -> int:
    """How many workers fit on the living nodes of a cluster."""
    # Half a worker's rounding error must not cost one: 1 GPU has room for ten tenths of a GPU.
    return sum(
        int(min(cpu / threads, gpu / gpus + 1e-6 if gpus else cpu))
        for cpu, gpu in _resources(nodes)
    )
