from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts import scored
from tiny import SmallNet, fid_evaluator, takes
from torch import Tensor, nn

from ard.costs.cost import macs_cost
from ard.costs.objectives import make_cost
from ard.errors import NothingToFactorizeError
from ard.grid import RankGrid
from ard.layers import LayerProfile, Profile, profile_layers
from ard.measuring.evaluate import Candidate, Evaluator
from ard.measuring.journal import FileJournal, Journal, MemoryJournal
from ard.measuring.measurement import History, Measurement
from ard.measuring.score import Score
from ard.measuring.sensitivity import SensitivityTable
from ard.pipeline import (
    CompressionResult,
    Effort,
    Evaluators,
    Goal,
    Prepared,
    Reach,
    Search,
    compress_for,
    compress_generator,
    compress_within,
    worthwhile_layers,
)
from ard.pipeline import Run as SearchRun
from ard.plan import DENSE, RankPlan
from ard.recovery.distillation import Recovery, recover
from ard.recovery.recover import Assemble, Build
from nas_gan.networks.latents import latent_bank
from nas_gan.training.draws import StepLatents

BUDGET = 600.0  # of a distance of 162, in features of pixels


@pytest.fixture(scope="module")
def dense() -> SmallNet:
    return SmallNet()


@pytest.fixture(scope="module")
def selection(dense: SmallNet) -> Tensor:
    return latent_bank(16, dense.latent_dim, 5)


class Counted:
    """An evaluator that counts, in front of another."""

    def __init__(self, evaluate: Callable[[Candidate], Score]) -> None:
        self.evaluate = evaluate
        self.plans: list[RankPlan | None] = []

    def __call__(self, candidate: Candidate) -> Score:
        self.plans.append(candidate.plan)
        return self.evaluate(candidate)


@dataclass
class Run:
    """Everything that a compression takes, and how often its evaluators were used."""

    dense: SmallNet
    selection: Tensor
    journal: Journal
    evaluators: Evaluators
    counted: tuple[Counted, ...]
    n_steps: int = 4

    def recover(self, build: Callable[[], nn.Module], plan: RankPlan) -> nn.Module:
        settings = Recovery(self.n_steps, batch_size=8, n_checks=2)
        latents = StepLatents(settings.seed, settings.batch_size, takes(self.dense.latent_dim))
        return recover(build(), self.dense, settings, selection=self.selection, latents=latents)

    def search(
        self,
        methods: tuple[str, ...] = ("tucker2", "svd"),
        anchors: int = 0,
        **options: Any,
    ) -> Search:
        return Search(
            self.dense,
            latent_bank(32, self.dense.latent_dim, 6),
            self.evaluators,
            cost=make_cost("params"),
            recover=self.recover,
            grid=RankGrid(methods, (0.5, 0.2)),
            effort=Effort(anchors, max_trials=3),
            run=SearchRun(self.journal, **options),
        )

    def __call__(self, budget: float, **options: Any) -> CompressionResult:
        return compress_generator(budget=budget, **vars(self.search(**options)))

    @property
    def n_scored(self) -> int:
        return sum(len(counted.plans) for counted in self.counted)


@pytest.fixture(scope="module")
def evaluators(dense: SmallNet) -> tuple[Callable[[Candidate], Score], ...]:
    return (
        fid_evaluator(dense, 256, 1),
        fid_evaluator(dense, 512, 2),
        fid_evaluator(dense, 512, 3),
    )


def make_run(
    dense: SmallNet,
    selection: Tensor,
    evaluators: tuple[Callable[[Candidate], Score], ...],
    journal: Journal,
    n_steps: int = 4,
) -> Run:
    single, joint, final = counted = tuple(Counted(evaluate) for evaluate in evaluators)
    return Run(dense, selection, journal, Evaluators(single, joint, final), counted, n_steps)


@pytest.fixture(scope="module")
def finished(
    dense: SmallNet,
    selection: Tensor,
    evaluators: tuple[Callable[[Candidate], Score], ...],
) -> tuple[Run, CompressionResult]:
    """A compression with real scores and a budget that leaves something to decide."""
    run = make_run(dense, selection, evaluators, MemoryJournal())
    return run, run(BUDGET)


def test_the_budget_is_met_by_a_plan_that_is_cheaper_than_dense(
    finished: tuple[Run, CompressionResult],
) -> None:
    _, result = finished
    assert result.budget_met
    assert result.recovered.ci_high <= BUDGET
    compressed = sum(p.numel() for p in result.generator.parameters())
    assert compressed < 0.8 * result.profile.total_params
    costs = [result.profile[name].params(choice) for name, choice in result.plan.items()]
    dense_costs = [result.profile[name].params() for name in result.plan]
    assert result.profile.total_params - compressed == sum(dense_costs) - sum(costs)


def test_the_saved_generator_keeps_the_budget_on_latents_that_nothing_was_chosen_by(
    finished: tuple[Run, CompressionResult], dense: SmallNet
) -> None:
    _, result = finished
    fresh = fid_evaluator(dense, 512, 77)
    assert fresh(Candidate.finished(result.generator)).rise <= BUDGET


def test_the_reported_scores_are_those_of_the_final_latents(
    finished: tuple[Run, CompressionResult],
) -> None:
    run, result = finished
    final = run.counted[2].evaluate
    assert final(Candidate.finished(result.generator)) == result.recovered
    stages = [m.stage for m in run.journal.measurements() if m.plan == result.plan]
    assert {"recovered", "final", "factorized"} <= set(stages)


def test_a_second_call_with_the_same_journal_measures_nothing_again(
    finished: tuple[Run, CompressionResult],
) -> None:
    run, result = finished
    before = run.n_scored
    again = run(BUDGET)
    assert run.n_scored == before
    assert (again.plan, again.recovered, again.trials) == (
        result.plan,
        result.recovered,
        result.trials,
    )
    for a, b in zip(again.generator.parameters(), result.generator.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_plan_is_scored_once_in_each_stage(finished: tuple[Run, CompressionResult]) -> None:
    run, _ = finished
    made = [(m.stage, m.plan) for m in run.journal.measurements()]
    assert len(made) == len(set(made)) == run.n_scored


def test_the_generator_is_not_changed(
    finished: tuple[Run, CompressionResult], dense: SmallNet
) -> None:
    assert not any(module.training for module in dense.modules())
    for name, tensor in SmallNet().state_dict().items():
        assert torch.equal(dense.state_dict()[name], tensor)


# -- with made-up scores


def damage_of(plan: RankPlan) -> float:
    """Four for a kept fifth, one for a kept half, as if every layer mattered the same."""
    return sum(4.0 if choice.rank[-1] in (2, 6) else 1.0 for choice in plan.values())


def made_up(dense: SmallNet, selection: Tensor, final: Callable[[float], float]) -> Run:
    """Scores by the plan alone: `final` says what the last latents make of a damage."""
    single = joint = lambda candidate: scored(damage_of(candidate.plan), half=0.1)
    last = lambda candidate: scored(final(damage_of(candidate.plan)), half=0.1)  # noqa: E731
    return make_run(dense, selection, (single, joint, last), MemoryJournal(), n_steps=0)


def test_a_budget_that_nothing_meets_ends_at_the_closest_plan(
    dense: SmallNet, selection: Tensor
) -> None:
    result = made_up(dense, selection, lambda damage: damage)(0.5)
    assert not result.budget_met
    assert result.plan != DENSE
    assert damage_of(result.plan) == 1.0
    assert result.recovered.ci_high == 1.1


def test_a_winner_that_does_not_hold_on_other_latents_gives_way_to_a_milder_plan(
    dense: SmallNet, selection: Tensor
) -> None:
    strict = made_up(dense, selection, lambda damage: 2 * damage)
    result = strict(4.0)
    assert result.budget_met
    assert result.recovered.rise == 2 * damage_of(result.plan) <= 4.0 - 0.1
    finals = [m for m in strict.journal.measurements() if m.stage == "final"]
    assert len(finals) > 1


def on_fresh_banks(dense: SmallNet, selection: Tensor, journal: Journal) -> tuple[Run, list[int]]:
    """Every plan looks twice as bad on held-out latents; also the numbers of banks that were used.

    A rise ends in the number of its bank.
    """
    run, used = made_up(dense, selection, lambda damage: 2 * damage), []

    def fresh(bank: int) -> Evaluator:
        used.append(bank)

        def evaluate(candidate: Candidate) -> Score:
            assert candidate.plan is not None
            return scored(2 * damage_of(candidate.plan) + 1e-6 * bank, half=0.1)

        return evaluate

    evaluators = replace(run.evaluators, fresh=fresh)
    return replace(run, evaluators=evaluators, journal=journal), used


def test_every_winner_is_tested_on_latents_that_tested_no_other(
    dense: SmallNet, selection: Tensor
) -> None:
    run, used = on_fresh_banks(dense, selection, MemoryJournal())
    result = run(4.0)
    finals = [m for m in run.journal.measurements() if m.stage == "final"]
    assert [m.bank for m in finals] == list(range(len(finals)))
    assert used == [m.bank for m in finals[1:]]
    assert len(finals) > 1
    assert result.recovered.rise == 2 * damage_of(result.plan) + 1e-6 * finals[-1].bank
    run(4.0)  # knows them all
    assert len(used) == len(finals) - 1


def test_the_banks_go_on_from_a_journal_on_disk(
    dense: SmallNet, selection: Tensor, tmp_path: Path
) -> None:
    whole, _ = on_fresh_banks(dense, selection, MemoryJournal())
    expected = whole(4.0)
    lines = list(whole.journal.measurements())
    first = next(i for i, m in enumerate(lines) if m.stage == "final")
    for cut in (first, first + 1, len(lines) - 1):
        path = tmp_path / f"{cut}.jsonl"
        for measurement in lines[:cut]:
            FileJournal(path, {}).append(measurement)
        resumed, _ = on_fresh_banks(dense, selection, FileJournal(path, {}))
        result = resumed(4.0)
        assert (result.plan, result.recovered) == (expected.plan, expected.recovered)
        assert list(FileJournal(path, {}).measurements()) == lines


def test_a_winner_whose_every_successor_fails_ends_without_the_budget(
    dense: SmallNet, selection: Tensor
) -> None:
    result = made_up(dense, selection, lambda damage: 100 + damage)(9.0)
    assert not result.budget_met
    assert result.recovered.rise > 100


class Dying(MemoryJournal):
    """Takes `n` measurements; the process dies before the next one is recorded."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def append(self, measurement: Measurement) -> None:
        if len(list(self.measurements())) == self.n:
            raise KeyboardInterrupt
        super().append(measurement)


@pytest.mark.parametrize("n", [0, 3, 7, 8, 9])
def test_an_interrupted_compression_goes_on_where_it_stopped(
    dense: SmallNet, selection: Tensor, n: int
) -> None:
    whole, run = (made_up(dense, selection, lambda damage: damage) for _ in range(2))
    expected = whole(4.0)
    run.journal = Dying(n)
    with pytest.raises(KeyboardInterrupt):
        run(4.0)
    run.journal.n = 1000
    result = run(4.0)
    assert (result.plan, result.trials) == (expected.plan, expected.trials)
    assert run.n_scored == whole.n_scored + 1  # the one that was lost


# -- rounds of recovery


class CountingRounds:
    """A recovery that trains nothing; the images of its networks tell after how many rounds."""

    def __init__(self) -> None:
        self.made: list[tuple[RankPlan, History]] = []

    def __call__(self, build: Build, plan: RankPlan) -> nn.Module:
        return self.trained(build(), plan, ())

    def after(self, assemble: Assemble, plan: RankPlan, history: History) -> nn.Module:
        return self.trained(assemble(plan, None), plan, history)

    def trained(self, network: nn.Module, plan: RankPlan, history: History) -> nn.Module:
        self.made.append((plan, history))
        network.register_buffer("rounds", torch.tensor(float(len(history) + 1)))
        return network


def in_rounds(
    dense: SmallNet, selection: Tensor, recover: CountingRounds, journal: Journal, luck: float = 1.0
) -> Search:
    """A search in which `m` rounds leave `1 / m` of a damage; on held-out latents `luck` times."""

    def left(candidate: Candidate) -> float:
        assert candidate.plan is not None
        rounds = dict(candidate.build().named_buffers()).get("rounds", torch.tensor(1.0))
        return damage_of(candidate.plan) / float(rounds)

    run = make_run(
        dense,
        selection,
        (
            lambda candidate: scored(damage_of(candidate.plan or DENSE), half=0.1),
            lambda candidate: scored(left(candidate), half=0.1),
            lambda candidate: scored(luck * left(candidate), half=0.1),
        ),
        journal,
    )
    effort = Effort(max_trials=5, max_rounds=4)
    return replace(run.search(), recover=recover, effort=effort)


def test_a_plan_that_misses_the_budget_is_trained_on_until_it_meets_it(
    dense: SmallNet, selection: Tensor
) -> None:
    recover, journal = CountingRounds(), MemoryJournal()
    search = in_rounds(dense, selection, recover, journal)
    [result] = compress_for(search, [Goal(4.0)])
    assert result.budget_met
    assert result.rounds > 1
    assert damage_of(result.plan) > 4.0  # out of reach of a single round
    assert result.recovered.rise == damage_of(result.plan) / result.rounds
    assert dict(result.generator.named_buffers())["rounds"] == result.rounds
    tried = [(m.plan, m.rounds) for m in result.trials]
    assert (result.plan, result.rounds) in tried
    assert len(set(tried)) == len(tried) <= 5


def test_a_search_with_rounds_resumes_and_trains_nothing_again(
    dense: SmallNet, selection: Tensor
) -> None:
    first, journal = CountingRounds(), Dying(1000)
    [whole] = compress_for(in_rounds(dense, selection, first, journal), [Goal(4.0)])
    for n in range(len(list(journal.measurements()))):
        dying, again = Dying(n), CountingRounds()
        with pytest.raises(KeyboardInterrupt):
            [*compress_for(in_rounds(dense, selection, CountingRounds(), dying), [Goal(4.0)])]
        dying.n = 1000
        [result] = compress_for(in_rounds(dense, selection, again, dying), [Goal(4.0)])
        assert (result.plan, result.rounds, result.trials) == (
            whole.plan, whole.rounds, whole.trials
        )  # fmt: skip
        assert [*dying.measurements()] == [*journal.measurements()]


def test_a_finished_search_that_is_given_more_rounds_goes_on_from_what_it_tried(
    dense: SmallNet, selection: Tensor
) -> None:
    first, more = CountingRounds(), CountingRounds()
    journal = MemoryJournal()
    search = in_rounds(dense, selection, first, journal)
    [little] = compress_for(replace(search, effort=Effort(max_trials=2, max_rounds=4)), [Goal(4.0)])
    effort = Effort(max_trials=6, max_rounds=4, earlier=(2,))
    search = in_rounds(dense, selection, more, journal)
    [result] = compress_for(replace(search, effort=effort), [Goal(4.0)])
    n = len(little.trials)
    assert result.trials[:n] == little.trials
    assert n < len(result.trials) <= 6
    # A search that is interrupted once it has been given more ends the same way.
    search = in_rounds(dense, selection, CountingRounds(), MemoryJournal())
    [again] = compress_for(replace(search, effort=effort), [Goal(4.0)])
    assert (again.plan, again.history, again.trials) == (
        result.plan, result.history, result.trials
    )  # fmt: skip


def test_a_plan_that_fails_on_held_out_latents_may_be_trained_on(
    dense: SmallNet, selection: Tensor
) -> None:
    journal = MemoryJournal()
    search = in_rounds(dense, selection, CountingRounds(), journal, luck=1.5)
    [result] = compress_for(search, [Goal(4.0)])
    finals = [m for m in journal.measurements() if m.stage == "final"]
    assert len(finals) > 1
    assert len({m.bank for m in finals}) == len(finals)
    assert result.recovered == finals[-1].score


@pytest.mark.parametrize(("share", "rounds"), [(0.9, 5), (0.4, 3)])
def test_a_cost_is_reached_by_one_plan_that_gets_every_round(
    dense: SmallNet, selection: Tensor, share: float, rounds: int
) -> None:
    search = in_rounds(dense, selection, CountingRounds(), MemoryJournal())
    search = replace(search, effort=Effort(max_trials=rounds, max_rounds=8))
    total = sum(p.numel() for p in dense.parameters())
    goal = Goal(reach=Reach(share * total, profile_of(dense).fixed_params))
    [result] = compress_for(search, [goal])
    assert [(m.plan, m.rounds) for m in result.trials] == [
        (result.plan, m + 1) for m in range(rounds)
    ]
    assert result.recovered.rise == damage_of(result.plan) / rounds


# -- the doors


def test_methods_that_fit_no_layer_are_an_error(dense: SmallNet, selection: Tensor) -> None:
    run = made_up(dense, selection, lambda damage: damage)
    with pytest.raises(NothingToFactorizeError, match=r"none of the methods \(none given\)"):
        run(1.0, methods=())
    assert run.n_scored == 0


def test_seconds_are_those_of_the_clock_that_was_passed_in(
    dense: SmallNet, selection: Tensor
) -> None:
    ticks = itertools.count()
    run = made_up(dense, selection, lambda damage: damage)
    result = run(1e9, clock=lambda: float(next(ticks)))
    assert set(result.timings.values()) == {1.0}
    assert list(result.timings) == ["profile and methods", "sweep", "joint plans", "report"]


def test_bars_reach_their_totals(dense: SmallNet, selection: Tensor) -> None:
    bars: dict[str, list[int]] = {}

    @contextmanager
    def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
        bars[description] = [total]
        yield bars[description].append

    made_up(dense, selection, lambda damage: damage)(4.0, progress=progress)
    for total, *steps in list(bars.values())[:2]:
        assert sum(steps) == total


# -- a proxy in front of the scores


def with_proxy(dense: SmallNet, selection: Tensor, slope: float = 1.0) -> tuple[Run, Counted]:
    """Movements that tell damages up to a factor."""
    run = made_up(dense, selection, lambda damage: damage)
    moved = Counted(lambda candidate: scored(slope * damage_of(candidate.plan or DENSE), half=0))
    run.evaluators = replace(run.evaluators, proxy=moved)
    run.counted = (*run.counted, moved)
    return run, moved


def test_with_a_proxy_only_the_anchors_are_scored(dense: SmallNet, selection: Tensor) -> None:
    run, moved = with_proxy(dense, selection)
    result = run(4.0, anchors=2)
    singles = [m for m in run.journal.measurements() if m.stage == "single"]
    measured = result.table.measured()
    assert len(singles) == len(measured) + 1  # and the dense generator
    assert 2 <= len(measured) < len(result.table.rows) == len(moved.plans)
    assert result.budget_met
    before = run.n_scored
    assert run(4.0, anchors=2).plan == result.plan
    assert run.n_scored == before


def test_a_layer_that_the_proxy_flatters_is_measured_before_a_plan_relies_on_it(
    dense: SmallNet, selection: Tensor
) -> None:
    run, moved = with_proxy(dense, selection)
    honest = moved.evaluate

    def flattering(candidate: Candidate) -> Score:
        share = 1e-3 if "conv1" in (candidate.plan or DENSE) else 1.0
        true = honest(candidate)
        return scored(share * true.rise, half=0)

    moved.evaluate = flattering
    result = run(4.0, anchors=1)
    first = next(m for m in run.journal.measurements() if m.stage == "recovered")
    singles = {m.plan for m in run.journal.measurements() if m.stage == "single"}
    assert {RankPlan({name: choice}) for name, choice in first.plan.items()} <= singles
    assert result.budget_met


def test_no_anchors_leave_the_proxy_out(dense: SmallNet, selection: Tensor) -> None:
    run, moved = with_proxy(dense, selection)
    run(4.0, anchors=0)
    assert moved.plans == []


def test_more_anchors_than_choices_score_them_all(dense: SmallNet, selection: Tensor) -> None:
    run, _ = with_proxy(dense, selection)
    plain = made_up(dense, selection, lambda damage: damage)
    assert run(4.0, anchors=99).table.rows == plain(4.0).table.rows


def test_the_table_is_shown_before_any_whole_plan_is_measured(
    dense: SmallNet, selection: Tensor
) -> None:
    run = made_up(dense, selection, lambda damage: damage)
    shown: list[int] = []

    def on_table(prepared: Prepared, table: SensitivityTable) -> None:
        assert {m.stage for m in run.journal.measurements()} == {"single"}
        assert [(r.layer, r.choice) for r in table.rows] == list(prepared.choices)
        shown.append(len(table.rows))

    list(compress_within(run.search(), [4.0], on_table=on_table))
    assert len(shown) == 1


def test_the_recovery_may_ask_for_the_plan_in_parts(dense: SmallNet, selection: Tensor) -> None:
    run = made_up(dense, selection, lambda damage: damage)
    built: list[set[str]] = []

    def in_two(build: Build, plan: RankPlan) -> nn.Module:
        names = list(plan)
        first, second = (RankPlan({n: plan[n] for n in part}) for part in (names[:1], names[1:]))
        network = build(second, build(first))
        built.append({name.split(".")[0] for name, _ in network.named_modules() if "." in name})
        return network

    result = compress_generator(
        dense,
        latent_bank(16, dense.latent_dim, 6),
        budget=8.0,
        evaluators=run.evaluators,
        recover=in_two,
        grid=RankGrid(("svd", "tucker2"), (0.5, 0.2)),
        effort=Effort(max_trials=2),
    )
    assert built
    assert set(result.plan) in built


# -- which layers are worth it


# -- costs to reach


def profile_of(dense: SmallNet) -> Profile:
    return profile_layers(dense, latent_bank(2, dense.latent_dim, 6))


def sizes(profile: Profile, plan: RankPlan) -> int:
    return profile.fixed_params + sum(x.params(plan.get(x.name)) for x in profile.layers)


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4])
def test_a_share_of_the_parameters_is_reached_by_a_single_recovery(
    dense: SmallNet, selection: Tensor, share: float
) -> None:
    run = made_up(dense, selection, lambda damage: damage)
    total = sum(p.numel() for p in dense.parameters())
    profile = profile_of(dense)
    goal = Goal(reach=Reach(share * total, profile.fixed_params))
    [result] = compress_for(run.search(), [goal])
    params = sum(p.numel() for p in result.generator.parameters())
    assert result.cost == params == sizes(profile, result.plan) <= share * total
    assert (result.budget, result.budget_met, result.beyond) == (None, True, None)
    assert [m.plan for m in result.trials] == [result.plan]
    recovered = [m for m in run.journal.measurements() if m.stage == "recovered"]
    assert [m.plan for m in recovered] == [result.plan]


def test_a_cost_that_nothing_reaches_ends_at_the_cheapest_plan(
    dense: SmallNet, selection: Tensor
) -> None:
    run = made_up(dense, selection, lambda damage: damage)
    goals = [Goal(reach=Reach(limit)) for limit in (1.0, 2.0)]
    first, second = compress_for(run.search(), goals)
    assert first.cost is not None
    assert first.cost > 2.0
    assert first.plan == second.plan


def test_a_plan_is_corrected_by_its_measured_cost_before_any_is_recovered(
    dense: SmallNet, selection: Tensor
) -> None:
    run = made_up(dense, selection, lambda damage: damage)
    profile = profile_of(dense)
    total = sizes(profile, DENSE)
    measured: list[RankPlan] = []

    def twice(generator: nn.Module, plan: RankPlan) -> float:
        measured.append(plan)
        return 2.0 * sizes(profile, plan)

    reach = Reach(1.2 * total, profile.fixed_params, twice)
    [result] = compress_for(run.search(), [Goal(reach=reach)])
    assert result.cost == 2.0 * sizes(profile, result.plan) <= 1.2 * total
    assert len(measured) > 1  # the first, chosen by its sum of layers, takes too long
    assert len(measured) == len(set(measured))
    recovered = [m for m in run.journal.measurements() if m.stage == "recovered"]
    assert [m.plan for m in recovered] == [result.plan]


def test_a_budget_and_a_cost_that_can_be_had_together_are(
    dense: SmallNet, selection: Tensor
) -> None:
    run = made_up(dense, selection, lambda damage: damage)
    profile = profile_of(dense)
    reach = Reach(0.8 * sizes(profile, DENSE), profile.fixed_params)
    [alone] = compress_for(run.search(), [Goal(1e6)])
    [both] = compress_for(run.search(), [Goal(1e6, reach)])
    assert both.plan == alone.plan
    assert both.cost is not None
    assert both.cost <= reach.limit
    assert (both.budget_met, both.beyond) == (True, None)


def test_a_budget_and_a_cost_that_exclude_each_other_give_the_nearest_on_each_side(
    dense: SmallNet, selection: Tensor
) -> None:
    run = made_up(dense, selection, lambda damage: damage)
    profile = profile_of(dense)
    reach = Reach(0.4 * sizes(profile, DENSE), profile.fixed_params)
    [result] = compress_for(run.search(), [Goal(0.5, reach)])
    assert result.cost is not None
    assert result.cost > reach.limit
    beyond = result.beyond
    assert beyond is not None
    assert beyond.cost is not None
    assert beyond.cost <= reach.limit
    assert beyond.recovered.ci_high > 0.5


def layer(name: str, c: int) -> LayerProfile:
    return LayerProfile(name, "conv2d", (c, c, 1, 1), bias=False, positions=1)


def test_a_layer_below_the_share_is_left_out_with_the_reason() -> None:
    profile = Profile((layer("large", 100), layer("small", 5)), (), 10025, 10025)
    kept, left = worthwhile_layers(profile, macs_cost, min_share=0.01)
    assert [k.name for k in kept] == ["large"]
    assert left == (("small", "only 0.2% of the factorizable cost"),)


def test_the_largest_layer_stays_however_many_there_are() -> None:
    layers = (*(layer(f"l{i}", 4) for i in range(400)), layer("large", 5))
    kept, _ = worthwhile_layers(Profile(layers, (), 0, 0), macs_cost)
    assert [k.name for k in kept] == ["large"]
