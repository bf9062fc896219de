from __future__ import annotations

from typing import Any

import pytest

from nas_gan.errors import WorkerError
from nas_gan.workers.placement import Wanted, device_there, n_workers_of, worker_device


def nodes(*resources: tuple[float, float]) -> list[dict[str, Any]]:
    """Living nodes with so many CPUs and GPUs."""
    return [{"Alive": True, "Resources": {"CPU": cpu, "GPU": gpu}} for cpu, gpu in resources]


@pytest.mark.parametrize(
    ("wanted", "cluster", "expected"),
    [
        (Wanted(), nodes((4, 0), (2, 0)), 6),
        (Wanted(threads=4), nodes((10, 0), (3, 0)), 2),
        (Wanted(gpus=0.5), nodes((16, 4)), 8),
        (Wanted(gpus=0.1), nodes((16, 1)), 10),
        (Wanted(gpus=1), nodes((2, 4)), 2),  # two of its GPUs have no CPU
        (Wanted(gpus=0.5, cpu_workers=4), nodes((16, 4)), 8),
        (Wanted(gpus=0.5, cpu_workers=10), nodes((16, 4)), 6),  # CPUs for the others
        (Wanted(gpus=1, cpu_workers=8), nodes((4, 1), (8, 0)), 1),
        (Wanted(3, gpus=0.5, cpu_workers=4), nodes((16, 4)), 3),
    ],
)
def test_there_are_as_many_workers_as_asked_for_or_as_there_is_room_for(
    wanted: Wanted, cluster: list[dict[str, Any]], expected: int
) -> None:
    assert n_workers_of(wanted, cluster) == expected


def test_nodes_that_are_gone_have_no_room() -> None:
    gone = [{"Alive": False, "Resources": {"CPU": 8.0}}]
    assert n_workers_of(Wanted(), [*gone, *nodes((2, 0))]) == 2


def test_a_worker_that_fits_nowhere_is_refused_with_what_there_is() -> None:
    with pytest.raises(WorkerError, match=r"no worker of 1 CPUs and 1 GPUs.*: 4 and 0; ") as caught:
        n_workers_of(Wanted(gpus=1, cpu_workers=1), nodes((4, 0)))
    assert caught.value.setting == "ray_address"


def test_workers_on_the_cpu_may_not_take_every_place() -> None:
    with pytest.raises(WorkerError, match="is 4, but the cluster has CPUs for 4 work") as caught:
        n_workers_of(Wanted(gpus=1, cpu_workers=4), nodes((4, 1)))
    assert caught.value.setting == "cpu_workers"


@pytest.mark.parametrize(
    ("gpus", "cuda_available", "expected"),
    [((), False, "cpu"), ((), True, "cpu"), ((3,), True, "cuda"), (("GPU-a1",), True, "cuda")],
)
def test_a_worker_uses_the_gpu_that_it_was_given_and_no_other(
    gpus: tuple[object, ...], cuda_available: bool, expected: str
) -> None:
    assert worker_device(gpus, cuda_available) == expected


def test_a_gpu_that_torch_cannot_use_is_one_line() -> None:
    with pytest.raises(WorkerError, match="gave a worker GPU 0, 2, but torch sees no") as caught:
        worker_device([0, 2], False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "own", "expected"),
    [
        ("cuda", "cpu", "cpu"),
        ("cuda:3", "cpu", "cpu"),
        ("cuda:3", "cuda", "cuda"),
        ("cpu", "cuda", "cpu"),
        ("meta", "cpu", "meta"),
    ],
)
def test_only_a_gpu_becomes_the_device_of_the_worker(device: str, own: str, expected: str) -> None:
    assert device_there(device, own) == expected
