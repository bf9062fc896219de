from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from ard.plan import Factorization
from ard.search.allocation import (
    MANY,
    N_BINS,
    Knapsack,
    Option,
    allocate,
    monotone,
    undominated,
)


def option(cost: float, damage: float) -> Option:
    return Option(Factorization("svd", (max(int(cost), 1),)) if damage else None, cost, damage)


def dense(cost: float = 100) -> Option:
    return Option(None, cost, 0.0)


def brute_force(layers: Sequence[Sequence[Option]], allowed: float) -> float:
    return min(
        sum(o.cost for o in chosen)
        for chosen in itertools.product(*layers)
        if math.fsum(o.damage for o in chosen) <= allowed
    )


def problems(damage: st.SearchStrategy[float]) -> st.SearchStrategy[list[list[Option]]]:
    """A few layers, each dense or one of up to four cheaper options."""
    choice = st.builds(option, st.integers(1, 99), damage)
    layer = st.lists(choice, max_size=4).map(lambda options: [dense(), *options])
    return st.lists(layer, min_size=1, max_size=4)


def total(chosen: Sequence[Option], attribute: str) -> float:
    return math.fsum(getattr(o, attribute) for o in chosen)


# -- allocate


def test_two_layers_share_what_is_allowed() -> None:
    layers = [
        [dense(10), option(6, 1.0), option(2, 3.0)],
        [dense(10), option(5, 2.0), option(1, 4.0)],
    ]
    # 3 + 0 costs 12, 1 + 2 costs 11, 0 + 2 costs 15; 3 + 2 and 0 + 4 are beyond 3.2.
    assert [o.damage for o in allocate(layers, 3.2)] == [1.0, 2.0]


@pytest.mark.parametrize("allowed", [5e-324, 1.1125369292536007e-308])
def test_next_to_nothing_allowed_is_nothing_allowed(allowed: float) -> None:
    assert [o.damage for o in allocate([[dense(), option(1, 1.0)]], allowed)] == [0.0]


def test_one_option_is_chosen_for_each_layer_in_their_order() -> None:
    layers = [[dense(i), option(i / 2, 1.0)] for i in range(1, 6)]
    for options, chosen in zip(layers, allocate(layers, 2.0), strict=True):
        assert chosen in options


@given(problems(st.integers(1, 20).map(float)), st.integers(1, 40))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_whole_bins_of_damage_give_the_brute_force_optimum(
    layers: list[list[Option]], allowed: int
) -> None:
    width = allowed / N_BINS
    in_bins = [
        [Option(o.choice, o.cost, o.damage * 50 * width) for o in options] for options in layers
    ]
    chosen = allocate(in_bins, allowed)
    assert total(chosen, "cost") == brute_force(in_bins, allowed * (1 + 1e-12))


@given(problems(st.floats(1e-9, 50)), st.floats(0, 100))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_damages_stay_within_what_is_allowed_and_cost_little_more_than_the_optimum(
    layers: list[list[Option]], allowed: float
) -> None:
    chosen = allocate(layers, allowed)
    assert total(chosen, "damage") <= allowed * (1 + 1e-9)
    assert total(chosen, "cost") >= brute_force(layers, allowed * (1 + 1e-9))
    # Rounding damages up takes at most one bin a layer away.
    less = allowed * (1 - len(layers) / N_BINS)
    assert total(chosen, "cost") <= brute_force(layers, less)


def float_problems(scale: float) -> st.SearchStrategy[list[list[Option]]]:
    """Milliseconds: no multiple of anything, and some choices slower than the dense layer."""
    choice = st.builds(
        lambda cost, bins: Option(Factorization("svd", (1,)), scale * cost, 50.0 * bins),
        st.floats(0.001, 3),
        st.integers(1, 20),
    )
    layer = st.tuples(st.floats(0.001, 2), st.lists(choice, max_size=4)).map(
        lambda drawn: [Option(None, scale * drawn[0], 0.0), *drawn[1]]
    )
    return st.lists(layer, min_size=1, max_size=4)


@given(st.sampled_from([1.0, 1e-9, 1e9]).flatmap(float_problems), st.integers(1, 40))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_costs_that_are_no_whole_numbers_give_the_brute_force_optimum(
    layers: list[list[Option]], bins: int
) -> None:
    allowed = float(bins * N_BINS)  # in which every damage is a whole number of bins
    in_bins = [[Option(o.choice, o.cost, o.damage * bins) for o in options] for options in layers]
    chosen = allocate(in_bins, allowed)
    assert total(chosen, "damage") <= allowed
    assert total(chosen, "cost") == pytest.approx(brute_force(in_bins, allowed), rel=1e-12)


def test_a_choice_that_is_slower_than_the_dense_layer_is_never_taken() -> None:
    layers = [[dense(1.0), option(1.25, 0.1)], [dense(1.0), option(0.75, 0.1)]]
    assert [o.cost for o in allocate(layers, 10.0)] == [1.0, 0.75]


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_a_cost_that_is_no_number_is_refused(cost: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        allocate([[dense(), Option(Factorization("svd", (1,)), cost, 1.0)]], 1.0)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_cheapest_options_are_taken_when_exactly_their_damage_is_allowed(
    damages: list[float],
) -> None:
    layers = [[dense(), option(1, damage)] for damage in damages]
    assert [o.cost for o in allocate(layers, sum(damages))] == [1] * len(damages)


def test_nothing_allowed_leaves_every_layer_dense() -> None:
    assert allocate([[dense(), option(1, 1e-300)]] * 3, 0.0) == [dense()] * 3


def test_options_without_damage_are_free_even_when_nothing_is_allowed() -> None:
    free = Option(Factorization("svd", (1,)), 3, 0.0)
    assert allocate([[dense(), free], [dense(), option(1, 1.0)]], 0.0) == [free, dense()]


def test_a_layer_that_always_does_damage_is_refused() -> None:
    with pytest.raises(ValueError, match="without damage"):
        allocate([[option(1, 5.0)]], 1.0)


def test_a_negative_allowance_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        allocate([[dense()]], -1.0)


# -- monotone


def many_layers(seed: int) -> list[list[Option]]:
    """More layers than are solved by bins, each with a few options of random cost and damage."""
    rng = np.random.default_rng(seed)
    return [
        [Option(None, 10.0, 0.0)]
        + [
            Option(Factorization("svd", (i + 1,)), float(cost), float(damage))
            for i, (cost, damage) in enumerate(zip(10 * rng.random(4), rng.random(4), strict=True))
        ]
        for _ in range(MANY + 50)
    ]


def optimum_of_parts(layers: list[list[Option]], allowed: float) -> float:
    """The lowest cost if layers could take parts of options: nothing whole costs less."""
    costs = np.array([option.cost for options in layers for option in options])
    damages = np.array([[option.damage for options in layers for option in options]])
    one_each = np.kron(np.eye(len(layers)), np.ones(len(layers[0])))
    found = linprog(costs, damages, [allowed], one_each, np.ones(len(layers)), bounds=(0, 1))
    return float(found.fun)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_of_many_layers_the_cost_is_above_the_optimum_by_less_than_one_option_saves(share) -> None:
    layers = many_layers(0)
    allowed = share * sum(min(options, key=lambda o: o.cost).damage for options in layers)
    chosen = allocate(layers, allowed)
    assert all(option in options for option, options in zip(chosen, layers, strict=True))
    assert sum(option.damage for option in chosen) <= allowed * (1 + 1e-12)
    best = optimum_of_parts(layers, allowed)
    assert best - 1e-6 <= sum(option.cost for option in chosen) < best + 10


def test_of_many_layers_nothing_allowed_and_everything_allowed_are_the_ends() -> None:
    layers = many_layers(1)
    knapsack = Knapsack(layers)
    assert all(option.choice is None for option in knapsack.within(0.0))
    cheapest = [min(options, key=lambda o: o.cost) for options in layers]
    assert knapsack.within(sum(option.damage for option in cheapest) + 1e-9) == cheapest
    with pytest.raises(ValueError, match="without damage"):
        Knapsack([*layers, [Option(None, 1.0, 0.5), Option(None, 0.5, 99.0)]]).within(3.0)


@pytest.mark.parametrize("n_layers", [3, MANY + 1])
def test_the_least_step_saves_something_and_less_saves_nothing(n_layers: int) -> None:
    layers = (2 * many_layers(2))[:n_layers]
    knapsack = Knapsack(layers)
    step = knapsack.least_step()
    assert step is not None
    assert knapsack.within(step) != knapsack.within(0.0) == knapsack.within(0.99 * step)
    assert Knapsack([options[:1] for options in layers]).least_step() is None


def test_neighbours_in_the_wrong_order_are_pooled_to_their_mean() -> None:
    # Pooling 4 and 2 gives 3, 3; that is above the 2.5 behind it, so all three become 17/6.
    assert monotone([1, 4, 2, 2.5, 6]) == pytest.approx([1, 17 / 6, 17 / 6, 17 / 6, 6])


def test_a_sequence_that_never_falls_is_left_alone() -> None:
    assert monotone([-1, 0, 0, 2]) == [-1, 0, 0, 2]


def test_nothing_stays_nothing() -> None:
    assert monotone([]) == []


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
@settings(derandomize=True)
def test_the_result_never_falls_keeps_its_mean_and_is_its_own_result(values: list[float]) -> None:
    result = monotone(values)
    assert all(a <= b for a, b in itertools.pairwise(result))
    assert math.fsum(result) == pytest.approx(math.fsum(values), abs=1e-9)
    assert monotone(result) == pytest.approx(result, abs=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
@settings(derandomize=True)
def test_no_other_sequence_that_never_falls_is_nearer(values: list[int]) -> None:
    def distance(other: Sequence[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(values, other, strict=True))

    nearest = distance(monotone(values))
    others = itertools.combinations_with_replacement([k / 2 for k in range(9)], len(values))
    assert all(nearest <= distance(other) + 1e-9 for other in others)


# -- undominated


def test_options_beaten_in_both_cost_and_damage_are_dropped() -> None:
    good = [dense(10), option(7, 1), option(4, 2), option(1, 9)]
    beaten = [option(8, 1.5), option(4, 3), option(5, 8)]
    assert undominated([*beaten, *good]) == good


@given(st.lists(st.builds(option, st.integers(1, 20), st.integers(1, 20)), min_size=1))
@settings(derandomize=True)
def test_what_is_kept_gets_cheaper_as_it_hurts_more_and_beats_what_is_not(
    options: list[Option],
) -> None:
    kept = undominated(options)
    assert all(a.cost > b.cost and a.damage < b.damage for a, b in itertools.pairwise(kept))
    assert all(any(k.cost <= o.cost and k.damage <= o.damage for k in kept) for o in options)
