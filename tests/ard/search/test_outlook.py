from __future__ import annotations

import numpy as np
import pytest

from ard.search.outlook import Known, Outlook, outlook


def chance(known: list[tuple[float, float]], damages: list[float], budget: float) -> np.ndarray:
    after_one = [Known(damage, (upper,)) for damage, upper in known]
    plans = [Known(damage) for damage in damages]
    ahead = outlook(after_one, plans, [1] * len(plans), budget, budget)
    return np.array([ahead.of(i) for i in range(len(damages))])


def test_the_expected_gain_of_plans_is_that_of_the_best_which_holds() -> None:
    # One curve: 3 with chance 0.2, else 2 with chance 0.5. Another: both surely.
    ahead = Outlook(np.array([0.75, 0.25]), np.array([[0.5, 0.2], [1.0, 1.0]]))
    gains = np.array([2.0, 3.0])
    one, both = 0.75 * 0.5 * 2 + 0.25 * 2, 0.75 * (0.2 * 3 + 0.8 * 0.5 * 2) + 0.25 * 3
    assert ahead.largest(gains, []) == 0
    assert ahead.largest(gains, [0]) == pytest.approx(one)
    assert ahead.largest(gains, [0, 1, 1]) == pytest.approx(both)
    assert ahead.expected(gains, [0]) == pytest.approx([one, both])


@pytest.mark.parametrize("exponent", [0.7, 1.0, 2.0])
def test_outcomes_on_a_curve_tell_where_it_meets_the_budget(exponent: float) -> None:
    meets = 10 * (1 / 0.3) ** (1 / exponent)
    tried = [share * meets for share in (0.3, 0.6, 0.9, 1.2)]
    known = [(a, 10 * 0.3 * (a / 10) ** exponent) for a in tried]
    milder, at, harsher = chance(known, [0.8 * meets, meets, 1.3 * meets], 10.0)
    assert milder > 0.8
    assert 0.3 < at < 0.7
    assert harsher < 0.2


def test_harsher_plans_are_never_likelier_to_hold() -> None:
    for known in ([], [(1.0, -0.4)], [(1.0, 3.0)], [(1.0, 0.5), (0.5, 0.9), (2.0, 0.1)]):
        chances = chance(known, list(np.geomspace(0.01, 100, 40)), 1.0)
        # Noise grows with the damage, so a hopeless plan has a little more luck to hope for.
        assert (np.diff(chances) <= 1e-3).all()


def test_what_training_gains_does_not_make_a_far_harsher_plan_likely() -> None:
    # An upper end below 0 does not say that ten times the damage does no harm.
    [same, ten] = chance([(1.0, -0.1)], [1.0, 10.0], 1.0)
    assert same > 0.9
    assert ten < 0.4


def test_the_unit_of_scores_does_not_matter() -> None:
    known, damages = [(1.0, 0.4), (3.0, 1.3)], [0.5, 2.0, 4.0]
    thousandfold = [(1000 * a, 1000 * u) for a, u in known]
    expected = chance(known, damages, 1.0)
    assert chance(thousandfold, [1000 * a for a in damages], 1000.0) == pytest.approx(expected)


def test_noisy_outcomes_leave_more_doubt_than_clean_ones() -> None:
    clean = [(a, 0.5 * a) for a in (0.5, 1.0, 1.5, 2.5)]
    noisy = [(0.5, 0.5), (1.0, 0.1), (1.5, 1.2), (2.5, 0.9)]
    (mild, harsh), (mild_noisy, harsh_noisy) = (
        chance(known, [1.2, 3.0], 1.0) for known in (clean, noisy)
    )
    assert mild - harsh > mild_noisy - harsh_noisy + 0.1


def after_rounds(known: list[Known], plan: Known, rounds: int) -> float:
    return outlook(known, [plan], [rounds], 1.0, 1.0).of(0)


def test_a_plan_that_was_measured_is_surer_to_come_out_where_it_stood_than_a_new_one() -> None:
    # Two rounds leave 2^-0.4 = 0.76 of 1.1, which is within the budget, and of 1.6, which is not.
    near, far = Known(1.0, (1.1,)), Known(1.0, (1.6,))
    assert after_rounds([near], near, 2) > after_rounds([near], Known(1.0), 2) > 0.5
    assert after_rounds([far], far, 2) < after_rounds([far], Known(1.0), 2)


def test_more_rounds_are_likelier_to_bring_a_plan_within_the_budget() -> None:
    missed = Known(2.0, (1.5,))
    for plan in (missed, Known(2.0)):
        chances = [after_rounds([missed], plan, rounds) for rounds in (2, 3, 5, 9)]
        assert chances == sorted(chances)
        assert chances[-1] > 2 * chances[0]


def test_what_rounds_gained_says_what_further_ones_gain() -> None:
    # Down by a third with the second round, or not at all.
    quick, slow = Known(2.0, (3.0, 2.0)), Known(2.0, (2.05, 2.0))
    assert after_rounds([quick], quick, 6) > 2 * after_rounds([slow], slow, 6)
    assert after_rounds([quick], Known(2.0), 6) > after_rounds([slow], Known(2.0), 6)


def test_a_plan_that_gets_no_more_rounds_has_no_chance() -> None:
    ahead = outlook([Known(1.0, (0.5,))], [Known(0.5), Known(0.5)], [1, 0], 1.0, 1.0)
    assert ahead.of(0) > 0.5
    assert ahead.of(1) == 0
