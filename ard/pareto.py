"""One sweep, many budgets: `python -m ard.pareto ckpt.pt --budgets 2% 5% 10% 20%`.

For each budget the cheapest plan whose recovered generator meets it. Writes pareto.csv,
pareto.png and one folder for each budget with its plan and its compressed checkpoint. The same
command goes on where it was stopped; more budgets may be added. Exit code 3: everything is saved,
but at least one budget was not met.
"""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from ard.costs.cost import LayerCost
from ard.errors import BudgetError
from ard.measuring.executors import SerialExecutor
from ard.measuring.measurement import Measurement
from ard.pipeline import Found, Prepared, find_plan, measure_sensitivities
from ard.recovery.store import compressed_checkpoint
from ard.report.summary import feature_distance_name, plan_macs, plan_params
from ard.search.budget import FidBudget
from ard.session.config import SearchConfig
from ard.session.search import Search, open_search, prepare_setting, tell_remarks
from ard.session.setting import Setting
from nas_gan.checkpoint import save_checkpoint
from nas_gan.cli import BUDGET_MISSED, DONE, progress, run
from nas_gan.files import write_text

COLUMNS = (
    "budget", "met", "params", "macs", "compression", "macs_ratio",
    "fid", "delta_fid", "ci_low", "ci_high", "factorized_delta_fid", "plan",
)  # fmt: skip


@dataclass(frozen=True)
class ParetoConfig(SearchConfig):
    """Which budgets, and how quality is measured."""

    budgets: tuple[str, ...] = ("2%", "5%", "10%", "20%")
    """Allowed rises: 0.5 is absolute, 5% is relative to the dense generator."""


@dataclass(frozen=True)
class Point:
    """What one budget buys."""

    budget: FidBudget
    found: Found
    params: int
    macs: int


def parse_budgets(texts: tuple[str, ...]) -> list[FidBudget]:
    """The budgets as they were asked for, each once.

    Raises:
        BudgetError: there is none, or one cannot be read.
    """
    if not texts:
        raise BudgetError("--budgets needs at least one, as in --budgets 2% 5% 10%")
    return [FidBudget.parse(text) for text in dict.fromkeys(texts)]


def find_points(
    config: ParetoConfig, search: Search, console: Console
) -> tuple[Prepared, list[Point]]:
    """One sweep of single layers, then a search for each budget; all share what is measured."""
    cost, evaluators, journal = search.cost, search.evaluators, search.journal
    prepared = prepare_setting(config, search.setting, cost)
    executor = SerialExecutor()
    measure_singles = partial(
        measure_sensitivities,
        prepared,
        evaluators,
        executor,
        journal,
        anchors=config.anchors,
        progress=progress,
    )
    table = measure_singles()
    table.save(search.run_dir / "sensitivity.csv")
    budgets = parse_budgets(config.budgets)
    points: list[Point] = []
    trials: list[Measurement] = []
    for budget in sorted(budgets, key=lambda b: b.absolute(search.fid_dense)):
        tell_remarks(console, config, search, budget)
        found = find_plan(
            prepared,
            table,
            fid_budget=budget.absolute(search.fid_dense),
            cost=cost,
            evaluators=evaluators,
            recover=search.store,
            executor=executor,
            journal=journal,
            max_trials=config.max_trials,
            known=trials,
            confirm=lambda choices: measure_singles(also=choices),
            progress=progress,
        )
        trials += found.trials
        table = found.table
        table.save(search.run_dir / "sensitivity.csv")
        if points:
            found = cheaper_within(points[-1].found, found, prepared, cost)
        params = plan_params(prepared.profile, found.plan)
        macs = plan_macs(prepared.profile, found.plan)
        points.append(Point(budget, found, params, macs))
        save_point(search.setting, prepared, points[-1], search.run_dir)
    return prepared, points


def cheaper_within(smaller: Found, larger: Found, prepared: Prepared, cost: LayerCost) -> Found:
    """What a larger budget buys: what it found, or what the smaller one found if that costs less.

    A plan within a budget is within every larger one. Few trials may miss it a second time.
    """

    def price(found: Found) -> float:
        return sum(cost(layer, found.plan.get(layer.name)) for layer in prepared.layers)

    if smaller.budget_met and (not larger.budget_met or price(smaller) < price(larger)):
        return smaller
    return larger


def folder_of(budget: FidBudget) -> str:
    """A folder name for a budget: `budget-5pct`, `budget-0.5`."""
    return f"budget-{budget.text.replace('%', 'pct')}"


def save_point(setting: Setting, prepared: Prepared, point: Point, run_dir: Path) -> None:
    """Write the plan and the compressed checkpoint of one budget."""
    folder = run_dir / folder_of(point.budget)
    shapes = {layer.name: layer.weight_shape for layer in prepared.profile.layers}
    write_text(folder / "plan.json", point.found.plan.with_shapes(shapes).to_json() + "\n")
    checkpoint = compressed_checkpoint(setting.checkpoint, point.found.generator, point.found.plan)
    save_checkpoint(checkpoint, folder / "compressed.pt")


def to_csv(points: list[Point], prepared: Prepared) -> str:
    """One row a budget; ratios are dense over compressed, for the whole generator."""
    profile = prepared.profile
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in points:
        found, e = point.found, point.found.recovered
        writer.writerow(
            [
                *(point.budget.text, str(found.budget_met).lower(), point.params, point.macs),
                f"{profile.total_params / point.params:.4f}",
                f"{profile.total_macs / point.macs:.4f}",
                *(e.fid, e.delta_fid, e.ci_low, e.ci_high, found.factorized.delta_fid),
                f"{folder_of(point.budget)}/plan.json",
            ]
        )
    return text.getvalue()


def to_text(points: list[Point], prepared: Prepared) -> str:
    """The points as a table for people."""
    lines = [("budget", "met", "params", "", "MACs", "", "ΔFD", "95 % interval", "factorized")]
    for p in points:
        e = p.found.recovered
        lines.append(
            (
                p.budget.text,
                "yes" if p.found.budget_met else "no",
                f"{p.params:,}",
                f"{prepared.profile.total_params / p.params:.2f}x",
                f"{p.macs:,}",
                f"{prepared.profile.total_macs / p.macs:.2f}x",
                f"{e.delta_fid:+.3g}",
                f"[{e.ci_low:.3g}, {e.ci_high:.3g}]",
                f"{p.found.factorized.delta_fid:+.3g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main(config: ParetoConfig) -> int:
    from ard.report.curves import Curve, curves_figure
    from nas_gan.pictures.plot_style import save_figure

    parse_budgets(config.budgets)  # refuses before anything is measured
    search = open_search(config)
    run_dir = search.run_dir
    prepared, points = find_points(config, search, Console(stderr=True))
    write_text(run_dir / "pareto.csv", to_csv(points, prepared))
    total = prepared.profile.total_params
    curve = Curve(
        "recovered",
        tuple((total / p.params, p.found.recovered) for p in points),
    )
    factorized = Curve(
        "before recovery",
        tuple((total / p.params, p.found.factorized) for p in points),
        dashed=True,
    )
    figure = curves_figure([curve, factorized], distance=feature_distance_name(search.setting))
    save_figure(figure, run_dir / "pareto.png")
    sys.stdout.write(f"{to_text(points, prepared)}\n{run_dir / 'pareto.csv'}\n")
    return DONE if all(point.found.budget_met for point in points) else BUDGET_MISSED


if __name__ == "__main__":
    sys.exit(run(main, ParetoConfig, prog="python -m ard.pareto", description=__doc__))
