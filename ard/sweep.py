"""Measure the sensitivity of each layer: how much factorizing it alone hurts image quality.

    python -m ard.sweep ckpt.pt

Writes sensitivity.csv and sensitivity.png into the run directory, and prints which compressions are
within reach. `ard.select` chooses ranks from that table without further measurements, and
`ard.compress` reuses the measurements if it is given the same run directory. Run the same command
again to resume.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from ard.forecast.dry_run import forecast
from ard.pipeline import measure_sensitivities, prepare
from ard.report.summary import layer_rows
from ard.search.reachable import reachable_plans, to_text
from ard.session.config import SweepConfig
from ard.session.effort import effort_defaults
from ard.session.record import run_directory
from ard.session.search import coverage_line, open_sweep
from nas_gan.cli import DONE, run, say
from nas_gan.remote.workplace import Workplace, working_in
from nas_gan.workers.executors import Executor
from nas_gan.workers.options import opened_executor


def main(config: SweepConfig) -> int:
    if config.dry_run:
        sys.stdout.write("\n".join(forecast(config)) + "\n")
        return DONE
    with (
        working_in(run_directory(config)) as place,
        opened_executor(config, config.device, config.threads) as executor,
    ):
        return measure(replace(config, run_dir=place.folder), place, executor)


def measure(config: SweepConfig, place: Workplace, executor: Executor) -> int:
    """Measure, write and print; the run directory is this process's own."""
    from ard.report.plots import sensitivity_figure
    from nas_gan.pictures.plot_style import save_figure

    sweep = open_sweep(config, say, executor)
    search, run_dir, distance = sweep.search, sweep.run_dir, sweep.setting.distance
    prepared = prepare(search, sweep.profile)
    table = measure_sensitivities(search, prepared)
    table.save(run_dir / "sensitivity.csv")
    rows = reachable_plans(table, prepared.profile, prepared.parts, search.cost)
    mildest = rows[0]
    figure = sensitivity_figure(
        table,
        layer_rows(prepared.profile, mildest.plan),
        budget=mildest.expected,
        plan=mildest.plan,
        distance=distance,
    )
    save_figure(figure, run_dir / "sensitivity.png")
    text = to_text(rows, prepared.profile, sweep.single.dense_value, distance)
    warning = f"{coverage_line(sweep.profile)}\n" if sweep.profile.coverage.low else ""
    sys.stdout.write(f"{text}\n{warning}{place.shown(run_dir / 'sensitivity.csv')}\n")
    return DONE


if __name__ == "__main__":
    sys.exit(
        run(
            main,
            SweepConfig,
            prog="python -m ard.sweep",
            description=__doc__,
            default=lambda: effort_defaults(SweepConfig, sys.argv[1:]),
        )
    )
