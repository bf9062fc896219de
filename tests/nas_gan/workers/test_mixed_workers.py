"""Workers with a GPU beside workers without one.

Ray places them by GPUs that it is told of, so that who gets one is seen on any machine; only what
runs on a GPU is not.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contracts import scored
from small_ray import small_ray

from ard.measuring.journal import MemoryJournal
from ard.measuring.score import Score
from ard.measuring.sweep import sweep
from ard.plan import Factorization, RankPlan
from ard.recovery.store import Bringing
from nas_gan.devices import Device
from nas_gan.errors import WorkerError
from nas_gan.workers.executors import SerialExecutor
from nas_gan.workers.ray_executor import RayExecutor

pytestmark = pytest.mark.ray
ROUNDS = 200


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray that believes in one GPU, with CPUs for four workers."""
    with small_ray(cpus=4, gpus=1):
        yield


@pytest.fixture(scope="module")
def workers(cluster: None) -> Iterator[RayExecutor]:
    """Two workers that share the GPU, and one without."""
    with RayExecutor(gpus=0.4, cpu_workers=1, cuda_available=lambda: True) as executor:
        yield executor


Told = tuple[int, tuple[int, ...], str | None, str, str]


def who_am_i(training: bool = False) -> Callable[[int], Told]:
    """A worker's process, its GPUs and those it sees, and what became of a device it was sent.

    What is made inside of a function travels whole; a worker need not find this file.
    """

    class WhoAmI:
        trains = training

        def __init__(self) -> None:
            self.device, self.on = Device("cuda:5"), torch.device("cuda:5")

        def __call__(self, item: int) -> Told:
            import ray

            given = tuple(int(gpu) for gpu in ray.get_gpu_ids())
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            return os.getpid(), given, seen, str(self.device), str(self.on)

    return WhoAmI()


def everybody(workers: RayExecutor) -> dict[int, Told]:
    """What each worker says, by process."""
    found: dict[int, Told] = {}
    for _ in range(ROUNDS):  # until all have started
        found |= {told[0]: told for _, told in workers.run(who_am_i(), range(12))}
        if len(found) == workers.n_workers:
            break
    return found


def test_each_worker_works_on_the_gpu_that_ray_gave_it_or_on_the_cpu(workers: RayExecutor) -> None:
    assert (workers.n_workers, workers.n_trainers) == (3, 2)
    found = Counter((given, *where) for _, given, _, *where in everybody(workers).values())
    assert found == {((0,), "cuda", "cuda"): 2, ((), "cpu", "cpu"): 1}


def test_a_worker_with_a_gpu_sees_that_one_alone(workers: RayExecutor) -> None:
    seen = {told[2] for told in everybody(workers).values() if told[1]}
    assert seen == {"0"}


def test_what_trains_runs_on_the_workers_with_a_gpu(workers: RayExecutor) -> None:
    with_gpu = {pid for pid, told in everybody(workers).items() if told[1]}
    trained = Counter(told[0] for _, told in workers.run(who_am_i(training=True), range(60)))
    assert set(trained) <= with_gpu
    assert sum(trained.values()) == 60
    assert Bringing.trains  # so does the recovery of a plan


def test_a_worker_that_dies_is_replaced_by_one_of_its_kind(
    workers: RayExecutor, tmp_path: Path
) -> None:
    before = everybody(workers)

    def die_once(item: int) -> int:
        import ray

        mark = tmp_path / f"{len(ray.get_gpu_ids())}"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return -item
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    found: list[tuple[int, int]] = []
    while len(list(tmp_path.iterdir())) < 2:  # one of each kind
        found = list(workers.run(die_once, range(12)))
    assert sorted(found) == [(item, -item) for item in range(12)]
    after = everybody(workers)
    assert len(set(after) - set(before)) == 2
    assert sorted(t[1:4:2] for t in after.values()) == sorted(t[1:4:2] for t in before.values())


def test_every_worker_rounds_alike(workers: RayExecutor) -> None:
    assert torch.backends.cudnn.allow_tf32  # torch's own choice, for workers of one kind

    def tf32(item: int) -> bool:
        from torch.backends import cudnn

        return cudnn.allow_tf32

    assert {allowed for _, allowed in workers.run(tf32, range(12))} == {False}


def test_workers_of_two_kinds_measure_what_one_process_does(workers: RayExecutor) -> None:
    weight, score = torch.linspace(0, 1, 6), scored(0)
    plans = [RankPlan({"l1": Factorization("svd", (rank,))}) for rank in (5, 1, 3, 2, 4)]

    def measure(plan: RankPlan) -> Score:
        [choice] = plan.values()
        return replace(score, value=weight[: choice.rank[0]].norm().item())

    here = sweep(plans, measure, SerialExecutor(), MemoryJournal())
    assert sweep(plans, measure, workers, MemoryJournal()) == here


def test_a_gpu_that_torch_cannot_use_is_said_in_a_line(cluster: None) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch can use a GPU here")
    with (
        RayExecutor(1, gpus=0.1) as executor,
        pytest.raises(WorkerError, match="but torch sees no CUDA there") as caught,
    ):
        list(executor.run(abs, [1]))
    assert "\n" not in str(caught.value)
