from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from contracts import ExecutorContract, scored

from ard.measuring.journal import MemoryJournal
from ard.measuring.score import Score
from ard.measuring.sweep import sweep
from ard.plan import Factorization, RankPlan
from nas_gan.errors import WorkerError
from nas_gan.workers.executors import SerialExecutor
from nas_gan.workers.ray_executor import RayExecutor


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    """A Ray of one worker in this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


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
    def executor(self, ray: None) -> RayExecutor:
        return RayExecutor()

    def test_a_sweep_measures_the_same_as_in_one_process(self, executor: RayExecutor) -> None:
        weight, evaluation = torch.linspace(0, 1, 6), scored(0)

        def measure(plan: RankPlan) -> Score:
            [choice] = plan.values()
            return replace(evaluation, value=weight[: choice.rank[0]].norm().item())

        plans = [RankPlan({"l1": Factorization("svd", (r,))}) for r in (5, 1, 3)]
        here = sweep(plans, measure, SerialExecutor(), MemoryJournal())
        assert sweep(plans, measure, executor, MemoryJournal()) == here


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError, match=r'pip install "ard-gan\[ray\]"'):
        RayExecutor()
