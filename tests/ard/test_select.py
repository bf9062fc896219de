from __future__ import annotations

import csv
import io
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from contracts import scored
from hypothesis import given, settings
from hypothesis import strategies as st
from published_sweep import FID_DENSE, LAYERS, SCORES, VECTORS

from ard.baselines.rules import reduction_pct
from ard.layers import LayerProfile
from ard.measuring.sensitivity import Row, SensitivityTable
from ard.plan import Factorization, RankPlan
from ard.search.recorded import ScoredChoice, infer_layer, ranks_within
from ard.select import SelectConfig, main
from nas_gan.cli import run

HEADER = "layer,rank,fid,reduction_pct\n"
# Dense 10. Layer a: rises 1 and 3 for 50 % and 90 %; layer b: rises 2 and -0.5 for 60 % and 20 %.
SMALL = HEADER + "a,8,11,50\na,4,13,90\nb,4,12,60\nb,8,9.5,20\n"

Select = Callable[..., int]


@pytest.fixture
def select(tmp_path: Path) -> Select:
    """Runs the command on a table given as text."""

    def call(table: str | bytes, *args: object) -> int:
        path = tmp_path / "table.csv"
        path.write_bytes(table.encode() if isinstance(table, str) else table)
        arguments = [str(path), *map(str, args)]
        return run(main, SelectConfig, prog="select", description=None, args=arguments)

    return call


def printed(out: str) -> dict[str, str]:
    header, *rows = csv.reader(io.StringIO(out))
    assert header == ["layer", "choice"]
    return dict(rows)


def published_csv() -> str:
    lines = [f"{n.name},{c.rank[0]},{fid},{reduction_pct(n, c)}\n" for n, c, fid in SCORES]
    return HEADER + "".join(lines)


LAYER_A = LayerProfile("a", "conv2d", (16, 12, 3, 3), positions=64)
LAYER_B = LayerProfile("b", "linear", (64, 20))


def table(rises: dict[tuple[LayerProfile, str], float]) -> SensitivityTable:
    """Scores over a dense generator at 40, with intervals that play no role."""
    rows = []
    for (layer, text), rise in rises.items():
        c = Factorization.parse(text)
        score = replace(scored(rise, 0), n_images=0, measured=False)
        rows.append(Row(layer.name, layer.kind, c, layer.params(c), layer.macs(c), score))
    return SensitivityTable(scored(0), tuple(rows))


SENSITIVITY = table(
    {
        (LAYER_A, "tucker2(8, 6)"): 1.0,
        (LAYER_A, "spatial_svd(4)"): 2.0,
        (LAYER_B, "svd(6)"): 0.5,
        (LAYER_B, "svd(2)"): 4.0,
    }
)


# -- a plain table


@pytest.mark.parametrize("penalty", ["1", "1/5", "0.1", "1/15", "1/20"])
def test_the_published_table_gives_the_published_ranks(
    select: Select, capsys: pytest.CaptureFixture[str], penalty: str
) -> None:
    assert select(published_csv(), "--penalty", penalty, "--dense-fid", FID_DENSE) == 0
    [vector] = [v for gamma, v in VECTORS.items() if abs(gamma - as_number(penalty)) < 1e-9]
    out, err = capsys.readouterr()
    assert printed(out) == {
        layer.name: str(rank or "nc") for layer, rank in zip(LAYERS, vector, strict=True)
    }
    assert err == ""


def as_number(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


@pytest.mark.parametrize(
    ("budget", "choices"),
    [
        ("0", {"a": "nc", "b": "8"}),  # better than dense, so free
        ("0.99", {"a": "nc", "b": "8"}),
        ("1", {"a": "8", "b": "8"}),
        ("2", {"a": "8", "b": "8"}),  # 49 + 20 against 0 + 60
        ("3", {"a": "4", "b": "8"}),  # 90 + 20 against 49 + 60
        ("30%", {"a": "4", "b": "8"}),
        ("5", {"a": "4", "b": "4"}),
    ],
)
def test_a_budget_buys_the_most_percent(
    select: Select, capsys: pytest.CaptureFixture[str], budget: str, choices: dict[str, str]
) -> None:
    text = SMALL.replace("a,8,11,50", "a,8,11,49")  # no ties
    assert select(text, "--fid-budget", budget, "--dense-fid", 10) == 0
    out, err = capsys.readouterr()
    assert printed(out) == choices
    assert "the sum only estimates the rise of the whole plan, so measure the plan" in err
    assert "one percent of any layer counts the same" in err


def test_the_size_of_a_layer_weighs_its_percents(
    select: Select, capsys: pytest.CaptureFixture[str]
) -> None:
    head = HEADER.strip() + ",dense_params,dense_macs\n"
    text = head + "a,8,11,50,1000,10\nb,4,11,60,100,1000\n"
    chosen = {}
    for objective in ("params", "macs"):
        args = ("--fid-budget", "1", "--dense-fid", "10", "--objective", objective)
        assert select(text, *args) == 0
        out, err = capsys.readouterr()
        chosen[objective] = printed(out)
        assert "one percent of any layer" not in err
    assert chosen == {"params": {"a": "8", "b": "nc"}, "macs": {"a": "nc", "b": "4"}}


def test_decimal_rises_may_use_the_budget_up(
    select: Select, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HEADER + "a,1,5.1,50\na,2,5.05,1\nb,1,5.2,50\nb,2,5.9,51\n"
    assert select(text, "--fid-budget", "0.3", "--dense-fid", "5") == 0
    assert printed(capsys.readouterr().out) == {"a": "1", "b": "1"}


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-20, 300), st.integers(0, 99)), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 600),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_budget_is_spent_as_by_trying_everything(
    layers: list[list[tuple[int, int]]], cents: int
) -> None:
    rows = [
        ScoredChoice(str(i), rank, 5 + rise / 100, float(cut))
        for i, options in enumerate(layers)
        for rank, (rise, cut) in enumerate(options, start=1)
    ]
    chosen = ranks_within(rows, 5.0, cents / 100, {})
    taken = [row for row in chosen.values() if row]
    assert sum(max(round(100 * (row.value - 5)), 0) for row in taken) <= cents
    best = most_percent([[(0, 0), *((max(r, 0), c) for r, c in o)] for o in layers], cents)
    assert sum(row.reduction_pct for row in taken) == best


def most_percent(layers: Sequence[Sequence[tuple[int, int]]], cents: int) -> int:
    plans = itertools.product(*layers)
    return max(sum(c for _, c in plan) for plan in plans if sum(r for r, _ in plan) <= cents)


# -- a sensitivity table


def test_our_table_brings_its_own_dense_score(
    select: Select, capsys: pytest.CaptureFixture[str]
) -> None:
    # a: 1744 dense, 744 and 352 left, so 80, 58.5 and 50.5; b: 1344, 568 and 232, so 57.6 and 51.6
    assert select(SENSITIVITY.to_csv(), "--penalty", "1") == 0
    out, err = capsys.readouterr()
    assert printed(out) == {"a": "spatial_svd(4)", "b": "svd(2)"}
    assert err == ""


@pytest.mark.parametrize(
    ("budget", "choices"),
    [
        ("0.5", {"a": "dense", "b": "svd(6)"}),
        ("1.5", {"a": "tucker2(8, 6)", "b": "svd(6)"}),
        ("2.5", {"a": "spatial_svd(4)", "b": "svd(6)"}),
        ("5%", {"a": "tucker2(8, 6)", "b": "svd(6)"}),
        ("15%", {"a": "spatial_svd(4)", "b": "svd(2)"}),
    ],
)
def test_our_table_under_a_budget(
    select: Select, capsys: pytest.CaptureFixture[str], budget: str, choices: dict[str, str]
) -> None:
    text = SENSITIVITY.to_csv()
    if budget == "5%":  # of 40, which buys spatial SVD alone or both of the milder ones
        text = text.replace("2.0", "2.25")
    assert select(text, "--fid-budget", budget) == 0
    out, err = capsys.readouterr()
    assert printed(out) == choices
    assert "measure the plan" in err


def test_the_objective_decides_which_layer_is_worth_its_damage(
    select: Select, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = LayerProfile("b", "linear", (640, 20))
    text = table({(LAYER_A, "tucker2(8, 6)"): 1.0, (wide, "svd(6)"): 1.0}).to_csv()
    assert select(text, "--fid-budget", "1") == 0
    assert printed(capsys.readouterr().out) == {"a": "dense", "b": "svd(6)"}
    assert select(text, "--fid-budget", "1", "--objective", "macs") == 0
    assert printed(capsys.readouterr().out) == {"a": "tucker2(8, 6)", "b": "dense"}


def test_dense_costs_are_read_where_the_table_has_them(
    select: Select, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = SENSITIVITY.to_csv().splitlines()
    sizes = ["dense_params", "", *["744"] * 2, *["1344"] * 2]  # a would save nothing by tucker2
    text = "\n".join(f"{line},{size}" for line, size in zip(lines, sizes, strict=True))
    assert select(text, "--fid-budget", "1") == 0
    assert printed(capsys.readouterr().out) == {"a": "dense", "b": "svd(6)"}


def test_a_dense_size_that_no_row_tells_is_assumed_aloud(
    select: Select, capsys: pytest.CaptureFixture[str]
) -> None:
    unbiased = LayerProfile("a", "conv2d", (16, 12, 3, 3), bias=False, positions=64)
    text = table({(unbiased, "spatial_svd(4)"): 1.0, (LAYER_B, "svd(6)"): 0.5}).to_csv()
    assert select(text, "--fid-budget", "2") == 0
    out, err = capsys.readouterr()
    assert printed(out) == {"a": "spatial_svd(4)", "b": "svd(6)"}
    assert "the dense size of a is not in the table and was assumed to be 2 times" in err


@pytest.mark.parametrize("layer", [
    LayerProfile("x", "linear", (4096, 40)),
    LayerProfile("x", "conv2d", (64, 64, 1, 1), positions=256),
    LayerProfile("x", "conv2d", (24, 16, 3, 3), positions=64),
    LayerProfile("x", "conv2d", (64, 64, 5, 5), positions=1024),
])  # fmt: skip
def test_a_layer_is_recognised_by_what_its_factorizations_cost(layer: LayerProfile) -> None:
    choices = [c for m in layer.methods() for c in layer.rank_grid(m, (0.5, 0.25, 0.12))]
    found = infer_layer(table({(layer, str(c)): 1.0 for c in choices}).rows)
    assert found == layer


def test_costs_of_no_layer_are_not_explained() -> None:
    rows = table({(LAYER_B, "svd(6)"): 1.0, (LAYER_B, "svd(2)"): 2.0}).rows
    odd = Row("b", "linear", rows[1].choice, rows[1].params + 1, rows[1].macs, scored(1))
    assert infer_layer([rows[0], odd]) is None


# -- by time

SIGNATURES = {"a": "conv2d 16x12x3x3 in=8x8 padding=1x1 bias", "b": "linear 64x20 bias"}
TIMES_HEADER = (
    "signature,choice,batch,milliseconds,ci_low,ci_high,runtime,device,threads,precision\n"
)
# The convolution gains by spatial SVD alone, the linear layer by either rank.
MILLISECONDS = {
    ("a", "dense"): 3.0,
    ("a", "tucker2(8, 6)"): 3.5,
    ("a", "spatial_svd(4)"): 1.0,
    ("b", "dense"): 0.5,
    ("b", "svd(6)"): 0.4,
    ("b", "svd(2)"): 0.1,
}


def signed_csv(signatures: dict[str, str] = SIGNATURES) -> str:
    header, dense, *rows = SENSITIVITY.to_csv().splitlines()
    signed = [f"{row},{signatures.get(row.split(',')[0], '')}" for row in rows]
    return "\n".join([f"{header},signature", f"{dense},", *signed])


@pytest.fixture
def times(tmp_path: Path) -> Callable[..., Path]:
    """Writes a latency table, of the given batch sizes."""

    def write(times: dict[tuple[str, str], float] = MILLISECONDS, batches: str = "1") -> Path:
        lines = [
            f'{SIGNATURES[layer]},"{choice}",{batch},{ms},{ms},{ms},a runtime,a board,1,fp32\n'
            for (layer, choice), ms in times.items()
            for batch in batches.split()
        ]
        path = tmp_path / "latency.csv"
        path.write_text(TIMES_HEADER + "".join(lines))
        return path

    return write


@pytest.mark.parametrize(
    ("budget", "choices"),
    [
        ("0.5", {"a": "dense", "b": "svd(6)"}),
        ("1.5", {"a": "dense", "b": "svd(6)"}),  # tucker2(8, 6) is smaller, but slower
        ("2.5", {"a": "spatial_svd(4)", "b": "svd(6)"}),
        ("6", {"a": "spatial_svd(4)", "b": "svd(2)"}),
    ],
)
def test_milliseconds_decide_where_they_were_measured(
    select: Select,
    capsys: pytest.CaptureFixture[str],
    times: Callable[..., Path],
    budget: str,
    choices: dict[str, str],
) -> None:
    by_time = ("--objective", "latency", "--latency-table", times())
    assert select(signed_csv(), "--fid-budget", budget, *by_time) == 0
    out, err = capsys.readouterr()
    assert printed(out) == choices
    assert "dense size" not in err


def test_the_penalty_rule_goes_by_time_as_well(
    select: Select, capsys: pytest.CaptureFixture[str], times: Callable[..., Path]
) -> None:
    by_time = ("--objective", "latency", "--latency-table", times())
    assert select(signed_csv(), "--penalty", "1", *by_time) == 0
    # a: 41 (1 + 7/6) and 42 (1 + 1/3) against 80; b: 40.5 (1.8) and 44 (1.2)
    assert printed(capsys.readouterr().out) == {"a": "spatial_svd(4)", "b": "svd(2)"}


def test_a_table_of_several_batch_sizes_needs_one_of_them(
    select: Select, capsys: pytest.CaptureFixture[str], times: Callable[..., Path]
) -> None:
    args = ("--fid-budget", "6", "--objective", "latency", "--latency-table", times(batches="1 64"))
    assert select(signed_csv(), *args) == 1
    assert "choose one by its batch size" in capsys.readouterr().err
    assert select(signed_csv(), *args, "--latency-batch", "64") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SENSITIVITY.to_csv(), "the table has no signature for a, so its times"),
        (signed_csv({"a": SIGNATURES["a"]}), "the table has no signature for b"),
        (signed_csv({**SIGNATURES, "b": "linear 9x9"}), "b: the latency table has no dense linear"),
        (SMALL, "a table of bare ranks does not name layer shapes"),
    ],
)
def test_a_table_whose_layers_cannot_be_timed_is_refused(
    select: Select,
    capsys: pytest.CaptureFixture[str],
    times: Callable[..., Path],
    text: str,
    message: str,
) -> None:
    args = ("--fid-budget", "1", "--dense-fid", "10", "--objective", "latency")
    assert select(text, *args, "--latency-table", times()) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert (err.count("\n"), err[:7]) == (1, "error: ")


def test_a_choice_that_was_not_timed_is_named_with_the_command_that_does_it(
    select: Select, capsys: pytest.CaptureFixture[str], times: Callable[..., Path]
) -> None:
    few = {key: ms for key, ms in MILLISECONDS.items() if key != ("a", "spatial_svd(4)")}
    args = ("--fid-budget", "1", "--objective", "latency", "--latency-table", times(few))
    assert select(signed_csv(), *args) == 1
    err = capsys.readouterr().err
    assert f"a: the latency table has no spatial_svd(4) of {SIGNATURES['a']}" in err
    assert "python -m ard.latency" in err


def test_two_signatures_of_one_layer_are_refused(
    select: Select, capsys: pytest.CaptureFixture[str], times: Callable[..., Path]
) -> None:
    text = signed_csv().replace(SIGNATURES["b"], "linear 64x21 bias", 1)
    args = ("--fid-budget", "1", "--objective", "latency", "--latency-table", times())
    assert select(text, *args) == 1
    assert "line 6: signature of b is linear 64x20 bias here and" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--objective", "flops"), "objective 'flops' is not known"),
        (("--objective", "latensy"), "did you mean latency?"),
        (("--objective", "latency"), "--latency-table FILE go together; got --objective latency"),
        (("--latency-table", "t.csv"), "go together; got --objective params and t.csv"),
    ],
)
def test_an_objective_that_cannot_be_had_is_one_line(
    select: Select,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    message: str,
) -> None:
    assert select(SENSITIVITY.to_csv(), "--penalty", "1", *args) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert (err.count("\n"), err[:7]) == (1, "error: ")


# -- output


def test_out_gets_the_printed_table_too(
    select: Select, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "choice.csv"
    assert select(SMALL, "--penalty", "1", "--dense-fid", "10", "--out", out) == 0
    assert out.read_text() == capsys.readouterr().out


def test_a_plan_is_written_as_json(select: Select, tmp_path: Path) -> None:
    assert select(SENSITIVITY.to_csv(), "--penalty", "1", "--out", tmp_path / "plan.json") == 0
    plan = RankPlan.from_json((tmp_path / "plan.json").read_text())
    assert str(plan) == "a: spatial_svd(4), b: svd(2)"


def test_spreadsheets_may_add_a_mark_columns_and_spaces(
    select: Select, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\ufeffnote,layer,rank,fid,reduction_pct\r\nx, a ,8, 11 ,50\r\n\r\n"
    assert select(text, "--fid-budget", "1", "--dense-fid", "10") == 0
    assert printed(capsys.readouterr().out) == {"a": "8"}


# -- bad input

PENALTY = ("--penalty", "1", "--dense-fid", "10")


@pytest.mark.parametrize(
    ("text", "args", "message"),
    [
        ("layer,rank,fid\na,8,11\n", PENALTY, "no column 'reduction_pct'"),
        ("layer,fid,reduction_pct\n", PENALTY, "no column 'rank'"),
        ("", PENALTY, "the table is empty"),
        (HEADER, PENALTY, "the table is empty"),
        (SMALL + "a,8,12,50\n", PENALTY, "line 6: layer a, rank 8 comes twice"),
        (SMALL + "c,8,nan,50\n", PENALTY, "line 6: fid is nan, not finite"),
        (SMALL + "c,8,11,inf\n", PENALTY, "line 6: reduction_pct is inf, not finite"),
        (SMALL + "c,8,11,101\n", PENALTY, "reduction_pct is 101, above 100"),
        (SMALL + "c,8,eleven,50\n", PENALTY, "line 6: fid is 'eleven', not a number"),
        (SMALL + "c,8\n", PENALTY, "line 6: fid is empty"),
        (SMALL + ",8,11,50\n", PENALTY, "line 6: layer is empty"),
        *(
            (SMALL + f"c,{rank},11,50\n", PENALTY, f"rank is '{rank}', not a whole number")
            for rank in ("8.0", "nc", "-8", "0", "9" * 30)
        ),
        ("x" * 200_000 + SMALL, PENALTY, "line 1: not the header of a CSV table"),
        (b"\xff\xfe\x00l", PENALTY, "not a CSV table in UTF-8"),
        (SMALL, ("--penalty", "1"), "--dense-fid must be given"),
        (SMALL, ("--fid-budget", "1"), "--dense-fid must be given"),
        (SMALL, ("--penalty", "-1", "--dense-fid", "10"), "--penalty '-1' is not a penalty"),
        (SMALL, ("--penalty", "nan", "--dense-fid", "10"), "--penalty 'nan' is not"),
        (SMALL, ("--penalty", "1/0", "--dense-fid", "10"), "--penalty '1/0' is not"),
        (SMALL, ("--penalty", "1", "--dense-fid", "nan"), "--dense-fid must be 0 or more"),
        (SMALL, ("--fid-budget", "x", "--dense-fid", "10"), "--fid-budget 'x' is not a budget"),
        (SMALL, (*PENALTY, "--out", "plan.json"), "cannot become a plan; write to a file"),
        ("layer,kind,method\n", PENALTY, "no column 'rank'"),
        (SENSITIVITY.to_csv().replace("41.0", "nan"), PENALTY, "fid is nan, not finite"),
        (SENSITIVITY.to_csv().replace("ci_high", "ci_top"), PENALTY, "no column 'ci_high'"),
        (SENSITIVITY.to_csv() * 2, PENALTY, "line 7: "),
        (SENSITIVITY.to_csv() + SENSITIVITY.to_csv().splitlines()[-1], PENALTY, "comes twice"),
        (SensitivityTable(scored(0), ()).to_csv(), PENALTY, "the table is empty: it scores no"),
    ],
)
def test_bad_input_is_one_line(
    select: Select,
    capsys: pytest.CaptureFixture[str],
    text: str | bytes,
    args: tuple[str, ...],
    message: str,
) -> None:
    assert select(text, *args) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert (err.count("\n"), err[:7]) == (1, "error: ")


@pytest.mark.parametrize("args", [(), ("--penalty", "1", "--fid-budget", "1")])
def test_one_rule_is_needed(
    select: Select, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    assert select(SMALL, *args, "--dense-fid", "10") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: give one of --penalty and --fid-budget; got ")


def test_a_dense_size_that_contradicts_itself_is_refused(
    select: Select, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HEADER.strip() + ",dense_params\na,8,11,50,100\na,4,12,60,101\n"
    assert select(text, "--fid-budget", "1", "--dense-fid", "10") == 1
    assert "line 3: dense_params of a is 101 here and 100 above" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = [str(tmp_path / "none.csv"), "--penalty", "1"]
    assert run(main, SelectConfig, prog="select", description=None, args=args) == 1
    assert "none.csv: no such file" in capsys.readouterr().err


# -- as a process


def test_the_module_runs_and_prints_nothing_but_the_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(SMALL)
    command = [sys.executable, "-m", "ard.select", str(path), "--penalty", "1", "--dense-fid", "10"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    # a: 11 x 1.5 and 13 x 1.1 against 10 x 2; b: 12 x 1.4 and 9.5 x 1.8
    assert (done.returncode, done.stdout) == (0, "layer,choice\na,4\nb,4\n")
    assert done.stderr == ""
