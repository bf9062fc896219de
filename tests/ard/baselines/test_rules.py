from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from contracts import exactly, scored
from published_sweep import (
    FID_DENSE,
    FIXED_PARAMS,
    LAYERS,
    SCORES,
    SIZES,
    VECTORS,
)

from ard.baselines.rules import (
    energy_rank,
    energy_threshold,
    evbmf,
    evbmf_rank,
    greedy,
    penalty_plans,
    penalty_rule,
    random_plans,
    reduction_pct,
    uniform_rank,
    uniform_ratio,
)
from ard.costs.cost import cost_of, params_cost
from ard.errors import BudgetError, NonFiniteError, PlanError
from ard.layers import LayerProfile
from ard.measuring.sensitivity import Row, SensitivityTable
from ard.plan import DENSE, Factorization, RankPlan
from ard.search.recorded import ScoredChoice

CONV = LayerProfile("conv", "conv2d", (8, 16, 3, 3), positions=4)
POINT = LayerProfile("point", "conv2d", (16, 8, 1, 1), positions=4)
UP = LayerProfile("up", "conv_transpose2d", (16, 8, 4, 4), positions=16, input_positions=4)
FC = LayerProfile("fc", "linear", (20, 10))
GROUPED = LayerProfile("grouped", "conv2d", (8, 2, 3, 3), groups=4)
MIXED = (CONV, POINT, UP, FC, GROUPED)
WEIGHTS = {layer.name: torch.ones(layer.weight_shape) for layer in MIXED}


def row(rank: int, fid: float, reduction: float) -> ScoredChoice:
    return ScoredChoice("a", rank, fid, reduction)


def published_rows() -> list[ScoredChoice]:
    return [ScoredChoice(n.name, c, fid, reduction_pct(n, c)) for n, c, fid in SCORES]


def published_table() -> SensitivityTable:
    rows = [
        Row(n.name, n.kind, c, n.params(c), n.macs(c), exactly(fid, FID_DENSE))
        for n, c, fid in SCORES
    ]
    return SensitivityTable(exactly(FID_DENSE, FID_DENSE), tuple(rows))


def choice_of(layer: LayerProfile, rank: int | None) -> Factorization | None:
    return Factorization("cp" if layer.kind == "conv2d" else "svd", (rank,)) if rank else None


# -- the published rule


@pytest.mark.parametrize("penalty", VECTORS)
def test_the_published_scores_give_the_published_ranks(penalty: float) -> None:
    chosen = penalty_rule(published_rows(), penalty, FID_DENSE)
    expected = [
        choice_of(layer, rank) for layer, rank in zip(LAYERS, VECTORS[penalty], strict=True)
    ]
    assert [r and r.choice for r in chosen.values()] == expected
    assert list(chosen) == [layer.name for layer in LAYERS]


@pytest.mark.parametrize("penalty", VECTORS)
def test_the_published_plans_have_the_published_sizes(penalty: float) -> None:
    [plan] = penalty_plans(published_table(), LAYERS, [penalty])
    plan = plan.with_layer("l3", Factorization("svd", (2,)))  # as their table has it
    assert FIXED_PARAMS + cost_of(params_cost, LAYERS, plan) == SIZES[penalty]


def test_reductions_are_the_published_ones() -> None:
    of_layer = {layer.name: layer for layer in LAYERS}
    cp = [Factorization("cp", (rank,)) for rank in (128, 256, 512, 768)]
    assert [reduction_pct(of_layer["1"], c) for c in cp] == [88.72, 77.48, 55.01, 32.54]
    assert [reduction_pct(of_layer["2"], c) for c in cp] == [95.91, 91.83, 83.67, 75.52]
    last = [reduction_pct(of_layer[f"l{i}"], Factorization("svd", (32,))) for i in (1, 2, 3)]
    assert last == [18.75, 19.32, 19.46]


def test_the_penalised_score_decides() -> None:
    rows = [row(1, 6.0, 50.0), row(2, 5.0, 0.0)]
    # 6 (1 + g / 2), 5 (1 + g) and, dense, 4.9 (1 + g)
    assert penalty_rule(rows, 1.0, 4.9) == {"a": rows[0]}  # 9, 10, 9.8
    assert penalty_rule(rows, 0.5, 4.9) == {"a": None}  # 7.5, 7.5, 7.35
    assert penalty_rule(rows, 0.5, 5.1) == {"a": rows[0]}  # 7.5, 7.5, 7.65


def test_a_tie_goes_to_the_smaller_rank_and_dense_comes_last() -> None:
    rows = [row(8, 5.0, 50.0), row(4, 5.0, 50.0)]
    assert penalty_rule(rows, 1.0, 5.0) == {"a": rows[1]}
    assert penalty_rule([row(4, 5.0, 0.0)], 1.0, 5.0) == {"a": row(4, 5.0, 0.0)}


def test_scores_and_reductions_are_rounded_first() -> None:
    rows = [row(1, 5.004, 50.004), row(2, 5.001, 50.0)]
    assert penalty_rule(rows, 1.0, 9.0) == {"a": rows[0]}


def test_a_layer_that_grew_counts_as_one_that_did_not_shrink() -> None:
    rows = [row(1, 5.0, -40.0)]
    assert penalty_rule(rows, 1.0, 5.0) == {"a": rows[0]}


@pytest.mark.parametrize("penalty", [-1.0, math.nan, math.inf])
def test_a_penalty_is_not_negative(penalty: float) -> None:
    with pytest.raises(BudgetError, match="penalty must be 0 or more"):
        penalty_rule([row(1, 1.0, 1.0)], penalty, 1.0)


# -- shapes alone


def test_a_uniform_rank_takes_the_method_that_fits_and_no_more_than_it_holds() -> None:
    plan = uniform_rank(MIXED, 9, "spatial_svd")
    assert dict(plan) == {
        "conv": Factorization("spatial_svd", (9,)),  # 9 x 72 of 1152 weights
        "up": Factorization("spatial_svd", (9,)),
    }  # rank 8 of 8 makes the 1 x 1 convolution larger, 9 of 10 the matrix, and one is grouped


def test_a_uniform_ratio_keeps_that_share_of_every_layer() -> None:
    plan = uniform_ratio(MIXED, 0.5, "cp")
    assert list(plan) == ["conv", "fc", "point", "up"]
    assert plan["fc"] == Factorization("svd", (3,))  # 0.5 x 200 / 30
    assert plan["conv"] == Factorization("cp", (19,))  # 0.5 x 1152 / 30


@pytest.mark.parametrize("make", [
    lambda: uniform_rank(MIXED, 0, "cp"),
    lambda: uniform_ratio(MIXED, 1.0, "cp"),
    lambda: energy_threshold(MIXED, WEIGHTS, 1.5, "svd"),
    lambda: evbmf(MIXED, WEIGHTS, "svd", weakening=0.0),
    lambda: evbmf_rank(np.eye(3), noise_variance=0.0),
])  # fmt: skip
def test_a_parameter_out_of_its_range_is_named(make: Callable[[], object]) -> None:
    with pytest.raises(PlanError, match=r"got (0|1\.0|1\.5|0\.0)$"):
        make()


def test_random_plans_differ_and_come_from_the_choices(rng: torch.Generator) -> None:
    choices = {
        "fc": [Factorization("svd", (r,)) for r in (1, 2)],
        "point": [Factorization("svd", (3,))],
    }
    plans = random_plans(MIXED, choices, 5, rng)
    assert len(set(plans)) == 5  # all there are: 3 x 2 - 1
    assert DENSE not in plans
    assert all(choice in choices[name] for plan in plans for name, choice in plan.items())
    assert random_plans(MIXED, choices, 2, torch.Generator().manual_seed(0)) == plans[:2]


def test_more_random_plans_than_exist_are_refused(rng: torch.Generator) -> None:
    with pytest.raises(PlanError, match="asked for 2 different plans; the choices make only 1"):
        random_plans([FC], {"fc": [Factorization("svd", (1,))]}, 2, rng)


# -- weights


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.64, 1), (0.65, 2), (0.99, 2), (1.0, 3)])
def test_energy_is_the_share_of_the_squared_singular_values(energy: float, rank: int) -> None:
    # 64, 35.5 and 0.5 of 100
    assert energy_rank(np.diag(np.sqrt([35.5, 64.0, 0.5])), energy) == rank


def test_a_matrix_of_zeros_has_energy_rank_one() -> None:
    assert energy_rank(np.zeros((3, 4)), 0.9) == 1


def test_energy_ranks_are_those_of_the_unfoldings() -> None:
    kernel = torch.zeros(8, 16, 3, 3)
    kernel[:2, :3] = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weights = {"conv": kernel, "up": torch.zeros(16, 8, 4, 4).index_fill(1, torch.tensor([1]), 1)}
    plan = energy_threshold((CONV, UP), weights, 1.0, "tucker2")
    assert plan == RankPlan(
        {"conv": Factorization("tucker2", (2, 3)), "up": Factorization("tucker2", (1, 1))}
    )
    [spatial] = energy_threshold([CONV], weights, 1.0, "spatial_svd").values()
    assert spatial.rank == (6,)  # 2 outputs x 3 columns against 3 inputs x 3 rows


def test_no_unfolding_has_the_rank_of_cp() -> None:
    with pytest.raises(PlanError, match="conv: no unfolding"):
        energy_threshold(MIXED, WEIGHTS, 0.9, "cp")


def test_a_weight_with_nan_is_named() -> None:
    with pytest.raises(NonFiniteError, match="fc: the weight holds NaN"):
        energy_threshold([FC], {"fc": torch.full((20, 10), math.nan)}, 0.9, "svd")


@pytest.mark.parametrize("noise", [0.0, 1e-6, 0.01, 0.3])
@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (60, 60)])
def test_evbmf_finds_the_rank_under_noise(shape: tuple[int, int], noise: float) -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(shape[0], 5)) @ rng.normal(size=(5, shape[1]))
    assert evbmf_rank(signal + noise * rng.normal(size=shape)) == 5


def test_evbmf_finds_nothing_in_noise() -> None:
    assert evbmf_rank(np.random.default_rng(1).normal(size=(80, 120))) == 0
    assert evbmf_rank(np.zeros((4, 6))) == 0


def test_evbmf_does_not_depend_on_scale_or_orientation() -> None:
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 50)) + rng.normal(size=(30, 50))
    ranks = {evbmf_rank(m) for m in (matrix, matrix.T, 1e-6 * matrix, 1e6 * matrix)}
    assert len(ranks) == 1


def test_a_given_noise_variance_sets_the_threshold() -> None:
    # alpha = 1: tau = 2.51286 solves log(1 + tau) = tau / 2, and the square of a singular value
    # must exceed M sigma^2 (1 + tau) (1 + 1 / tau) = 4 x 4.911, the singular value 4.432.
    assert evbmf_rank(np.diag([5.0, 4.45, 4.40, 1.0]), noise_variance=1.0) == 2


def test_evbmf_ranks_can_be_weakened() -> None:
    rng = np.random.default_rng(0)
    weight = torch.tensor(rng.normal(size=(40, 2)) @ rng.normal(size=(2, 40)))
    layer = LayerProfile("fc", "linear", (40, 40))
    assert evbmf([layer], {"fc": weight}, "tucker2")["fc"].rank == (2,)
    assert evbmf([layer], {"fc": weight}, "svd", weakening=0.9)["fc"].rank == (6,)  # 2 + 0.1 x 38


# -- greedy


def greedy_table() -> tuple[SensitivityTable, list[LayerProfile]]:
    """Two matrices of 210 and 410 parameters, and rises for their ranks 4, 2 and 1."""
    layers = [LayerProfile("a", "linear", (10, 20)), LayerProfile("b", "linear", (10, 40))]
    rises = {"a": (1, 3, 5), "b": (2, 6, 4)}  # b's curve is not monotone: 2, 5, 5
    rows = [
        Row(n.name, n.kind, c, n.params(c), n.macs(c), scored(rise))
        for n in layers
        for c, rise in zip(
            [Factorization("svd", (r,)) for r in (4, 2, 1)], rises[n.name], strict=True
        )
    ]
    return SensitivityTable(scored(0), tuple(rows)), layers


@pytest.mark.parametrize(
    ("target", "ranks"),
    [  # cost at each threshold, 0: 210 + 410; 1: 130 + 410; 2: 130 + 210; 3: 70 + 210; 5: 40 + 60
        (620, {}),
        (619, {"a": 4}),
        (540, {"a": 4}),
        (539, {"a": 4, "b": 4}),
        (339, {"a": 2, "b": 4}),
        (279, {"a": 1, "b": 1}),
        (100, {"a": 1, "b": 1}),
    ],
)
def test_greedy_raises_one_threshold_until_the_target_is_met(
    target: float, ranks: dict[str, int]
) -> None:
    table, layers = greedy_table()
    plan = greedy(table, layers, params_cost, target)
    assert plan == RankPlan({name: Factorization("svd", (r,)) for name, r in ranks.items()})


def test_greedy_says_what_can_be_reached() -> None:
    table, layers = greedy_table()
    with pytest.raises(BudgetError, match=r"99 cannot be reached; .* together cost 100"):
        greedy(table, layers, params_cost, 99)


def test_greedy_always_meets_its_target() -> None:
    table = published_table()
    for target in (1.2e6, 3e6, 8e6, 19e6):
        plan = greedy(table, LAYERS, params_cost, target)
        assert cost_of(params_cost, LAYERS, plan) <= target
