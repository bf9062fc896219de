"""Compress a generator under an image-quality budget.

    python -m ard.compress ckpt.pt --fid-budget 5%

The run directory holds the plan, the compressed checkpoint, the report and a bundle for the
device. Run the same command again to resume. Exit code 3 means that the best plan found is saved
but does not meet the budget, or leaves too little of it for the precision; the bundle is then
float32.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ard.errors import DeliveryError
from ard.forecast import forecast
from ard.measuring.sensitivity import SensitivityTable
from ard.pipeline import Prepared, compress_within
from ard.report.delivery import Delivery, Demand, deliver
from ard.report.summary import make_report
from ard.report.values import CompressionReport, to_text
from ard.report.writing import write_report
from ard.search.reachable import reachable_plans
from ard.search.reachable import to_text as reachable_text
from ard.session.config import SearchConfig, budget_of
from ard.session.record import environment, run_directory
from ard.session.saving import save_found
from ard.session.search import open_session, opening_lines
from nas_gan.cli import BUDGET_MISSED, DONE, progress, run, say
from nas_gan.locks import locked
from nas_gan.workers.executors import Executor
from nas_gan.workers.options import opened_executor
from nas_gan.zoo import display_name


@dataclass(frozen=True)
class CompressConfig(SearchConfig):
    """What to compress, and how much quality it may cost."""

    fid_budget: str | None = None
    """Allowed rise in FID: 0.5 is absolute, 5% is relative to the dense generator's."""
    quality_budget: str | None = None
    """Allowed rise in the chosen metric, in the same format; use it for metrics other than FID."""
    bundle: bool = True
    """Export an ONNX bundle and time it against the dense generator."""


def compress(
    config: CompressConfig, tell: Callable[[str], None] = say
) -> tuple[CompressionReport, Path]:
    """Run the whole command; returns the report and the run directory, with its files written.

    `tell` is called with what was found out, in lines.
    """
    with opened_executor(config, config.device, config.threads) as executor:
        return compress_with(executor, config, tell)


def compress_with(
    executor: Executor, config: CompressConfig, tell: Callable[[str], None]
) -> tuple[CompressionReport, Path]:
    """`compress` with measurements by an executor that is there already."""
    budget, option = budget_of(config.metric, config.fid_budget, config.quality_budget)
    session = open_session(config, tell, executor)
    setting, run_dir = session.setting, session.run_dir
    for line in opening_lines(config, session, [budget], option):
        tell(line)

    def show_reachable(prepared: Prepared, table: SensitivityTable) -> None:
        rows = reachable_plans(table, prepared.profile, prepared.layers, session.search.cost)
        text = reachable_text(rows, prepared.profile, session.dense, setting.distance)
        tell(text)

    allowed = budget.absolute(session.dense)
    [result] = compress_within(
        session.search, [allowed], profile=session.profile, on_table=show_reachable
    )
    result.table.save(run_dir / "sensitivity.csv")
    save_found(result, result.profile, setting.checkpoint, run_dir, (".pt", ".safetensors"))
    seconds = {"dense scores": session.seconds, **result.timings}
    delivery = Delivery()
    undelivered = ""
    if config.bundle:
        started = time.monotonic()
        try:
            threads = torch.get_num_threads()
            demand = Demand.after(config.precision, allowed, result.recovered, threads)
            delivery = deliver(run_dir, config, demand, progress)
        except DeliveryError as error:  # the result is saved, and its report must not be lost
            undelivered = error.message
        seconds["export and timing"] = time.monotonic() - started
    report = make_report(
        result,
        session,
        checkpoint=display_name(config.checkpoint),
        objective=config.objective,
        budget=budget,
        delivery=delivery,
        undelivered=undelivered,
        timings=seconds,
        environment={**environment(), "seed": str(config.seed)},
    )
    write_report(report, setting.generator, result.generator, session.pictured, run_dir)
    session.store.clear()  # only now: a run that stops during export need not recover again
    return report, run_dir


def main(config: CompressConfig) -> int:
    if config.dry_run:
        sys.stdout.write("\n".join(forecast(config)) + "\n")
        return DONE
    with locked(run_directory(config)):
        report, run_dir = compress(config)
    sys.stdout.write(f"{to_text(report)}\n{run_dir / 'report.html'}\n")
    if report.undelivered:
        raise DeliveryError(f"the result is saved, but not its bundle: {report.undelivered}")
    missed = report.precision is not None and report.precision.missed
    return DONE if report.budget_met and not missed else BUDGET_MISSED


if __name__ == "__main__":
    sys.exit(run(main, CompressConfig, prog="python -m ard.compress", description=__doc__))
