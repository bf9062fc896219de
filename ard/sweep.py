"""Measure how much each layer of a generator hurts, alone: `python -m ard.sweep ckpt.pt`.

Writes sensitivity.csv and sensitivity.png into the run directory, and prints what is reachable.
`ard.select` chooses ranks from that table without measuring, and `ard.compress` with the same run
directory goes on from here. The same command goes on where it was stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ard.costs.cost import LayerCost
from ard.measuring.evaluate import FidEvaluator
from ard.measuring.executors import SerialExecutor
from ard.measuring.sensitivity import SensitivityTable
from ard.pipeline import Evaluators, Prepared, measure_sensitivities
from ard.search.reachable import reachable_plans, to_text
from ard.session.config import SweepConfig, check
from ard.session.record import open_journal, run_directory
from ard.session.search import layer_cost, prepare_setting, proxy_evaluator, single_evaluator
from ard.session.setting import Setting, load_setting
from nas_gan.cli import DONE, progress, run


def sweep_layers(
    config: SweepConfig, setting: Setting, cost: LayerCost, run_dir: Path, single: FidEvaluator
) -> tuple[Prepared, SensitivityTable]:
    """The table of single layers, every score of it in the journal of the run directory."""
    journal = open_journal(config, setting, run_dir)
    prepared = prepare_setting(config, setting, cost)
    evaluators = Evaluators(single, single, single, proxy=proxy_evaluator(config, setting))
    table = measure_sensitivities(
        prepared,
        evaluators,
        SerialExecutor(),
        journal,
        anchors=config.anchors,
        progress=progress,
    )
    return prepared, table


def main(config: SweepConfig) -> int:
    from ard.report.plots import sensitivity_figure
    from ard.report.summary import feature_distance_name, layer_rows
    from nas_gan.pictures.plot_style import save_figure

    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    setting = load_setting(config.checkpoint, config)
    run_dir = run_directory(config)
    cost = layer_cost(config, setting, run_dir)
    single = single_evaluator(config, setting)
    prepared, table = sweep_layers(config, setting, cost, run_dir, single)
    table.save(run_dir / "sensitivity.csv")
    rows = reachable_plans(table, prepared.profile, prepared.layers, cost)
    mildest = rows[0]
    figure = sensitivity_figure(
        table,
        layer_rows(prepared.profile, mildest.plan),
        budget=mildest.expected,
        plan=mildest.plan,
        distance=feature_distance_name(setting),
    )
    save_figure(figure, run_dir / "sensitivity.png")
    text = to_text(rows, prepared.profile, single.paired.fid_dense)
    sys.stdout.write(f"{text}\n{run_dir / 'sensitivity.csv'}\n")
    return DONE


if __name__ == "__main__":
    sys.exit(run(main, SweepConfig, prog="python -m ard.sweep", description=__doc__))
