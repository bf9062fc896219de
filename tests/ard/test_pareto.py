from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from contracts import scored
from torch import nn

from ard.assembly.surgery import apply_plan
from ard.costs.cost import cost_of, params_cost
from ard.errors import BudgetError
from ard.layers import LayerProfile
from ard.measuring.sensitivity import SensitivityTable
from ard.pareto import ParetoConfig, main
from ard.pipeline import Found, cheaper_within
from ard.plan import DENSE, Factorization, RankPlan
from ard.report.points import budget_folder, columns_of
from ard.session.config import parse_budgets
from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.cli import run
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of

Call = Callable[..., tuple[int, str, str]]
# Two updates at a larger rate make a net of random weights better than the dense one, and no budget
# would be missed.
QUICK = (
    *("--samples", "64", "--sweep-samples", "32", "--anchors", "4"),
    *("--recover-steps", "2", "--recover-lr", "1e-4", "--max-trials", "2"),
    *("--features", "efficientnet-lite0", "--threads", "1"),
    *("--methods", "svd", "--fractions", "0.5", "0.2"),
)


@pytest.fixture(scope="module")
def arguments(checkpoint: Path, statistics: Path) -> tuple[str | Path, ...]:
    return (checkpoint, "--reference", statistics, *QUICK)


@pytest.fixture(scope="module")
def finished(
    arguments: tuple[str | Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """Budgets out of order, of which the smallest cannot be met."""
    run_dir = tmp_path_factory.mktemp("pareto") / "run"
    budgets = ("--budgets", "900%", "1e-9", "40%")
    args = [str(argument) for argument in (*arguments, *budgets, "--run-dir", run_dir)]
    code = run(main, ParetoConfig, prog="python -m ard.pareto", description="", args=args)
    return run_dir, code


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "pareto.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_budget_that_is_not_met_exits_3_with_everything_saved(
    finished: tuple[Path, int],
) -> None:
    run_dir, code = finished
    assert code == 3
    folders = {"budget-1e-9", "budget-40pct", "budget-900pct"}
    files = {"config.json", "journal.jsonl", "sensitivity.csv", "pareto.csv", "pareto.png"}
    assert {path.name for path in run_dir.iterdir()} == folders | files | {"recovered"}
    for folder in folders:
        assert {p.name for p in (run_dir / folder).iterdir()} == {"plan.json", "compressed.pt"}


def test_budgets_come_in_order_and_a_larger_one_never_buys_a_larger_model(
    finished: tuple[Path, int],
) -> None:
    rows = rows_of(finished[0])
    assert tuple(rows[0]) == columns_of("fid")
    assert [row["budget"] for row in rows] == ["1e-9", "40%", "900%"]
    assert (rows[0]["met"], rows[-1]["met"]) == ("false", "true")
    met = [int(row["params"]) for row in rows if row["met"] == "true"]
    assert met == sorted(met, reverse=True)


def test_each_plan_builds_its_compressed_generator(
    finished: tuple[Path, int], checkpoint: Path
) -> None:
    dense = build_generator(load_checkpoint(checkpoint))
    total = sum(p.numel() for p in dense.parameters())
    for row in rows_of(finished[0]):
        path = finished[0] / row["plan"]
        planned = apply_plan(dense, RankPlan.from_json(path.read_text()))
        saved = build_generator(load_checkpoint(path.parent / "compressed.pt"))
        shapes = [{n: t.shape for n, t in g.state_dict().items()} for g in (planned, saved)]
        assert shapes[0] == shapes[1]
        params = sum(p.numel() for p in saved.parameters())
        assert params == int(row["params"])
        assert float(row["compression"]) == pytest.approx(total / params, abs=1e-4)
        assert saved(latents_of(interface_of(saved), 2, 0)).isfinite().all()


def test_no_plan_is_measured_twice_in_a_stage(finished: tuple[Path, int]) -> None:
    lines = (finished[0] / "journal.jsonl").read_text().splitlines()[1:]
    made = Counter((r["stage"], json.dumps(r["plan"])) for r in map(json.loads, lines))
    assert set(made.values()) == {1}
    assert {stage for stage, _ in made} == {"proxy", "single", "recovered", "final", "factorized"}


def test_the_same_command_again_measures_nothing_and_fewer_budgets_neither(
    finished: tuple[Path, int], arguments: tuple[str | Path, ...], call: Call
) -> None:
    run_dir, _ = finished
    before, table = (run_dir / "journal.jsonl").read_bytes(), rows_of(run_dir)
    weights = (run_dir / "budget-900pct" / "compressed.pt").read_bytes()
    again = (*arguments, "--run-dir", run_dir, "--budgets")
    code, out, _ = call(main, ParetoConfig, *again, "1e-9", "40%", "900%")
    assert code == 3
    assert rows_of(run_dir) == table
    code, out, err = call(main, ParetoConfig, *again, "900%")
    assert code == 0, err
    assert out.splitlines()[-1] == str(run_dir / "pareto.csv")
    assert (run_dir / "journal.jsonl").read_bytes() == before
    assert (run_dir / "budget-900pct" / "compressed.pt").read_bytes() == weights


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (("5%", "x"), "'x' is not a budget"),
        (("-1",), "'-1' is not a budget"),
        (("nan",), "'nan' is not a budget"),
        ((), "budgets needs at least one"),
    ],
)
def test_a_budget_that_cannot_be_read_is_an_error(budgets: tuple[str, ...], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        parse_budgets(budgets)


def test_a_bad_budget_or_no_discriminator_is_one_line_and_leaves_no_directory(
    arguments: tuple[str | Path, ...], tmp_path: Path, call: Call
) -> None:
    run_dir = tmp_path / "run"
    for option, message in (
        ("--budgets=x", "'x' is not a budget"),
        ("--polish-steps=1", "tiny.pt holds no discriminator"),
    ):
        code, out, err = call(main, ParetoConfig, *arguments, "--run-dir", run_dir, option)
        assert (code, out) == (1, "")
        assert message in err.splitlines()[-1]
        assert err.count("error: ") == 1
        assert not run_dir.exists()


def test_a_budget_that_comes_twice_counts_once() -> None:
    assert [b.text for b in parse_budgets(("5%", "0.5", "5%"))] == ["5%", "0.5"]
    assert [budget_folder(b) for b in parse_budgets(("5%", "0.5"))] == ["budget-5pct", "budget-0.5"]


def found(rank: int, budget: float, *, met: bool) -> Found:
    plan = RankPlan({"l": Factorization("svd", (rank,))}) if rank else DENSE
    table = SensitivityTable(scored(0), ())
    return Found(budget, met, plan, nn.Identity(), scored(1), scored(1), (), (), table)


def test_what_a_smaller_budget_found_is_taken_where_it_is_cheaper() -> None:
    layers = (LayerProfile("l", "linear", (32, 32)),)

    def choose(smaller: Found, larger: Found) -> RankPlan:
        chosen = cheaper_within(smaller, larger, partial(cost_of, params_cost, layers))
        assert chosen.budget == larger.budget
        return chosen.plan

    cheap, expensive = found(2, 1.0, met=True), found(9, 2.0, met=True)
    assert choose(cheap, expensive) == cheap.plan
    assert choose(expensive, cheap) == cheap.plan
    assert choose(expensive, replace(cheap, budget_met=False)) == expensive.plan
    assert choose(replace(cheap, budget_met=False), expensive) == expensive.plan


def test_targets_come_from_the_mildest_and_each_is_reached(
    arguments: tuple[str | Path, ...], finished: tuple[Path, int], tmp_path: Path, call: Call
) -> None:
    run_dir = Path(shutil.copytree(finished[0], tmp_path / "run"))
    code, out, err = call(
        main,
        ParetoConfig,
        *arguments,
        "--run-dir",
        run_dir,
        "--targets",
        "params=0.6",
        "params=0.9",
    )
    assert code == 0, err
    rows = rows_of(run_dir)
    assert [row["budget"] for row in rows] == ["params=0.9", "params=0.6"]
    assert [row["met"] for row in rows] == ["true", "true"]
    mild, harsh = (float(row["compression"]) for row in rows)
    assert 1 / 0.9 <= mild < harsh
    assert harsh >= 1 / 0.6
    assert (run_dir / "target-params-0.6" / "compressed.pt").exists()
    assert out.splitlines()[0].startswith("target")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--targets", "macs=0.5", "params=0.5"), "must all be of one kind"),
        (("--targets", "fps=60@1", "fps=60@8"), "must all be of one kind"),
        (("--targets", "macs=0.5", "--budgets", "5%"), "cannot be given together"),
    ],
)
def test_targets_of_two_kinds_or_with_budgets_are_a_wrong_use(
    arguments: tuple[str | Path, ...], tmp_path: Path, call: Call, options: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    run_dir = tmp_path / "run"
    code, out, err = call(main, ParetoConfig, *arguments, "--run-dir", run_dir, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert not run_dir.exists()
