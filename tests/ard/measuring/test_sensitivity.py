from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from contracts import scored
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ard.errors import TableError
from ard.layers import LayerProfile
from ard.measuring.evaluate import Candidate
from ard.measuring.executors import Item, Result, SerialExecutor
from ard.measuring.journal import FileJournal, MemoryJournal
from ard.measuring.score import Score
from ard.measuring.sensitivity import Row, SensitivityTable, columns_of
from ard.measuring.sweep import Measure, single_layer_plans, sweep
from ard.plan import DENSE, Factorization, RankPlan

PLANS = [DENSE, *single_layer_plans([("l1", Factorization("svd", (r,))) for r in (8, 4, 2, 1)])]


class Counting:
    """Scores a plan by its rank, and remembers which plans it was asked for."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.asked: list[RankPlan] = []
        self.fail_at = fail_at

    def __call__(self, plan: RankPlan) -> Score:
        if len(self.asked) == self.fail_at:
            raise KeyboardInterrupt
        self.asked.append(plan)
        return scored(sum(1 / choice.rank[0] for choice in plan.values()))


class Backwards:
    """Results come back in another order than the items went in."""

    n_workers = n_trainers = 1

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        return iter([(item, function(item)) for item in reversed(items)])


# -- sweep


def test_measurements_are_in_the_order_of_the_plans() -> None:
    measured = sweep(PLANS, Counting(), SerialExecutor(), MemoryJournal())
    assert [m.plan for m in measured] == PLANS
    assert [m.score.rise for m in measured] == [0, 1 / 8, 1 / 4, 1 / 2, 1]


def test_the_order_holds_for_an_executor_that_finishes_in_another() -> None:
    measured = sweep(PLANS, Counting(), Backwards(), MemoryJournal())
    assert measured == sweep(PLANS, Counting(), SerialExecutor(), MemoryJournal())


def test_a_plan_that_comes_twice_is_measured_once() -> None:
    measure = Counting()
    measured = sweep([PLANS[1], PLANS[2], PLANS[1]], measure, SerialExecutor(), MemoryJournal())
    assert measure.asked == [PLANS[1], PLANS[2]]
    assert [m.plan for m in measured] == [PLANS[1], PLANS[2], PLANS[1]]


@pytest.mark.parametrize("fail_at", range(6))
def test_a_resumed_sweep_measures_nothing_twice(tmp_path: Path, fail_at: int) -> None:
    path = tmp_path / "journal.jsonl"
    first, second = Counting(fail_at), Counting()
    if fail_at < len(PLANS):
        with pytest.raises(KeyboardInterrupt):
            sweep(PLANS, first, SerialExecutor(), FileJournal(path, {}))
    else:
        sweep(PLANS, first, SerialExecutor(), FileJournal(path, {}))
    measured = sweep(PLANS, second, SerialExecutor(), FileJournal(path, {}))
    assert first.asked + second.asked == PLANS
    assert measured == sweep(PLANS, Counting(), SerialExecutor(), MemoryJournal())
    assert [m.plan for m in FileJournal(path, {}).measurements()] == PLANS


def test_what_one_stage_measured_does_not_count_for_another() -> None:
    journal, measure = MemoryJournal(), Counting()
    for stage in ("single", "recovered", "single"):
        [measured] = sweep(PLANS[1:2], measure, SerialExecutor(), journal, stage=stage)
        assert measured.stage == stage
    assert len(measure.asked) == 2


def test_progress_adds_up_to_the_number_of_plans_also_after_a_resume() -> None:
    journal, told = MemoryJournal(), list[int]()
    sweep(PLANS[:2], Counting(), SerialExecutor(), journal, on_measured=told.append)
    assert told == [0, 1, 1]
    told.clear()
    sweep(PLANS, Counting(), SerialExecutor(), journal, on_measured=told.append)
    assert told == [2, 1, 1, 1]


def test_a_measure_builds_the_plan_it_was_given_and_scores_that() -> None:
    built = nn.Identity()

    def evaluate(candidate: Candidate) -> Score:
        assert candidate.generator is built
        return scored(len(candidate.plan or ()))

    assert Measure(lambda plan: built, evaluate)(PLANS[1]) == scored(1)


# -- the table

CONV = LayerProfile("cell1.c0", "conv2d", (16, 8, 3, 3), positions=16)
LINEAR = LayerProfile("l1", "linear", (64, 20))


def table(*deltas: float) -> SensitivityTable:
    choices = [
        ("cell1.c0", Factorization("tucker2", (4, 3))),
        ("cell1.c0", Factorization("spatial_svd", (5,))),
        ("l1", Factorization("svd", (2,))),
    ]
    scores = map(scored, deltas or (1.5, 0.1 + 0.2, -1e-17))
    return SensitivityTable.of(scored(0), dict(zip(choices, scores, strict=True)), [CONV, LINEAR])


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_a_row_knows_its_layer_its_cost_and_its_score() -> None:
    row = table().rows[0]
    # 3 x 8 down, 4 x 3 x 3 x 3 in the middle, 16 x 4 up, 16 biases; MACs at 16 positions.
    assert row == Row(
        "cell1.c0", "conv2d", Factorization("tucker2", (4, 3)), 212, 3136, scored(1.5), 1168, 18432
    )


def test_rows_of_a_layer_are_its_own() -> None:
    assert [str(row.choice) for row in table().of_layer("l1")] == ["svd(2)"]
    assert table().of_layer("nothing") == ()


def test_the_csv_has_the_published_columns_and_the_dense_row_first() -> None:
    head, dense, first, *_ = lines(table().to_csv())
    assert head == (
        "layer,kind,method,rank,params,macs,fid,delta_fid,ci_low,ci_high,"
        "samples,dense_params,dense_macs,signature"
    )
    n = scored(0).n_images
    assert dense == f",,dense,,,,40.0,0.0,-0.1,0.1,{n},,,"
    assert first == f"cell1.c0,conv2d,tucker2,4x3,212,3136,41.5,1.5,1.4,1.6,{n},1168,18432,"


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.tuples(finite, finite, finite))
@settings(derandomize=True)
def test_every_float_comes_back_exactly(deltas: tuple[float, float, float]) -> None:
    written = table(*deltas)
    if not all(math.isfinite(row.score.ci_high) for row in written.rows):
        return
    text = written.to_csv()
    read = SensitivityTable.from_csv(text)
    assert [r.score.rise for r in read.rows] == list(deltas)
    assert [(r.layer, r.choice, r.params, r.macs) for r in read.rows] == [
        (r.layer, r.choice, r.params, r.macs) for r in written.rows
    ]
    assert read.to_csv() == text


def test_a_saved_table_is_its_csv(tmp_path: Path) -> None:
    table().save(tmp_path / "sensitivity.csv")
    assert (tmp_path / "sensitivity.csv").read_text() == table().to_csv()


def test_columns_may_stand_in_another_order_beside_others() -> None:
    text = table().to_csv()
    turned = "\n".join(",".join(["x", *reversed(line.split(","))]) for line in lines(text))
    assert SensitivityTable.from_csv(turned).to_csv() == text


@pytest.mark.parametrize("column", columns_of("fid"))
def test_a_missing_column_is_named(column: str) -> None:
    text = table().to_csv().replace(column, "other", 1)
    with pytest.raises(TableError, match=f"no column '{column}'"):
        SensitivityTable.from_csv(text)


BAD_LINES = {
    "nan": ("l1,linear,svd,4,1,1,nan,0,0,0,9,99,99,", "line 6: fid is nan"),
    "infinite": ("l1,linear,svd,4,1,1,1,0,0,inf,9,99,99,", "line 6: ci_high is inf"),
    "no number": ("l1,linear,svd,4,1,1,1,zero,0,0,9,99,99,", "line 6: delta_fid is 'zero'"),
    "cut short": ("l1,linear,svd,4,1,1,1,0", "line 6: ci_low is empty"),
    "empty rank": ("l1,linear,svd,,1,1,1,0,0,0,9,99,99,", "line 6: rank is empty"),
    "no whole number": ("l1,linear,svd,4,1.5,1,1,0,0,0,9,99,99,", "line 6: params is '1.5'"),
    "method": ("l1,linear,magic,4,1,1,1,0,0,0,9,99,99,", "line 6: .*magic.* is not known"),
    "two ranks": ("l1,linear,svd,4x4,1,1,1,0,0,0,9,99,99,", "line 6: svd takes 1 rank"),
    "twice": ("l1,linear,svd,2,1,1,1,0,0,0,9,99,99,", r"line 6: l1 svd\(2\) comes twice"),
    "dense twice": (",,dense,,,,1,0,0,0,9,99,99,", "line 6: the dense generator comes twice"),
    "no layer": (",linear,svd,4,1,1,1,0,0,0,9,99,99,", "line 6: layer is empty"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_one_clear_message_with_its_number(name: str) -> None:
    line, message = BAD_LINES[name]
    with pytest.raises(TableError, match=message) as caught:
        SensitivityTable.from_csv(table().to_csv() + line + "\n")
    assert "\n" not in str(caught.value)


def test_blank_lines_do_not_shift_the_line_number() -> None:
    with pytest.raises(TableError, match="line 8: fid is nan"):
        SensitivityTable.from_csv(
            table().to_csv() + "\n\n" + "l1,linear,svd,4,1,1,nan,0,0,0,9,99,99,\n"
        )


def test_a_table_without_the_dense_row_is_refused() -> None:
    head, _, *rows = lines(table().to_csv())
    with pytest.raises(TableError, match="no row for the dense generator"):
        SensitivityTable.from_csv("\n".join([head, *rows]))


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(TableError, match="no column 'layer'"):
        SensitivityTable.from_csv("")
