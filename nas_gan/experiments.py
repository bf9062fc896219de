"""Train presets with several seeds and variants: `python -m nas_gan.experiments grid.toml`.

    presets = ["mnist_condgan"]              # packaged presets or .toml files
    seeds = [1, 2, 3]
    metrics = ["best_fid", "loss/g"]         # of the logs; also top5_fid, fid<=30, first_fid<=30

    [settings]                               # for every run: any setting of nas_gan.train
    steps = 6000

    [variants]                               # all combinations; "default" keeps the preset's value
    output_activation = ["default", "bhsa"]
    d_output_activation = ["default", "bhsa"]

    [[cases]]                                # changed together, each case with all combinations
    upper_bound = "fixed"
    loss.lower = 0.5                         # a table of settings, as in a preset

    [skip]
    default = true                           # the combination without any change
    different_hidden = true                  # combinations of two different hidden activations
    different_output = true                  # the same for output activations

A run never changes both hidden and output activations. Each run has a process and a directory of
its own; with --executor ray, the runs are spread over the workers of a Ray cluster, and each takes
its data set from the node that it is on. A run that fails is reported with its reason and does not
stop the others.

The table shows the last value of each metric. best_ takes the best value instead, and top5_ the
mean of the five best. fid<=30 is the share of runs that reach an FID of 30, and first_fid<=30 the
step at which they reach it. The table is also written to table.csv and table.json.

Run the same command again to resume. The exit code is 1 if a run failed.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nas_gan.cli import progress, run
from nas_gan.errors import UsageError
from nas_gan.files import write_json, write_text
from nas_gan.locks import locked
from nas_gan.panels import WORKERS
from nas_gan.runs.experiments import Outcome
from nas_gan.runs.grid import Grid, PlannedRun, plan_runs, read_grid
from nas_gan.runs.spreading import run_all
from nas_gan.runs.summary import summarise, summary_csv, summary_table
from nas_gan.settings import check_at_least
from nas_gan.workers.executors import Executor
from nas_gan.workers.options import WorkerOptions, check_one_kind, opened_executor


@dataclass(frozen=True)
class ExperimentsConfig(WorkerOptions):
    """The grid, and the folder of its runs."""

    grid: Annotated[Path, tyro.conf.Positional]
    """Grid of runs, a .toml file like the one above, or the name of a packaged one, such as
    upper_bounds_cifar10."""
    run_dir: Path | None = None
    """Folder for the runs; by default runs/experiments/ and the name of the grid."""
    cpus_per_worker: Annotated[int | None, WORKERS] = None
    """CPUs of a worker, and threads of torch there; 1 if not given."""


def main(config: ExperimentsConfig) -> int:
    grid = read_grid(config.grid)
    run_dir = config.run_dir or Path("runs/experiments") / config.grid.stem
    runs = plan_runs(grid, run_dir)
    check_at_least("cpus_per_worker", config.cpus_per_worker, 1)
    if config.cpus_per_worker and not config.spread:
        raise UsageError("needs the executor ray; the runs are here", setting="cpus_per_worker")
    check_one_kind(config, "the settings of a run say which device it trains on")
    # The settings of a run say which device it trains on; a worker only keeps a GPU free for it.
    device = "cuda" if config.spread and config.gpus_per_worker else "cpu"
    with locked(run_dir), opened_executor(config, device, config.cpus_per_worker) as executor:
        return train_all(grid, run_dir, runs, executor)


def train_all(grid: Grid, run_dir: Path, runs: list[PlannedRun], executor: Executor) -> int:
    """Train what is not trained yet, write the table and print it."""
    ended: dict[Path, Outcome] = {}
    with progress("runs", len(runs)) as advance:
        for one, outcome in run_all(runs, grid.metrics, run_dir, executor):
            ended[one.folder] = outcome
            advance(1)
    outcomes = [ended[one.folder] for one in runs]
    rows = summarise(outcomes)
    write_text(run_dir / "table.csv", summary_csv(rows, grid.metrics))
    content = {"rows": [asdict(row) for row in rows], "runs": [asdict(one) for one in outcomes]}
    write_json(run_dir / "table.json", content)
    sys.stdout.write(f"{summary_table(rows, grid.metrics)}\n")
    failed = [outcome for outcome in outcomes if outcome.failed]
    for outcome in failed:
        sys.stdout.write(
            f"failed: {outcome.preset}, {outcome.variant}, seed {outcome.seed}: {outcome.reason}\n"
        )
    if failed:
        sys.stderr.write(
            f"error: {len(failed)} of {len(outcomes)} runs failed; run the same command again "
            "to retry them\n"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(
        run(main, ExperimentsConfig, prog="python -m nas_gan.experiments", description=__doc__)
    )
