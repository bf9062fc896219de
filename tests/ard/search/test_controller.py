from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from contracts import scored
from hypothesis import given, settings
from hypothesis import strategies as st

from ard.costs.cost import macs_cost, params_cost
from ard.errors import BudgetError
from ard.layers import LayerProfile
from ard.measuring.measurement import History, Measurement
from ard.measuring.sensitivity import Row, SensitivityTable
from ard.plan import DENSE, Factorization, RankPlan, Replacement
from ard.search.allocation import Option
from ard.search.controller import BudgetController
from ard.search.ladder import Ladder, layer_options

FRACTIONS = (0.6, 0.35, 0.2, 0.1, 0.05)
JOINT_HALF = 0.05  # half the width of the interval of a measured whole plan


@dataclass
class World:
    """A made-up generator: true damages of single layers, and what a joint plan comes out at.

    A layer that keeps the share f of its parameters does the damage `hurt * (1 - f)^2 / f`. The
    upper end of a whole plan, recovered, is `recovered` of the sum, and `interaction` adds to the
    sum what neighbouring layers do to each other. `m` rounds of recovery leave `m^-pace` of that,
    whichever plans they were of.
    """

    hurts: dict[str, float]
    recovered: Callable[[float], float] = lambda total: total / 2
    interaction: float = 0.0
    table_noise: float = 0.0
    joint_noise: float = 0.0
    pace: float = 0.0
    methods: tuple[str, ...] = ("tucker2",)
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        sizes = itertools.cycle([(64, 64, 3, 3), (32, 128, 1, 1), (128, 128, 3, 3), (64, 32, 5, 5)])
        self.layers = [
            LayerProfile(name, "conv2d", size, positions=16)
            for name, size in zip(self.hurts, sizes, strict=False)
        ]
        self.damages: dict[tuple[str, Replacement], float] = {
            (layer.name, choice): self.damage(layer, choice)
            for layer in self.layers
            for method in (self.methods if layer.shape[2] > 1 else ("svd",))
            for choice in layer.rank_grid(method, FRACTIONS)
        }

    def damage(self, layer: LayerProfile, choice: Replacement) -> float:
        kept = layer.params(choice) / layer.params()
        return self.hurts[layer.name] * (1 - kept) ** 2 / kept

    def table(self) -> SensitivityTable:
        rows = []
        for (name, choice), damage in self.damages.items():
            layer = next(layer for layer in self.layers if layer.name == name)
            seen = scored(damage + self.rng.gauss(0, self.table_noise), 2 * self.table_noise)
            rows.append(Row(name, "conv2d", choice, layer.params(choice), layer.macs(choice), seen))
        return SensitivityTable(scored(0), tuple(rows))

    def upper(self, plan: RankPlan) -> float:
        damages = [self.damages[name, choice] for name, choice in plan.items()]
        together = sum(math.sqrt(a * b) for a, b in itertools.pairwise(damages))
        return self.recovered(sum(damages) + self.interaction * together)

    def measure(self, plan: RankPlan, history: History = ()) -> Measurement:
        left = self.upper(plan) * (len(history) + 1) ** -self.pace
        upper = left + self.rng.gauss(0, self.joint_noise)
        score = scored(upper - JOINT_HALF, JOINT_HALF)
        return Measurement("recovered", plan, score, history=history)

    def cost(self, plan: RankPlan) -> int:
        return sum(layer.params(plan.get(layer.name)) for layer in self.layers)

    def cheapest(self, budget: float) -> int:
        """The cost of the best of all plans, by trying every one."""
        choices = [
            [None, *(choice for name, choice in self.damages if name == layer.name)]
            for layer in self.layers
        ]
        plans = (
            RankPlan({layer.name: c for layer, c in zip(self.layers, chosen, strict=True) if c})
            for chosen in itertools.product(*choices)
        )
        return min(self.cost(plan) for plan in plans if self.upper(plan) <= budget)


def controller(
    world: World, budget: float, max_trials: int = 9, max_rounds: int = 1
) -> BudgetController:
    return BudgetController(
        world.table(),
        world.layers,
        params_cost,
        budget,
        max_trials=max_trials,
        max_rounds=max_rounds,
    )


def finish(search: BudgetController, world: World) -> list[RankPlan]:
    """Ask and tell to the end; the plans in the order in which they were asked for."""
    asked: list[RankPlan] = []
    while plans := search.ask(1):
        assert len(asked) < 100
        asked += plans
        search.tell(world.measure(plans[0]))
    return asked


def finish_in_rounds(
    world: World, budget: float, max_trials: int = 6, max_rounds: int = 8
) -> tuple[BudgetController, list[Measurement]]:
    """Ask and tell to the end; the outcomes in their order."""
    search = controller(world, budget, max_trials, max_rounds)
    told: list[Measurement] = []
    while plans := search.ask(1):
        assert len(told) < 100
        told.append(world.measure(plans[0], search.history_of(plans[0])))
        search.tell(told[-1])
    return search, told


HURTS = {"a": 0.4, "b": 0.03, "c": 1.5, "d": 0.2}
WORLDS: dict[str, World] = {
    "recovery halves": World(HURTS, lambda total: total / 2),
    "recovery does nothing": World(HURTS, lambda total: total),
    "recovery leaves a tenth": World(HURTS, lambda total: total / 10),
    "twice as bad together": World(HURTS, lambda total: 2 * total),
    "convex": World(HURTS, lambda total: total**2 / 5),
    "concave": World(HURTS, lambda total: math.sqrt(total)),
    "neighbours interact": World(HURTS, interaction=1.0),
    "a cliff": World(HURTS, lambda total: total / 4 if total < 3 else 100 + total),
}


@pytest.mark.parametrize("budget", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", WORLDS)
def test_nine_trials_find_a_plan_near_the_cheapest_of_all(name: str, budget: float) -> None:
    world = WORLDS[name]
    search = controller(world, budget)
    asked = finish(search, world)
    best = search.best()
    assert best is not None
    assert best.score.ci_high <= budget
    # Near: what is saved is at least four fifths of what could be saved.
    possible = world.cost(DENSE) - world.cheapest(budget)
    assert world.cost(DENSE) - world.cost(best.plan) >= 0.8 * possible
    assert len(asked) == len(set(asked)) <= 9


@pytest.mark.parametrize("seed", range(8))
def test_noisy_scores_cost_some_savings_but_never_the_budget(seed: int) -> None:
    world = World(HURTS, table_noise=0.15, joint_noise=0.1, rng=random.Random(seed))
    search = controller(world, 1.0)
    finish(search, world)
    best = search.best()
    assert best is not None
    assert best.score.ci_high <= 1.0
    possible = world.cost(DENSE) - world.cheapest(1.0)
    assert world.cost(DENSE) - world.cost(best.plan) >= 0.6 * possible


def test_a_budget_above_everything_is_settled_by_the_first_plan() -> None:
    world = WORLDS["recovery halves"]
    search = controller(world, 1e6)
    [plan] = finish(search, world)
    assert world.cost(plan) == world.cheapest(1e6)


def test_a_budget_that_nothing_meets_ends_at_the_mildest_plan() -> None:
    world = World(HURTS, lambda total: 50 + total)
    search = controller(world, 1.0)
    asked = finish(search, world)
    assert search.best() is None
    closest = search.closest()
    assert closest is not None
    assert closest.plan == asked[-1] != DENSE
    mildest = min(world.damages, key=world.damages.__getitem__)
    assert closest.plan == RankPlan(dict([mildest]))
    assert len(asked) <= 6


def test_a_budget_of_zero_takes_only_what_raises_nothing() -> None:
    world = World({"free": 0.0, "a": 0.4, "also free": 0.0}, lambda total: total - 1e-3)
    search = controller(world, 0.0)
    finish(search, world)
    best = search.best()
    assert best is not None
    assert set(best.plan) == {"free", "also free"}


def test_a_budget_of_zero_with_nothing_free_has_no_best() -> None:
    world = WORLDS["recovery halves"]
    search = controller(world, 0.0)
    finish(search, world)
    assert search.best() is None
    assert search.closest() is not None


@pytest.mark.parametrize("max_trials", [1, 2, 3])
def test_no_more_trials_than_allowed_are_asked_for(max_trials: int) -> None:
    world = WORLDS["twice as bad together"]
    search = controller(world, 1.0, max_trials)
    assert len(finish(search, world)) <= max_trials
    assert search.ask(1) == ()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_plans_side_by_side_lie_apart(n: int) -> None:
    world = WORLDS["recovery halves"]
    plans = controller(world, 1.0).ask(n)
    assert len(set(plans)) == n
    uppers = sorted(world.upper(plan) for plan in plans)
    assert all(high > 1.15 * low for low, high in itertools.pairwise(uppers))


@pytest.mark.parametrize("name", WORLDS)
def test_three_plans_at_a_time_find_in_two_rounds_what_is_near_the_cheapest(name: str) -> None:
    world = WORLDS[name]
    search = controller(world, 1.0)
    rounds = 0
    while plans := search.ask(3):
        rounds += 1
        for plan in plans:
            search.tell(world.measure(plan))
    best = search.best()
    assert best is not None
    assert len(search.trials) <= 9
    assert rounds <= 4
    possible = world.cost(DENSE) - world.cheapest(1.0)
    assert world.cost(DENSE) - world.cost(best.plan) >= 0.75 * possible


def test_the_order_in_which_outcomes_come_does_not_matter() -> None:
    world = WORLDS["neighbours interact"]
    first, second = (controller(world, 1.0) for _ in range(2))
    plans = first.ask(3)
    assert second.ask(3) == plans
    for plan in plans:
        first.tell(world.measure(plan))
    for plan in reversed(plans):
        second.tell(world.measure(plan))
    assert first.ask(2) == second.ask(2) != ()


def test_plans_that_are_still_being_measured_are_not_asked_for_again() -> None:
    world = WORLDS["recovery halves"]
    search = controller(world, 1.0, max_trials=4)
    asked = [*search.ask(2), *search.ask(1), *search.ask(3)]
    assert len(asked) == len(set(asked)) <= 4
    assert search.ask(1) == ()
    search.tell(world.measure(asked[1]))
    assert [m.plan for m in search.trials] == [asked[1]]


def test_rungs_cost_less_and_hurt_more_from_one_to_the_next() -> None:
    world = World({f"l{i}": 0.1 * (i + 1) for i in range(8)})
    rungs = Ladder(world.table(), world.layers, params_cost).rungs()
    assert rungs[0].plan == DENSE
    assert len(rungs) > 20
    for milder, harsher in itertools.pairwise(rungs):
        assert harsher.cost < milder.cost
        assert harsher.damage > milder.damage
    for rung in rungs:
        assert rung.cost == world.cost(rung.plan)
        damages = [world.damages[pair] for pair in rung.plan.items()]
        assert rung.damage == pytest.approx(sum(damages))
    # Among the plans that it offers, no gap is wider than the step of a single choice must make it.
    ratios = [a.cost / b.cost for a, b in itertools.pairwise(rungs[1:])]
    assert max(ratios) < 1.5


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.11])
def test_the_mildest_plan_that_reaches_a_cost_hurts_least_of_all_that_do(share: float) -> None:
    world = WORLDS["recovery does nothing"]
    limit = share * world.cost(DENSE)
    rung = Ladder(world.table(), world.layers, params_cost).reaching(limit)
    every = itertools.product(
        *([None, *(c for n, c in world.damages if n == layer.name)] for layer in world.layers)
    )
    plans = [
        RankPlan({layer.name: c for layer, c in zip(world.layers, chosen, strict=True) if c})
        for chosen in every
    ]
    least = min(world.upper(plan) for plan in plans if world.cost(plan) <= limit)
    assert rung is not None
    assert world.cost(rung.plan) == rung.cost <= limit
    assert rung.damage <= 1.01 * least


def test_a_cost_below_that_of_the_cheapest_plan_cannot_be_reached() -> None:
    world = WORLDS["recovery does nothing"]
    ladder = Ladder(world.table(), world.layers, params_cost)
    cheapest = ladder.rungs()[-1]
    assert ladder.reaching(cheapest.cost - 1) is None
    assert ladder.reaching(cheapest.cost) == cheapest


def test_layers_without_rows_stay_dense() -> None:
    world = World(HURTS)
    world.damages = {key: damage for key, damage in world.damages.items() if key[0] != "c"}
    search = controller(world, 4.0)
    assert all("c" not in plan for plan in finish(search, world))
    assert search.best() is not None


def test_a_table_without_rows_leaves_nothing_but_the_dense_plan() -> None:
    world = World(HURTS)
    world.damages = {}
    search = controller(world, 1.0)
    assert finish(search, world) == [DENSE]
    assert search.best() is not None


@pytest.mark.parametrize("budget", [0.15, 0.2, 1.0, 5.0])
def test_one_layer_alone_gets_its_largest_choice_within_budget(budget: float) -> None:
    world = World({"a": 0.4}, lambda total: total)
    search = controller(world, budget, max_trials=10)
    finish(search, world)
    best = search.best()
    assert best is not None
    assert world.cost(best.plan) == world.cheapest(budget)


def test_of_two_methods_the_one_that_hurts_less_is_chosen() -> None:
    world = World({"a": 0.4}, methods=("tucker2", "spatial_svd"))
    for name, choice in world.damages:
        if choice.method == "tucker2":
            world.damages[name, choice] *= 3
    search = controller(world, 1.0)
    assert {plan["a"].method for plan in finish(search, world)} == {"spatial_svd"}


# -- the reserve

NEAR = 1.02  # of the budget: by so much a plan misses in these searches


def outcomes_until(
    search: BudgetController, upper: Callable[[int, RankPlan], float], rejected: int = 0
) -> list[float]:
    """Ask and tell to the end, where the i-th outcome has the upper end `upper(i, plan)`.

    The first `rejected` winners are rejected on held-out latents.
    """
    told: list[float] = []
    while True:
        while plans := search.ask(1):
            assert len(told) < 100
            told.append(upper(len(told), plans[0]))
            score = scored(told[-1] - JOINT_HALF, JOINT_HALF)
            history = search.history_of(plans[0])
            search.tell(Measurement("recovered", plans[0], score, history=history))
        best = search.best()
        if best is None or not rejected:
            return told
        rejected -= 1
        search.reject(replace(best, stage="final", score=scored(NEAR, JOINT_HALF)))


def test_after_near_misses_a_search_goes_on_into_its_reserve() -> None:
    # The first plan is far below the budget and saves little; all the others miss by a little.
    world = World(HURTS)
    search = controller(world, 1.0, max_trials=6, max_rounds=8)
    assert len(outcomes_until(search, lambda i, plan: NEAR if i else 0.1)) == 6


def test_a_search_that_could_save_little_leaves_its_reserve() -> None:
    # The milder of two choices holds; the other, which saves a little more, misses by a little.
    world = World({"a": 0.4})
    [layer] = world.layers
    mild, harsh = layer.rank_grid("tucker2", (0.3, 0.29))
    world.damages = {("a", choice): world.damage(layer, choice) for choice in (mild, harsh)}
    search = controller(world, 1.0, max_trials=9, max_rounds=8)
    told = outcomes_until(search, lambda i, plan: 0.9 if plan["a"] == mild else NEAR)
    assert NEAR in told
    assert len(told) <= 6
    best = search.best()
    assert best is not None
    assert best.plan["a"] == mild


def test_a_rejected_plan_gives_a_round_beside_the_reserve() -> None:
    world = World(HURTS)
    search = controller(world, 1.0, max_trials=3, max_rounds=8)
    assert len(outcomes_until(search, lambda i, plan: NEAR if i else 0.1, rejected=1)) == 4


# -- rounds of recovery


@pytest.mark.parametrize("name", ["recovery halves", "convex", "concave", "neighbours interact"])
def test_rounds_that_help_find_a_cheaper_plan_with_as_many_recoveries(name: str) -> None:
    world = replace(WORLDS[name], pace=0.5)
    saved = {}
    for most in (1, 8):
        search, told = finish_in_rounds(world, 1.0, max_rounds=most)
        assert len(told) <= 6
        best = search.best()
        assert best is not None
        saved[most] = world.cost(best.plan)
    assert saved[8] < saved[1]


def test_every_round_of_a_plan_follows_the_one_before() -> None:
    _, told = finish_in_rounds(World(HURTS, pace=0.4), 0.5, max_trials=12, max_rounds=3)
    seen: set[History] = {()}
    for measured in told:
        assert measured.history in seen
        seen.add((*measured.history, measured.plan))
    assert 1 < max(Counter(measured.plan for measured in told).values()) <= 3


def damage_in(world: World) -> Callable[[RankPlan], float]:
    """The summed single-layer damage of a plan, as the controller sees it."""
    ladder = Ladder(world.table(), world.layers, params_cost)

    def damage(plan: RankPlan) -> float:
        found = ladder.damage_of(plan)
        assert found is not None
        return found

    return damage


def test_a_plan_begins_with_the_weights_of_a_milder_one_and_never_of_a_harsher_one() -> None:
    world = World(HURTS, pace=0.4)
    damage = damage_in(world)
    begun = 0
    for budget in (0.2, 0.5, 1.0, 2.0):
        _, told = finish_in_rounds(world, budget, max_trials=12)
        for measured in told:
            damages = [damage(plan) for plan in (*measured.history, measured.plan)]
            assert damages == sorted(damages)
            begun += len(set(damages)) > 1
    assert begun > 3


def test_of_all_milder_plans_the_one_with_the_most_rounds_is_sharpened() -> None:
    # The first plan misses, the next one is milder and holds; a harsher one starts with its rounds.
    world = World(HURTS, lambda total: 2 * total, pace=0.4)
    damage = damage_in(world)
    _, told = finish_in_rounds(world, 1.0, max_trials=12)
    for i, measured in enumerate(told):
        own = [m for m in told[:i] if m.plan == measured.plan]
        milder = [m for m in told[:i] if damage(m.plan) < damage(measured.plan)]
        most = max((m.rounds for m in own or milder), default=0)
        assert measured.rounds == most + 1


def test_plans_without_rounds_all_begin_with_the_dense_generator() -> None:
    _, told = finish_in_rounds(WORLDS["recovery halves"], 1.0, max_rounds=1)
    assert len(told) > 1
    assert all(not measured.history for measured in told)


def test_a_plan_within_the_budget_is_not_trained_on() -> None:
    search, told = finish_in_rounds(World(HURTS, pace=0.4), 0.5, max_trials=12)
    met = [measured.plan for measured in told if search.meets(measured)]
    assert len(met) == len(set(met))
    continued = {m.history for m in told if m.plan in m.history[-1:]}
    assert continued
    assert all(not search.meets(m) for m in told if (*m.history, m.plan) in continued)


def test_a_plan_beyond_the_budget_is_given_up_if_its_rounds_gain_nothing() -> None:
    def most_rounds(pace: float) -> int:
        _, told = finish_in_rounds(World(HURTS, pace=pace), 0.5, max_trials=12)
        rounds: dict[RankPlan, list[Measurement]] = {}
        for measured in told:
            rounds.setdefault(measured.plan, []).append(measured)
        return max(len(of) for of in rounds.values() if of[0].score.ci_high > 1.15 * 0.5)

    assert most_rounds(0.0) <= 2
    assert most_rounds(0.5) >= 4


def test_what_a_rejected_plan_was_trained_for_is_not_lost() -> None:
    world = World(HURTS, pace=0.5)
    search, _ = finish_in_rounds(world, 1.0, max_trials=2)
    best = search.best()
    assert best is not None
    # On held-out latents it misses by a hair; the next round begins with its weights.
    missed = Measurement("final", best.plan, scored(1.0, 0.01), history=best.history)
    search.reject(missed)
    [plan] = search.ask(1)
    assert best.plan in search.history_of(plan)


def test_the_step_to_held_out_latents_is_no_round_that_gained_nothing() -> None:
    world = World(HURTS, pace=0.5)
    search = controller(world, 1.0, max_trials=2, max_rounds=8)

    def told(upper: float) -> RankPlan:
        [plan] = search.ask(1)
        score = scored(upper - JOINT_HALF, JOINT_HALF)
        search.tell(Measurement("recovered", plan, score, history=search.history_of(plan)))
        return plan

    # A quarter less after the second round, and 0.25 worse on other latents: 1.33, then 1.06.
    plan = told(1.08)
    assert told(0.81) == plan
    score = scored(1.06 - JOINT_HALF, JOINT_HALF)
    search.reject(Measurement("final", plan, score, history=(plan,)))
    assert search.ask(1) == (plan,)
    assert search.history_of(plan) == (plan, plan)


def test_telling_about_another_round_than_the_one_asked_for_is_refused() -> None:
    world = World(HURTS)
    search = controller(world, 1.0)
    [plan] = search.ask(1)
    with pytest.raises(ValueError, match="after 2 rounds"):
        search.tell(world.measure(plan, (plan,)))


def test_rejecting_the_best_plan_makes_the_search_go_lower() -> None:
    world = WORLDS["recovery halves"]
    search = controller(world, 1.0)
    before = finish(search, world)
    first = search.best()
    assert first is not None
    search.reject(Measurement("final", first.plan, scored(1.2)))
    assert search.best() != first
    after = finish(search, world)
    assert not set(after) & set(before)
    second = search.best()
    assert second is not None
    assert world.cost(second.plan) > world.cost(first.plan)


def test_rejecting_plan_after_plan_comes_to_an_end() -> None:
    world = WORLDS["recovery halves"]
    search = controller(world, 1.0)
    rejected: list[RankPlan] = []
    finish(search, world)
    while (best := search.best()) is not None:
        assert best.plan not in rejected
        rejected.append(best.plan)
        search.reject(Measurement("final", best.plan, scored(9)))
        finish(search, world)
        assert len(rejected) < 30
    assert search.closest() is not None


def test_the_search_follows_the_cost_that_it_is_given() -> None:
    world = WORLDS["recovery halves"]
    world.layers[0] = LayerProfile("a", "conv2d", (64, 64, 3, 3), positions=4096)
    macs = BudgetController(world.table(), world.layers, macs_cost, 1.0)
    finish(macs, world)
    best = macs.best()
    assert best is not None
    assert "a" in best.plan  # nearly all multiply-adds are there


@pytest.mark.parametrize("name", WORLDS)
def test_trials_of_another_budget_let_four_trials_find_as_much_as_six(name: str) -> None:
    world = WORLDS[name]
    milder, alone = controller(world, 0.5), controller(world, 1.0, max_trials=6)
    finish(milder, world)
    knowing = BudgetController(
        world.table(), world.layers, params_cost, 1.0, known=milder.trials, max_trials=4
    )
    asked = finish(knowing, world)
    assert not {m.plan for m in milder.trials} & set(asked)  # none is measured again
    finish(alone, world)
    assert [m.plan for m in knowing.trials] == asked
    best, own = knowing.best(), alone.best()
    assert best is not None
    assert own is not None
    saved, of = (world.cost(DENSE) - world.cost(m.plan) for m in (best, own))
    assert saved >= 0.95 * of


def test_a_better_table_places_finished_trials_anew() -> None:
    world = WORLDS["recovery halves"]
    search = controller(world, 1.0)
    [first] = search.ask(1)
    search.tell(world.measure(first))
    # Everything does ten times the damage that was thought: so did what was allowed for the trial.
    harsher = World({name: 10 * hurt for name, hurt in HURTS.items()})
    before = search.plan_for(1.0)
    search.learn(harsher.table())
    assert search.plan_for(10.0) == before
    assert search.trials[0].plan == first
    asked = finish(search, world)
    assert first not in asked
    best = search.best()
    assert best is not None
    possible = world.cost(DENSE) - world.cheapest(1.0)
    assert world.cost(DENSE) - world.cost(best.plan) >= 0.8 * possible


def test_a_known_plan_with_a_choice_that_is_not_on_offer_is_ignored() -> None:
    world = WORLDS["recovery halves"]
    foreign = RankPlan({"a": Factorization("tucker2", (1, 1))})
    known = [Measurement("recovered", foreign, scored(0.1))]
    knowing = BudgetController(world.table(), world.layers, params_cost, 1.0, known=known)
    assert finish(knowing, world) == finish(controller(world, 1.0), world)
    best = knowing.best()
    assert best is not None
    assert best.plan != foreign


def test_telling_about_a_plan_that_was_not_asked_for_is_refused() -> None:
    world = WORLDS["recovery halves"]
    search = controller(world, 1.0)
    with pytest.raises(ValueError, match="asked for"):
        search.tell(world.measure(DENSE))


@pytest.mark.parametrize("budget", [-1.0, math.nan, math.inf])
def test_a_budget_that_is_no_rise_is_refused(budget: float) -> None:
    with pytest.raises(BudgetError, match="0 or more"):
        controller(WORLDS["convex"], budget)


def test_a_replayed_search_asks_for_the_same_plans() -> None:
    world = WORLDS["neighbours interact"]
    assert finish(controller(world, 1.0), world) == finish(controller(world, 1.0), world)


@given(
    hurts=st.lists(st.sampled_from([0.0, 1e-9, 0.01, 0.3, 2.0, 500.0]), min_size=1, max_size=6),
    budget=st.sampled_from([0.0, 1e-6, 0.1, 1.0, 30.0, 1e5]),
    factor=st.sampled_from([-1.0, 0.0, 0.05, 0.5, 1.0, 20.0]),
    noise=st.sampled_from([0.0, 0.1, 3.0]),
    max_trials=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_world_comes_to_an_end_without_asking_twice(
    hurts: list[float], budget: float, factor: float, noise: float, max_trials: int, seed: int
) -> None:
    world = World(
        {f"l{i}": hurt for i, hurt in enumerate(hurts)},
        lambda total: factor * total,
        table_noise=noise,
        joint_noise=noise,
        rng=random.Random(seed),
    )
    search = controller(world, budget, max_trials)
    asked = finish(search, world)
    assert 1 <= len(asked) == len(set(asked)) <= max_trials
    assert DENSE not in asked
    best, closest = search.best(), search.closest()
    assert closest is not None
    assert (best is not None) == (closest.score.ci_high <= budget)
    assert best is None or search.meets(best)
    assert [m.plan for m in search.trials] == asked


# -- the options of one layer


def row(rank: int, delta: float, half: float = 0.0, method: str = "spatial_svd") -> Row:
    choice = Factorization(method, (rank,))
    layer = LayerProfile("a", "conv2d", (64, 64, 3, 3))
    return Row("a", "conv2d", choice, layer.params(choice), 0, scored(delta, half))


LAYER = LayerProfile("a", "conv2d", (64, 64, 3, 3))


def damages(*rows: Row) -> list[float]:
    return [option.damage for option in layer_options(LAYER, rows, params_cost)]


def test_a_layer_may_always_stay_dense_and_that_does_no_damage() -> None:
    assert layer_options(LAYER, [], params_cost) == [Option(None, LAYER.params(), 0.0)]


def test_damages_of_one_method_are_made_monotone_in_cost() -> None:
    # In descending cost 1, 3, 2: the last two are pooled, and the cheaper of equals is kept.
    assert damages(row(10, 3.0), row(5, 2.0), row(20, 1.0)) == [0.0, 1.0, 2.5]


def test_a_damage_is_at_least_half_of_the_upper_end_of_its_interval() -> None:
    assert damages(row(10, 0.2, half=0.6)) == pytest.approx([0.0, 0.4])


def test_a_choice_that_seems_to_improve_the_score_still_counts_as_some_damage() -> None:
    [dense, choice] = damages(row(10, -2.0, half=0.5))
    assert dense < choice < 1e-9


def test_a_choice_that_is_larger_than_the_dense_layer_is_left_out() -> None:
    assert damages(row(64 * 3, 0.0)) == [0.0]


def test_a_plan_of_another_budget_gives_its_weights_to_nobody_but_itself() -> None:
    world = World(HURTS, pace=0.4)
    mild = Ladder(world.table(), world.layers, params_cost).rung(0.4).plan
    search = BudgetController(
        world.table(), world.layers, params_cost, 1.0, max_rounds=8, known=[world.measure(mild)]
    )
    [plan] = search.ask(1)
    assert plan != mild
    assert search.history_of(plan) == ()
