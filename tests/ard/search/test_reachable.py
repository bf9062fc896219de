from __future__ import annotations

import itertools

import pytest
from contracts import scored
from tiny import SmallNet

from ard.assembly.surgery import apply_plan
from ard.costs.cost import LayerCost, macs_cost, params_cost
from ard.layers import Profile, profile_layers
from ard.measuring.score import Score
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import Factorization, Replacement
from ard.search.reachable import Reachable, reachable_plans, to_text
from nas_gan.networks.latents import latent_bank


@pytest.fixture(scope="module")
def profile() -> Profile:
    return profile_layers(SmallNet(), latent_bank(2, 8, 0))


@pytest.fixture(scope="module")
def table(profile: Profile) -> SensitivityTable:
    """Every spatial or plain SVD of every layer; a rank does the damage that is its inverse."""
    choices = [
        (layer.name, choice)
        for layer in profile.layers
        for method in ("svd", "spatial_svd")
        for choice in layer.rank_grid(method, (0.6, 0.4, 0.2, 0.1))
    ]
    scores: dict[tuple[str, Replacement], Score] = {
        (name, f): scored(len(name) / f.rank[0], half=0.1) for name, f in choices
    }
    return SensitivityTable.of(scored(0), scores, profile.layers)


@pytest.fixture(scope="module", params=[params_cost, macs_cost])
def rows(
    request: pytest.FixtureRequest, table: SensitivityTable, profile: Profile
) -> tuple[Reachable, ...]:
    return reachable_plans(table, profile, profile.layers, request.param)


def test_parameters_are_those_of_the_generator_that_the_plan_builds(
    rows: tuple[Reachable, ...],
) -> None:
    for row in rows:
        built = apply_plan(SmallNet(), row.plan)
        assert row.params == sum(p.numel() for p in built.parameters())


def test_multiply_adds_are_those_of_the_generator_that_the_plan_builds(
    rows: tuple[Reachable, ...],
) -> None:
    for row in rows:
        built = apply_plan(SmallNet(), row.plan)
        assert row.macs == profile_layers(built, latent_bank(2, 8, 0), min_channels=1).total_macs


@pytest.mark.parametrize("cost", [params_cost, macs_cost])
def test_the_last_row_is_the_cheapest_choice_everywhere(
    cost: LayerCost, table: SensitivityTable, profile: Profile
) -> None:
    smallest = reachable_plans(table, profile, profile.layers, cost)[-1]
    cheapest = {}
    for layer in profile.layers:
        prices = {row.choice: cost(layer, row.choice) for row in table.of_layer(layer.name)}
        cheapest[layer.name] = min(prices, key=lambda choice: prices[choice])
    assert smallest.cost == sum(cost(x, cheapest[x.name]) for x in profile.layers)
    assert smallest.cost_ratio == sum(cost(x, None) for x in profile.layers) / smallest.cost


def test_every_row_is_cheaper_and_does_more_damage_than_the_one_before(
    rows: tuple[Reachable, ...],
) -> None:
    for milder, harsher in itertools.pairwise(rows):
        assert harsher.cost < milder.cost
        assert harsher.cost_ratio > milder.cost_ratio
        assert harsher.expected >= milder.expected
    assert len({row.plan for row in rows}) == len(rows)


def test_a_layer_without_rows_stays_dense(table: SensitivityTable, profile: Profile) -> None:
    without = SensitivityTable(table.dense, table.of_layer("conv1"))
    for row in reachable_plans(without, profile, profile.layers, params_cost):
        assert set(row.plan) <= {"conv1"}


def test_one_choice_alone_is_one_row_by_hand(profile: Profile) -> None:
    # 16 x 8 by rank 2: 48 of 256 * 8 weights less.
    choice = Factorization("svd", (2,))
    table = SensitivityTable.of(scored(0), {("linear", choice): scored(3.0)}, profile.layers)
    *_, row = reachable_plans(table, profile, profile.layers, params_cost)
    assert row.params == profile.total_params - 256 * 8 + 2 * (256 + 8)
    assert row.expected == 3.0


def test_the_text_ends_with_the_smallest(rows: tuple[Reachable, ...], profile: Profile) -> None:
    head, _, *lines = to_text(rows, profile, 40.0, "FD").splitlines()
    assert head.startswith("reachable")
    assert "ΔFD" in head
    assert len(lines) == len(rows)
    assert lines[-1].startswith("smallest")
    assert f"{rows[-1].params:,}" in lines[-1]
    assert f"{rows[-1].expected / 40:.0%}" in lines[-1]
