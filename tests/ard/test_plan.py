import dataclasses
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ard.errors import PlanError
from ard.factorization.methods import METHODS
from ard.plan import DENSE, Factorization, RankPlan

choices = st.sampled_from(tuple(METHODS)).flatmap(
    lambda method: st.builds(
        Factorization,
        st.just(method),
        st.tuples(*(st.integers(1, 10**6) for _ in METHODS[method].ranks)),
    )
)
plans = st.dictionaries(st.text(min_size=1), choices, max_size=6).map(RankPlan)

SVD8 = Factorization("svd", (8,))
TUCKER = Factorization("tucker2", (64, 32))


@settings(max_examples=50, derandomize=True)
@given(choices)
def test_parse_reads_what_str_writes(choice):
    assert Factorization.parse(str(choice)) == choice


@settings(max_examples=50, derandomize=True)
@given(plans)
def test_a_plan_survives_json(plan):
    again = RankPlan.from_json(plan.to_json())
    assert again == plan
    assert hash(again) == hash(plan)


def test_a_factorization_prints_as_in_the_tables():
    assert str(TUCKER) == "tucker2(64, 32)"
    assert Factorization.parse(" spatial_svd( 5 ) ") == Factorization("spatial_svd", (5,))


@pytest.mark.parametrize(
    ("method", "rank", "message"),
    [
        ("tucker", (1, 1), "use one of tucker2"),
        ("tucker2", (4,), "takes 2 rank"),
        ("svd", (4, 4), "takes 1 rank"),
        ("svd", (0,), "positive integers"),
        ("svd", (2.0,), "positive integers"),
        ("svd", (True,), "positive integers"),
    ],
)
def test_a_bad_factorization_is_refused(method, rank, message):
    with pytest.raises(PlanError, match=message):
        Factorization(method, rank)


@pytest.mark.parametrize("text", ["", "svd", "svd()", "svd(-1)", "svd(1.5)", "rank(3)", "svd(1) x"])
def test_text_that_is_no_factorization_is_refused(text):
    with pytest.raises(PlanError):
        Factorization.parse(text)


def test_the_order_of_layers_makes_no_difference():
    forwards, backwards = RankPlan({"a": SVD8, "b": TUCKER}), RankPlan({"b": TUCKER, "a": SVD8})
    assert forwards == backwards
    assert {forwards: 1}[backwards] == 1
    assert forwards.to_json() == backwards.to_json()


def test_changing_a_plan_makes_a_new_one():
    plan = RankPlan({"a": SVD8})
    assert dict(plan.with_layer("b", TUCKER)) == {"a": SVD8, "b": TUCKER}
    assert plan.with_layer("a", TUCKER)["a"] == TUCKER
    assert plan.without_layer("a") == DENSE
    assert dict(plan) == {"a": SVD8}


def test_a_plan_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RankPlan({"a": SVD8}).layers = ()  # type: ignore[misc]


def test_removing_an_absent_layer_says_what_is_there():
    with pytest.raises(PlanError, match="'c' is not in the plan; it holds a, b"):
        RankPlan({"a": SVD8, "b": TUCKER}).without_layer("c")


def test_an_absent_layer_is_a_key_error():
    assert DENSE.get("a") is None
    with pytest.raises(KeyError):
        DENSE["a"]


def test_a_plan_travels_to_a_worker():
    plan = RankPlan({"a": SVD8, "b": TUCKER})
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_the_json_can_be_read_by_people():
    assert RankPlan({"l1": SVD8}).to_json().split() == [
        *("{", '"format":', "1,", '"layers":', "{", '"l1":', '"svd(8)"', "}", "}")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a plan"),
        ("[]", "found 'list'"),
        ('{"layers": {}}', "found None"),
        ('{"format": 2, "layers": {}}', "found 2"),
        ('{"format": 1, "layers": []}', "found list"),
        ('{"format": 1, "layers": {"l1": "svd(0)"}}', "l1: a rank consists of positive"),
        ('{"format": 1, "layers": {"l1": 8}}', "l1: not a factorization"),
    ],
)
def test_bad_json_says_what_was_found(text, message):
    with pytest.raises(PlanError, match=message):
        RankPlan.from_json(text)


def test_the_shapes_a_plan_was_made_for_travel_with_it() -> None:
    plan = RankPlan({"l1": Factorization("svd", (8,)), "c": Factorization("cp", (2,))})
    shaped = plan.with_shapes({"l1": (512, 40), "c": (8, 8, 3, 3), "unplanned": (1, 1)})
    assert shaped.shapes == (("c", (8, 8, 3, 3)), ("l1", (512, 40)))
    assert RankPlan.from_json(shaped.to_json()).shapes == shaped.shapes
    assert shaped.without_layer("c").shapes == (("l1", (512, 40)),)
    assert shaped.with_layer("d", Factorization("svd", (1,))).shapes == shaped.shapes


def test_shapes_do_not_make_a_plan_another_one() -> None:
    plan = RankPlan({"l1": Factorization("svd", (8,))})
    assert plan.with_shapes({"l1": (512, 40)}) == plan
    assert "shapes" not in plan.to_json()


@pytest.mark.parametrize("shapes", ["[]", '{"l1": 3}', '{"l1": [0, 2]}', '{"l1": ["8"]}'])
def test_shapes_that_are_none_are_refused(shapes: str) -> None:
    with pytest.raises(PlanError, match='"shapes" must hold a list of sizes'):
        RankPlan.from_json(f'{{"format": 1, "layers": {{"l1": "svd(8)"}}, "shapes": {shapes}}}')
