"""Compress a generator under several budgets, or to several targets, that share one sweep.

    python -m ard.pareto ckpt.pt --budgets 2% 5% 10% 20%

    python -m ard.pareto ckpt.pt --targets params=0.5 params=0.25

Finds, for each budget, the cheapest plan whose recovered generator meets it, or for each target the
plan that reaches it at the smallest rise. Writes pareto.csv, pareto.png and one folder per budget
or target with its plan and its compressed checkpoint. Run the same command again to resume, or with
more budgets to extend the results. Exit code 3 means that everything is saved but at least one
budget was not met or one target not reached.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from ard.forecast.dry_run import forecast
from ard.pipeline import Goal, Reach, compress_for, compress_within
from ard.report.delivery import network_timer
from ard.report.points import Point, budget_folder, point_of, points_figure, to_csv, to_text
from ard.search.budget import Budget
from ard.search.target import Target
from ard.session.config import SearchConfig, parse_budgets
from ard.session.effort import effort_defaults
from ard.session.goals import parse_targets, reach_of, with_target
from ard.session.record import run_directory
from ard.session.saving import save_found
from ard.session.search import Session, coverage_line, open_session, opening_lines
from nas_gan.cli import BUDGET_MISSED, DONE, run, say
from nas_gan.errors import UsageError
from nas_gan.files import write_text
from nas_gan.remote.workplace import Workplace, working_in
from nas_gan.workers.executors import Executor
from nas_gan.workers.options import opened_executor


@dataclass(frozen=True)
class ParetoConfig(SearchConfig):
    """Which budgets to search under, and how quality is measured."""

    budgets: tuple[str, ...] = ("2%", "5%", "10%", "20%")
    """Allowed rises in the metric: 0.5 is absolute, 5% is relative to the dense generator's."""
    targets: tuple[str, ...] = ()
    """Costs of the whole network to reach, in place of budgets, such as latency=0.5 latency=0.3;
    all of one kind."""


def find_points(
    config: ParetoConfig, budgets: list[Budget], session: Session, tell: Callable[[str], None]
) -> list[Point]:
    """Search under each budget and save what was found."""
    run_dir = session.run_dir
    ascending = sorted(budgets, key=lambda budget: budget.absolute(session.dense))
    for line in opening_lines(config, session, ascending, "--budgets"):
        tell(line)
    results = compress_within(
        session.search,
        [budget.absolute(session.dense) for budget in ascending],
        profile=session.profile,
        on_table=lambda prepared, table: table.save(run_dir / "sensitivity.csv"),
    )
    points = []
    for budget, result in zip(ascending, results, strict=True):
        result.table.save(run_dir / "sensitivity.csv")
        folder = run_dir / budget_folder(budget)
        save_found(result, result.profile, session.setting.checkpoint, folder)
        points.append(point_of(budget, result.budget_met, result))
    return points


def reach_points(
    config: ParetoConfig, targets: list[Target], session: Session, tell: Callable[[str], None]
) -> list[Point]:
    """Reach each target, the mildest first, and save what was found."""
    run_dir, search = session.run_dir, session.search
    for line in opening_lines(config, session, [], ""):
        tell(line)
    timed = network_timer(config, session)

    def reach(target: Target) -> Reach:
        profile, dense = session.profile, search.generator
        return reach_of(target, profile, search.cost, dense, timed, "targets")[0]

    ordered = sorted(((reach(t), t) for t in targets), key=lambda pair: -pair[0].limit)
    results = compress_for(
        search,
        [Goal(reach=reach) for reach, _ in ordered],
        profile=session.profile,
        on_table=lambda prepared, table: table.save(run_dir / "sensitivity.csv"),
    )
    points = []
    for (reached, target), result in zip(ordered, results, strict=True):
        result.table.save(run_dir / "sensitivity.csv")
        folder = run_dir / budget_folder(target)
        save_found(result, result.profile, session.setting.checkpoint, folder)
        met = result.cost is not None and result.cost <= reached.limit
        points.append(point_of(target, met, result))
    return points


def main(config: ParetoConfig) -> int:
    # All of it fails before anything is measured.
    if config.targets and config.budgets != ParetoConfig.budgets:
        raise UsageError("cannot be given together with budgets", setting="targets")
    targets = parse_targets(config.targets, "targets")
    budgets = [] if targets else parse_budgets(config.budgets)
    if targets:
        config = with_target(config, targets[0])
    if config.dry_run:
        sys.stdout.write("\n".join(forecast(config, len(budgets) + len(targets))) + "\n")
        return DONE
    with (
        working_in(run_directory(config)) as place,
        opened_executor(config, config.device, config.threads) as executor,
    ):
        config = replace(config, run_dir=place.folder)
        return search(config, budgets, targets, place, executor)


def search(
    config: ParetoConfig,
    budgets: list[Budget],
    targets: list[Target],
    place: Workplace,
    executor: Executor,
) -> int:
    """Search, write and print; the run directory is this process's own."""
    from nas_gan.pictures.plot_style import save_figure

    session = open_session(config, say, executor)
    run_dir, distance = session.run_dir, session.setting.distance
    if targets:
        points = reach_points(config, targets, session, say)
    else:
        points = find_points(config, budgets, session, say)
    write_text(run_dir / "pareto.csv", to_csv(points))
    save_figure(points_figure(points, distance), run_dir / "pareto.png")
    warning = f"{coverage_line(session.profile)}\n" if session.profile.coverage.low else ""
    sys.stdout.write(
        f"{to_text(points, distance)}\n{warning}{place.shown(run_dir / 'pareto.csv')}\n"
    )
    return DONE if all(point.met for point in points) else BUDGET_MISSED


if __name__ == "__main__":
    sys.exit(
        run(
            main,
            ParetoConfig,
            prog="python -m ard.pareto",
            description=__doc__,
            default=lambda: effort_defaults(ParetoConfig, sys.argv[1:]),
        )
    )
