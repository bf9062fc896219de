from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contracts import ExecutorContract, scored
from small_ray import small_ray
from torch import nn

from ard.measuring.journal import FileJournal, MemoryJournal
from ard.measuring.score import Score
from ard.measuring.sweep import sweep
from ard.plan import Factorization, RankPlan
from nas_gan.errors import InvalidValueError, UsageError, WorkerError
from nas_gan.networks.finding import find_interface
from nas_gan.workers.executors import SerialExecutor
from nas_gan.workers.options import WorkerOptions, check_alike, check_workers, opened_executor
from nas_gan.workers.ray_executor import MAX_DEATHS, RayExecutor

ROOT = Path(__file__).parents[3]
PLANS = [RankPlan({"l1": Factorization("svd", (r,))}) for r in (5, 1, 3, 2, 4)]
# Two raylets on the loopback; the one without the driver dies when half of the work is done.
TWO_NODES = """
    import time
    from pathlib import Path
    import ray
    from ray.cluster_utils import Cluster
    from nas_gan.workers.ray_executor import RayExecutor

    memory = 100 * 2**20
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": memory}
    )
    second = cluster.add_node(num_cpus=1, object_store_memory=memory)
    cluster.wait_for_nodes()

    def work(item):
        time.sleep(0.2)
        return item * item, ray.get_runtime_context().get_node_id()

    try:
        with RayExecutor(address=cluster.address) as executor:
            assert executor.n_workers == 2
            while len({node for _, (_, node) in executor.run(work, range(2))}) < 2:
                pass  # until both have started
            results, nodes = {}, set()
            for item, (square, node) in executor.run(work, range(20)):
                assert item not in results
                results[item] = square
                nodes.add(node)
                if len(nodes) == 2 and second is not None:
                    cluster.remove_node(second, allow_graceful=False)
                    second = None
            assert second is None
            assert results == {item: item * item for item in range(20)}
    finally:
        ray.shutdown()
        cluster.shutdown()
    print("nothing is lost")
"""


@pytest.fixture(scope="module")  # other modules start a Ray of their own
def cluster() -> Iterator[None]:
    """A Ray with room for two workers in this machine."""
    with small_ray():
        yield


@pytest.fixture(scope="module")
def workers(cluster: None) -> Iterator[RayExecutor]:
    with RayExecutor() as executor:
        yield executor


def measure_of_ranks() -> Callable[[RankPlan], Score]:
    """Scores a plan by its rank; a function inside a function travels whole."""
    score = scored(0)

    def measure(plan: RankPlan) -> Score:
        [choice] = plan.values()
        return replace(score, value=float(choice.rank[0]))

    return measure


class TestSerialExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self) -> SerialExecutor:
        return SerialExecutor()

    def test_results_are_handed_back_one_by_one_as_they_are_made(
        self, executor: SerialExecutor
    ) -> None:
        done: list[int] = []
        results = executor.run(done.append, [1, 2])
        next(results)
        assert done == [1]


@pytest.mark.ray
class TestRayExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, workers: RayExecutor) -> RayExecutor:
        return workers

    def test_a_sweep_measures_the_same_as_in_one_process(self, executor: RayExecutor) -> None:
        weight, evaluation = torch.linspace(0, 1, 6), scored(0)

        def measure(plan: RankPlan) -> Score:
            [choice] = plan.values()
            return replace(evaluation, value=weight[: choice.rank[0]].norm().item())

        here = sweep(PLANS, measure, SerialExecutor(), MemoryJournal())
        assert sweep(PLANS, measure, executor, MemoryJournal()) == here

    def test_there_are_as_many_workers_as_the_cluster_has_room_for(
        self, executor: RayExecutor
    ) -> None:
        assert executor.n_workers == 2
        processes: set[int] = set()
        for _ in range(200):  # until both have started
            processes |= set(dict(executor.run(lambda item: os.getpid(), range(40))).values())
            if len(processes) == 2:
                break
        assert len(processes) == 2

    def test_a_worker_has_the_threads_that_are_reserved_for_it(self, executor: RayExecutor) -> None:
        [(_, threads)] = executor.run(lambda item: torch.get_num_threads(), [0])
        assert threads == 1

    def test_a_worker_that_dies_costs_its_item_one_more_try_and_nothing_else(
        self, executor: RayExecutor, tmp_path: Path
    ) -> None:
        def die_once(item: int) -> int:
            tried = tmp_path / str(item)
            if item % 3 == 0 and not tried.exists():
                tried.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return -item

        assert sorted(executor.run(die_once, range(7))) == [(item, -item) for item in range(7)]

    def test_an_item_that_ends_every_worker_is_given_up_with_one_line(
        self, executor: RayExecutor, tmp_path: Path
    ) -> None:
        def die(item: str) -> None:
            with (tmp_path / item).open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)

        with pytest.raises(WorkerError, match="over one and the same item, poison") as caught:
            list(executor.run(die, ["poison"]))
        assert "\n" not in str(caught.value)
        assert (tmp_path / "poison").read_text() == "x" * MAX_DEATHS
        assert dict(executor.run(abs, [-1])) == {-1: 1}  # it is of use afterwards

    def test_a_driver_that_stops_goes_on_from_its_journal(
        self, executor: RayExecutor, tmp_path: Path
    ) -> None:
        def stop(n: int) -> None:
            if n and sum(1 for _ in journal.measurements()) == 2:
                raise KeyboardInterrupt

        rank_of = measure_of_ranks()

        def measure(plan: RankPlan) -> Score:
            with (tmp_path / "calls").open("a") as file:
                file.write(f"{plan}\n")
            return rank_of(plan)

        journal = FileJournal(tmp_path / "journal.jsonl", {})
        with pytest.raises(KeyboardInterrupt):
            sweep(PLANS, rank_of, executor, journal, on_measured=stop)
        known = {m.plan for m in FileJournal(tmp_path / "journal.jsonl", {}).measurements()}
        assert len(known) == 2
        measured = sweep(PLANS, measure, executor, FileJournal(tmp_path / "journal.jsonl", {}))
        assert measured == sweep(PLANS, rank_of, SerialExecutor(), MemoryJournal())
        again = (tmp_path / "calls").read_text().splitlines()
        assert sorted(again) == sorted(str(plan) for plan in PLANS if plan not in known)

    def test_a_worker_for_which_no_node_has_room_is_refused_at_once(self, cluster: None) -> None:
        with pytest.raises(WorkerError, match="no worker of 64 CPUs"):
            RayExecutor(threads=64)


@pytest.mark.ray
def test_a_node_that_dies_in_the_middle_loses_nothing() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TWO_NODES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("nothing is lost\n"), done.stderr


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError, match=r'pip install "ard-gan\[ray\]"'):
        RayExecutor()


def test_work_stays_here_unless_somebody_asks_for_more() -> None:
    with opened_executor(WorkerOptions(), "cpu", None) as executor:
        assert isinstance(executor, SerialExecutor)


@pytest.mark.parametrize(
    ("options", "device", "error", "setting"),
    [
        (WorkerOptions(workers=2), "cpu", UsageError, "workers"),
        (WorkerOptions(ray_address="local"), "cpu", UsageError, "ray_address"),
        (WorkerOptions(executor="ray", workers=0), "cpu", InvalidValueError, "workers"),
        (WorkerOptions(executor="ray"), "cuda", InvalidValueError, "gpus_per_worker"),
        (WorkerOptions(executor="ray", gpus_per_worker=1), "cpu", InvalidValueError,
         "gpus_per_worker"),
        (WorkerOptions(executor="ray", gpus_per_worker=1), "cuda:1", InvalidValueError, "device"),
        (WorkerOptions(cpu_workers=2), "cpu", UsageError, "cpu_workers"),
        (WorkerOptions(executor="ray", cpu_workers=2), "cpu", InvalidValueError, "cpu_workers"),
        (WorkerOptions(executor="ray", gpus_per_worker=1, cpu_workers=-1), "cuda",
         InvalidValueError, "cpu_workers"),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other_are_refused_before_ray_starts(
    options: WorkerOptions, device: str, error: type[Exception], setting: str
) -> None:
    with pytest.raises(error) as caught:
        check_workers(options, device)
    assert getattr(caught.value, "setting", None) == setting


@pytest.mark.parametrize("draws", [False, True])
def test_a_generator_that_draws_numbers_itself_needs_workers_of_one_kind(draws: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3 * 8 * 8)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            images = self.layer(z).view(-1, 3, 8, 8)
            return torch.tanh(images + torch.randn_like(images) if draws else images)

    interface = find_interface(Net())
    mixed = WorkerOptions(executor="ray", gpus_per_worker=1, cpu_workers=1)
    check_alike(replace(mixed, cpu_workers=0), interface)
    if not draws:
        check_alike(mixed, interface)
        return
    with pytest.raises(InvalidValueError, match="is 1, but this generator draws random") as caught:
        check_alike(mixed, interface)
    assert caught.value.setting == "cpu_workers"
