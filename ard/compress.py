"""Compress a generator under an image-quality budget.

    python -m ard.compress ckpt.pt --fid-budget 5%
    python -m ard.compress ckpt.pt --target latency=0.4

A budget is what quality may cost, and the smallest network within it is found. A target is what
the network may cost, and the smallest rise that reaches it is found: a share of the parameters,
multiply-adds or time, a time such as latency=5ms, or fps=60@1. With both, the cheapest within the
budget that reaches the target.

The run directory holds the plan, the compressed checkpoint, the report and a bundle for the
device. Run the same command again to resume. Exit code 3 means that the best plan found is saved
but does not meet the budget or reach the target, or leaves too little of the budget for the
precision; the bundle is then float32.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch

from ard.errors import DeliveryError
from ard.forecast.dry_run import forecast
from ard.measuring.sensitivity import SensitivityTable
from ard.pipeline import CompressionResult, Goal, Prepared, Reach, compress_for
from ard.report.delivery import (
    FLOAT32,
    TIMING,
    Delivery,
    Demand,
    batches_to_time,
    deliver,
    network_timer,
)
from ard.report.summary import make_report
from ard.report.values import CompressionReport, Reached, to_text
from ard.report.writing import write_report
from ard.search.budget import Budget
from ard.search.controller import WELL_SPENT
from ard.search.reachable import reachable_plans
from ard.search.reachable import to_text as reachable_text
from ard.search.target import Target
from ard.session.config import SearchConfig, budget_of
from ard.session.effort import effort_defaults
from ard.session.finished import FinishedSearches
from ard.session.goals import TIMED, reach_of, with_target
from ard.session.record import environment, fingerprint, run_directory
from ard.session.saving import save_found
from ard.session.search import Session, open_session, opening_lines
from nas_gan.cli import BUDGET_MISSED, DONE, progress, run, say
from nas_gan.errors import UsageError
from nas_gan.panels import FILES
from nas_gan.remote.workplace import working_in
from nas_gan.workers.executors import Executor
from nas_gan.workers.options import opened_executor
from nas_gan.zoo import display_name

# In the run directory, the plan that reaches a target that the budget has no room for.
AT_TARGET = "at-target"


@dataclass(frozen=True)
class CompressConfig(SearchConfig):
    """What to compress, and how much quality it may cost."""

    fid_budget: str | None = None
    """Allowed rise in FID: 0.5 is absolute, 5% is relative to the dense generator's."""
    quality_budget: str | None = None
    """Allowed rise in the chosen metric, in the same format; use it for metrics other than FID."""
    target: str | None = None
    """Cost of the whole network to reach: params=0.25, macs=0.5, latency=0.4, latency=5ms or
    fps=60@1, a frame rate at a batch size."""
    bundle: Annotated[bool, FILES] = True
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
    target = None if config.target is None else Target.parse(config.target, "target")
    if target is not None:
        config = with_target(config, target)
    budget, option = asked_budget(config, target)
    budgets = [] if budget is None else [budget]
    session = open_session(config, tell, executor)
    setting, run_dir = session.setting, session.run_dir
    for line in opening_lines(config, session, budgets, option):
        tell(line)

    def show_reachable(prepared: Prepared, table: SensitivityTable) -> None:
        rows = reachable_plans(table, prepared.profile, prepared.parts, session.search.cost)
        text = reachable_text(rows, prepared.profile, session.dense, setting.distance)
        tell(text)

    allowed = None if budget is None else budget.absolute(session.dense)
    finished = FinishedSearches(run_dir, config, fingerprint(config, setting))
    search = session.search
    search = replace(search, effort=replace(search.effort, earlier=finished.earlier()))
    reach, dense_cost = None, 0.0
    if target is not None:
        timed = network_timer(config, session)
        reach, dense_cost = reach_of(
            target, session.profile, search.cost, search.generator, timed, "target"
        )
        tell(f"target {target.text}: {reach.limit:.4g} of {dense_cost:.4g}")
    [result] = compress_for(
        search, [Goal(allowed, reach)], profile=session.profile, on_table=show_reachable
    )
    result.table.save(run_dir / "sensitivity.csv")
    save_found(result, result.profile, setting.checkpoint, run_dir, (".pt", ".safetensors"))
    if result.beyond is not None:
        save_found(result.beyond, result.profile, setting.checkpoint, run_dir / AT_TARGET)
    seconds = {"dense scores": session.seconds, **result.timings}
    delivery = Delivery()
    undelivered = ""
    if config.bundle:
        started = time.monotonic()
        try:
            threads = torch.get_num_threads()
            # Without a budget there is no other precision to find room for.
            demand = Demand(threads=threads)
            if allowed is not None:
                demand = Demand.after(config.precision, allowed, result.recovered, threads)
            batches = {*timed_batches(session), *((config.latency_batch,) if target else ())}
            delivery = deliver(run_dir, config, demand, progress, sorted(batches))
        except DeliveryError as error:  # the result is saved, and its report must not be lost
            undelivered = error.message
        seconds["export and timing"] = time.monotonic() - started
    report = make_report(
        result,
        session,
        checkpoint=display_name(config.checkpoint),
        objective=config.objective,
        budget=budget,
        target=None
        if target is None or reach is None
        else reached_target(target, reach, dense_cost, result, delivery, config),
        delivery=delivery,
        undelivered=undelivered,
        timings=seconds,
        environment={**environment(), "seed": str(config.seed)},
    )
    write_report(report, setting.generator, result.generator, session.pictured, run_dir)
    if target is not None:
        shutil.rmtree(run_dir / TIMING, ignore_errors=True)
    # Only now: a run that stops during export need not recover again.
    chosen = [found for found in (result, result.beyond) if found is not None]
    session.store.clear(kept=[(found.plan, found.history) for found in chosen])
    finished.add()
    return report, run_dir


def timed_batches(session: Session) -> tuple[int, ...]:
    """The batch sizes at which the bundle is timed."""
    one = session.pictured[:1]
    with torch.inference_mode():
        return batches_to_time(lambda: session.setting.generator(one).cpu())


def asked_budget(config: CompressConfig, target: Target | None) -> tuple[Budget | None, str]:
    """The budget, if one was given, and how the command line spells it.

    Raises:
        UsageError: neither a budget nor a target was given, or settings do not fit together.
    """
    if config.fid_budget is None and config.quality_budget is None:
        if target is None:
            raise UsageError(
                "is missing; give the allowed rise in FID, such as 5%, a quality budget, which is "
                "a rise in the chosen metric, or a target",
                setting="fid_budget",
            )
        if config.precision != FLOAT32:
            raise UsageError(
                f"is {config.precision}, whose rise needs a budget; give one beside the target",
                setting="precision",
            )
        return None, ""
    return budget_of(config.metric, config.fid_budget, config.quality_budget)


def reached_target(
    target: Target,
    reach: Reach,
    dense: float,
    result: CompressionResult,
    delivery: Delivery,
    config: CompressConfig,
) -> Reached:
    """Whether the saved network reaches the target; by the times of its bundle if there are any."""
    assert result.cost is not None
    limit, cost, how = reach.limit, result.cost, "counted"
    if target.quantity == TIMED:
        how = f"measured at batch {config.latency_batch}"
        if reach.measured is None:
            how = f"the sum of its layers at batch {config.latency_batch} in the table"
        else:
            for row in delivery.latency:
                if row.batch == config.latency_batch:
                    limit, cost, dense = target.limit(row.dense_ms), row.compressed_ms, row.dense_ms
    other, beyond = result.beyond, ""
    if other is not None and other.cost is not None:
        beyond = (
            f"{AT_TARGET}/ holds the nearest on the other side, {other.cost:.4g} at a rise of "
            f"{other.recovered.rise:+.3g} [{other.recovered.ci_low:+.3g}, "
            f"{other.recovered.ci_high:+.3g}]"
        )
    return Reached(target.text, target.quantity, limit, dense, cost, how, cost <= limit, beyond)


def unspent(report: CompressionReport, max_trials: int) -> str:
    """A hint if all rounds were used but much of the budget was not; empty otherwise."""
    if report.budget is None or report.target is not None or not report.budget_met:
        return ""
    used = report.recovered.ci_high / report.budget if report.budget else 1.0
    if used >= WELL_SPENT or len(report.trials) < max_trials:
        return ""
    share = f"{100 * max(used, 0):.0f} %"
    return (
        f"hint: all {max_trials} rounds of recovery were used, but {share} of the budget; with "
        f"--max-trials {2 * max_trials} the search goes on from here and may find a smaller network"
    )


def main(config: CompressConfig) -> int:
    if config.dry_run:
        if config.target is not None:
            config = with_target(config, Target.parse(config.target, "target"))
        sys.stdout.write("\n".join(forecast(config, delivers=config.bundle)) + "\n")
        return DONE
    with working_in(run_directory(config)) as place:
        report, run_dir = compress(replace(config, run_dir=place.folder))
    if hint := unspent(report, config.max_trials):
        say(hint)
    sys.stdout.write(f"{to_text(report)}\n{place.shown(run_dir / 'report.html')}\n")
    if report.undelivered:
        raise DeliveryError(f"the result is saved, but not its bundle: {report.undelivered}")
    return DONE if report.met else BUDGET_MISSED


if __name__ == "__main__":
    sys.exit(
        run(
            main,
            CompressConfig,
            prog="python -m ard.compress",
            description=__doc__,
            default=lambda: effort_defaults(CompressConfig, sys.argv[1:]),
        )
    )
