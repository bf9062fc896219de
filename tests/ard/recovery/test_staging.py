from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import SmallNet
from torch import Tensor, nn

from ard.assembly.assembler import Assembler
from ard.assembly.surgery import apply_plan, describe_structure
from ard.layers import profile_layers
from ard.plan import Factorization, RankPlan
from ard.recovery.distillation import Recovery
from ard.recovery.staging import execution_order, in_stages, stages
from nas_gan.networks.latents import latent_bank

ORDER = ("linear", "conv1", "conv2")
PLAN = RankPlan({name: Factorization("svd", (2,)) for name in ("conv2", "linear", "conv1")})
SMALL = RankPlan(
    {
        "linear": Factorization("svd", (1,)),
        "conv1": Factorization("spatial_svd", (1,)),
        "conv2": Factorization("spatial_svd", (1,)),
    }
)


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_parts_follow_the_order_and_cover_the_plan_once(n: int) -> None:
    parts = stages(PLAN, ORDER, n)
    assert len(parts) == min(n, 3)
    assert [name for part in parts for name in ORDER if name in part] == list(ORDER)
    assert sum(len(part) for part in parts) == 3
    assert all(part[name] == PLAN[name] for part in parts for name in part)


@given(st.integers(1, 40), st.integers(1, 60))
def test_parts_hold_about_as_many_layers_each(n_layers: int, n: int) -> None:
    order = [f"l{i:02d}" for i in range(n_layers)]
    plan = RankPlan({name: Factorization("svd", (1,)) for name in order})
    parts = stages(plan, order, n)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert [name for part in parts for name in part] == order


@dataclass
class Distilled:
    """Trains nothing and remembers with what settings it was asked."""

    asked: list[Recovery] = field(default_factory=list)
    factorized: list[set[str]] = field(default_factory=list)

    def __call__(self, student: nn.Module, settings: Recovery) -> nn.Module:
        self.asked.append(settings)
        self.factorized.append({n for n in ORDER if f"{n}.0.weight" in student.state_dict()})
        return student


@pytest.fixture(scope="module")
def dense() -> SmallNet:
    return SmallNet()


@pytest.fixture(scope="module")
def assemble(dense: SmallNet) -> Assembler:
    latents = latent_bank(16, 8, seed=1)
    return Assembler.measure(dense, latents, profile_layers(dense, latents[:2]).layers)


def staged(
    assemble: Assembler, dense: SmallNet, ratio: float, n_steps: int = 100
) -> tuple[nn.Module, Distilled]:
    distilled = Distilled()
    settings = Recovery(n_steps, seed=7)

    def build(part: RankPlan | None = None, base: nn.Module | None = None) -> nn.Module:
        return assemble(SMALL if part is None else part, base)

    latents = latent_bank(2, 8, seed=3)
    return in_stages(build, SMALL, dense, latents, ratio, settings, distilled), distilled


def shrinks(assemble: Assembler, dense: SmallNet) -> float:
    sizes = [sum(p.numel() for p in net.parameters()) for net in (dense, assemble(SMALL))]
    return sizes[0] / sizes[1]


def test_a_plan_that_does_not_exceed_the_ratio_is_recovered_at_once(
    assemble: Assembler, dense: SmallNet
) -> None:
    for ratio in (shrinks(assemble, dense), 1e6):
        _, distilled = staged(assemble, dense, ratio)
        assert [settings.n_steps for settings in distilled.asked] == [100]
        assert distilled.factorized == [set(ORDER)]


def test_there_are_as_many_stages_as_the_ratio_fits_into_the_shrinkage(
    assemble: Assembler, dense: SmallNet
) -> None:
    shrinkage = shrinks(assemble, dense)
    for ratio, n in ((shrinkage**0.5, 2), (shrinkage**0.4, 3), (1.01, 3)):
        assert len(staged(assemble, dense, ratio)[1].asked) == n


def test_stages_go_front_to_back_and_share_the_updates_out(
    assemble: Assembler, dense: SmallNet
) -> None:
    network, distilled = staged(assemble, dense, 1.01)
    assert distilled.factorized == [{"linear"}, {"linear", "conv1"}, set(ORDER)]
    assert [settings.n_steps for settings in distilled.asked] == [33, 33, 33]
    assert len({settings.seed for settings in distilled.asked}) == 3
    whole = assemble(SMALL)
    assert describe_structure(network, SMALL) == describe_structure(whole, SMALL)


def test_without_updates_there_is_nothing_to_stage(assemble: Assembler, dense: SmallNet) -> None:
    network, distilled = staged(assemble, dense, 1.01, n_steps=0)
    assert len(distilled.asked) == 1
    latents, whole = latent_bank(4, 8, seed=2), assemble(SMALL)
    assert torch.equal(network(latents), whole(latents))


def test_fewer_updates_than_stages_leave_one_for_each(assemble: Assembler, dense: SmallNet) -> None:
    _, distilled = staged(assemble, dense, 1.01, n_steps=2)
    assert [settings.n_steps for settings in distilled.asked] == [1, 1, 1]


class Backwards(nn.Module):
    """`(n, 8)` to `(n, 4)` by the layers c, a and b, made in another order; d waits in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.d, self.b, self.a, self.c = nn.Linear(9, 9), *(nn.Linear(8, n) for n in (4, 8, 8))

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(self.c(z)) + self.c(z))
        return out


def test_layers_are_ordered_by_when_they_first_run_not_by_when_they_were_made() -> None:
    net = Backwards().train()
    assert execution_order(net, ["a", "b", "c", "d"], torch.zeros(2, 8)) == ["c", "a", "b", "d"]
    assert execution_order(net, ["b", "a"], torch.zeros(2, 8)) == ["a", "b"]
    assert net.training
    assert not any(layer._forward_pre_hooks for layer in net.modules())


def test_a_net_whose_layers_were_made_backwards_is_staged_front_to_back() -> None:
    net, plan = Backwards(), RankPlan({name: Factorization("svd", (1,)) for name in "abc"})
    parts: list[RankPlan | None] = []

    def build(part: RankPlan | None = None, base: nn.Module | None = None) -> nn.Module:
        parts.append(part)
        return apply_plan(net if base is None else base, plan if part is None else part)

    settings = Recovery(n_steps=3)
    in_stages(build, plan, net, torch.zeros(2, 8), 1.01, settings, lambda student, _: student)
    assert [part and list(part) for part in parts] == [None, ["c"], ["a"], ["b"]]
