"""Compress a generator under an FID budget: `python -m ard.compress ckpt.pt --fid-budget 5%`.

The run directory holds the plan, the compressed checkpoint, the report and a bundle for the
device. The same command goes on where it was stopped. Exit code 3: the best plan found is saved,
but it does not meet the budget.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from ard.measuring.sensitivity import SensitivityTable
from ard.pipeline import CompressionResult, Prepared, compress_generator
from ard.recovery.store import compressed_checkpoint
from ard.report.delivery import compare_latency, export_bundle
from ard.report.summary import make_report
from ard.report.values import CompressionReport, LatencyRow, distance_name, to_json, to_text
from ard.search.budget import FidBudget
from ard.search.reachable import reachable_plans
from ard.search.reachable import to_text as reachable_text
from ard.session.config import SearchConfig, multiple_of
from ard.session.record import environment
from ard.session.search import open_search, statistics_latents, tell_remarks
from ard.session.setting import Setting
from nas_gan.checkpoint import save_checkpoint
from nas_gan.cli import BUDGET_MISSED, DONE, progress, run
from nas_gan.files import write_text
from nas_gan.zoo import display_name

LATENCY_BATCHES = (1, 64)


@dataclass(frozen=True)
class CompressConfig(SearchConfig):
    """What to compress, how much quality it may cost, and how to measure that."""

    fid_budget: str = tyro.MISSING
    """Allowed rise: 0.5 is absolute, 5% is relative to the dense generator."""
    bundle: bool = True
    """Export an ONNX bundle and time it against the dense generator."""


def compress(config: CompressConfig, console: Console) -> tuple[CompressionReport, Path]:
    """Run the whole command and write the run directory; returns the report and that directory."""
    budget = FidBudget.parse(config.fid_budget)
    search = open_search(config)
    setting, run_dir, fid_dense = search.setting, search.run_dir, search.fid_dense
    allowed = budget.absolute(fid_dense)
    tell_remarks(console, config, search, budget)

    def show_reachable(prepared: Prepared, table: SensitivityTable) -> None:
        rows = reachable_plans(table, prepared.profile, prepared.layers, search.cost)
        console.print(reachable_text(rows, prepared.profile, fid_dense), highlight=False)

    result = compress_generator(
        setting.generator,
        statistics_latents(config, setting),
        fid_budget=allowed,
        evaluators=search.evaluators,
        cost=search.cost,
        recover=search.store,
        journal=search.journal,
        methods=config.methods,
        fractions=config.fractions,
        multiple_of=multiple_of(config),
        fit=config.closed_form,
        anchors=config.anchors,
        max_trials=config.max_trials,
        on_table=show_reachable,
        progress=progress,
    )
    save_result(setting, result, run_dir)
    seconds = {"dense scores": search.seconds, **result.timings}
    latency: tuple[LatencyRow, ...] = ()
    if config.bundle:
        started = time.monotonic()
        latency = deliver(run_dir, config.model)
        seconds["export and timing"] = time.monotonic() - started
    report = make_report(
        result,
        setting,
        checkpoint=display_name(config.checkpoint),
        objective=config.objective,
        budget=allowed,
        budget_text=budget.text,
        fid_dense=fid_dense,
        latency=latency,
        timings=seconds,
        environment={**environment(), "seed": str(config.seed)},
    )
    write_report(report, setting.generator, result.generator, search.pictured, run_dir)
    search.store.clear()  # only now: a command that stopped while exporting need not recover again
    return report, run_dir


def save_result(setting: Setting, result: CompressionResult, run_dir: Path) -> None:
    """Write the sensitivity table, the plan and the compressed checkpoint."""
    result.table.save(run_dir / "sensitivity.csv")
    plan = result.plan.with_shapes(
        {layer.name: layer.weight_shape for layer in result.profile.layers}
    )
    write_text(run_dir / "plan.json", plan.to_json() + "\n")
    checkpoint = compressed_checkpoint(setting.checkpoint, result.generator, result.plan)
    for suffix in (".pt", ".safetensors"):
        save_checkpoint(checkpoint, run_dir / f"compressed{suffix}")


def deliver(run_dir: Path, model: str | None) -> tuple[LatencyRow, ...]:
    """Export the bundle and time it against the dense generator."""
    with progress("exporting and timing", 2) as advance:
        export_bundle(run_dir, run_dir / "bundle", model)
        advance(1)
        latency = compare_latency(
            run_dir / "bundle",
            run_dir / "bench",
            batches=LATENCY_BATCHES,
            threads=torch.get_num_threads(),
        )
        advance(1)
    return latency


def write_report(
    report: CompressionReport, dense: nn.Module, small: nn.Module, latents: Tensor, run_dir: Path
) -> None:
    """Write report.json, report.html and the three pictures."""
    from ard.report.page import to_html
    from ard.report.plots import pareto_figure, samples_figure, sensitivity_figure
    from nas_gan.pictures.plot_style import save_figure

    with torch.inference_mode():
        pictures = samples_figure(dense(latents).cpu(), small(latents).cpu())
    save_figure(pictures, run_dir / "samples.png")
    save_figure(pareto_figure(report), run_dir / "pareto.png")
    sensitivity = sensitivity_figure(
        report.table,
        report.layers,
        budget=report.budget,
        plan=report.plan,
        distance=distance_name(report),
    )
    save_figure(sensitivity, run_dir / "sensitivity.png")
    write_text(run_dir / "report.json", to_json(report))
    html = to_html(report, samples_png=(run_dir / "samples.png").read_bytes())
    write_text(run_dir / "report.html", html)


def main(config: CompressConfig) -> int:
    report, run_dir = compress(config, Console(stderr=True))
    sys.stdout.write(f"{to_text(report)}\n{run_dir / 'report.html'}\n")
    return DONE if report.budget_met else BUDGET_MISSED


if __name__ == "__main__":
    sys.exit(run(main, CompressConfig, prog="python -m ard.compress", description=__doc__))
