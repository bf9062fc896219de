"""Compress a generator under an FID budget: `python -m ard.compress ckpt.pt --fid-budget 5%`.

The run directory holds the plan, the compressed checkpoint, the report and a bundle for the
device. The same command goes on where it was stopped. Exit code 3: the best plan found is saved,
but it does not meet the budget.
"""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from ard.budget import FidBudget
from ard.cost import Objective, make_cost
from ard.delivery import compare_latency, export_bundle
from ard.errors import ArdError
from ard.evaluate import Candidate, FidEvaluator
from ard.journal import FileJournal
from ard.pipeline import FRACTIONS, METHODS, CompressionResult, Evaluators, compress_generator
from ard.plan import DENSE, Method
from ard.plan import METHODS as ALL_METHODS
from ard.recovery import Recovery, recover
from ard.report import CompressionReport, LatencyRow, distance_name, to_json, to_text
from ard.setting import MeasuringConfig, Setting, load_setting, make_evaluator
from ard.store import RecoveredStore, compressed_checkpoint
from ard.summary import make_report
from nas_gan.checkpoint import save_checkpoint
from nas_gan.cli import BUDGET_MISSED, DONE, progress, run
from nas_gan.errors import InvalidValueError
from nas_gan.files import sha256, write_json, write_text
from nas_gan.metrics.sampling import latent_bank

N_STATISTICS = 128  # latents behind activation covariances and batch statistics
N_SELECTION = 128  # latents on which recovery picks its best state
N_PICTURE = 24
LATENCY_BATCHES = (1, 64)


@dataclass(frozen=True)
class CompressConfig(MeasuringConfig):
    """What to compress, how much quality it may cost, and how to measure that."""

    checkpoint: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A .pt or .safetensors file, native or of the published code."""
    fid_budget: str = tyro.MISSING
    """Allowed rise: 0.5 is absolute, 5% is relative to the dense generator."""
    objective: Objective = "params"
    """What to make small."""
    methods: tuple[Method, ...] = METHODS
    """Factorizations that compete on every layer."""
    fractions: tuple[float, ...] = FRACTIONS
    """Shares of a layer's weights that its factorizations aim at."""
    recover_steps: int = 300
    """Distillation updates after factorizing; 0 leaves them out."""
    recover_batch: int = 32
    recover_lr: float = 1e-4
    max_trials: int = 6
    """Whole plans to recover and measure."""
    run_dir: Path | None = None
    """Where the run is kept; runs/NAME of the checkpoint if not given."""
    bundle: bool = True
    """Export an ONNX bundle and time it against the dense generator."""


def check(config: CompressConfig) -> FidBudget:
    """The budget of a configuration, after everything else in it was found sensible.

    Raises:
        BudgetError: the budget cannot be read.
        InvalidValueError: another setting is out of its range.
    """
    budget = FidBudget.parse(config.fid_budget)
    least = {"samples": 2, "sweep_samples": 2, "recover_batch": 1, "batch_size": 1, "threads": 1}
    for name, minimum in {**least, "max_trials": 1, "recover_steps": 0, "seed": 0}.items():
        value = getattr(config, name)
        if value is not None and value < minimum:
            flag = f"--{name.replace('_', '-')}"
            raise InvalidValueError(f"{flag} must be at least {minimum}; got {value}")
    if not (math.isfinite(config.recover_lr) and config.recover_lr > 0):
        raise InvalidValueError(f"--recover-lr must be above 0; got {config.recover_lr}")
    if not config.fractions or not all(0 < fraction < 1 for fraction in config.fractions):
        raise InvalidValueError(f"--fractions must lie between 0 and 1; got {config.fractions}")
    if not config.methods:
        raise InvalidValueError(f"--methods needs at least one of {', '.join(ALL_METHODS)}")
    return budget


def compress(config: CompressConfig, console: Console) -> tuple[CompressionReport, Path]:
    """Run the whole command and write the run directory; returns the report and that directory."""
    budget = check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    setting = load_setting(config.checkpoint, config)
    run_dir = config.run_dir or Path("runs") / config.checkpoint.stem
    if run_dir.exists() and not run_dir.is_dir():
        raise ArdError(f"{run_dir} is a file; give another --run-dir")
    journal = FileJournal(run_dir / "journal.jsonl", fingerprint(config, setting))
    write_json(run_dir / "config.json", resolved_config(config, setting, run_dir))

    started = time.monotonic()
    single, joint, final = make_evaluators(config, setting)
    seconds = {"dense scores": time.monotonic() - started}
    fid_dense = final.paired.fid_dense
    allowed = budget.absolute(fid_dense)
    for line in remarks(config, setting, budget, fid_dense):
        console.print(line, highlight=False)
    store = make_store(config, setting, run_dir, single)
    result = compress_generator(
        setting.generator,
        latent_bank(N_STATISTICS, setting.latent_dim, config.seed + 6).to(config.device),
        fid_budget=allowed,
        evaluators=Evaluators(single, joint, final, factorized=replace(final, bootstrap=False)),
        cost=make_cost(config.objective),
        recover=store,
        journal=journal,
        methods=config.methods,
        fractions=config.fractions,
        max_trials=config.max_trials,
        progress=progress,
    )
    save_result(setting, result, run_dir)
    latency: tuple[LatencyRow, ...] = ()
    if config.bundle:
        started = time.monotonic()
        latency = deliver(run_dir, config.model)
        seconds["export and timing"] = time.monotonic() - started
    report = make_report(
        result,
        setting,
        checkpoint=config.checkpoint.name,
        objective=config.objective,
        budget=allowed,
        budget_text=budget.text,
        fid_dense=fid_dense,
        latency=latency,
        timings={**seconds, **result.timings},
        environment={**environment(), "seed": str(config.seed)},
    )
    picture = final.latents[:N_PICTURE].to(config.device)
    write_report(report, setting.generator, result.generator, picture, run_dir)
    store.clear()  # only now: a command that stopped while exporting need not recover again
    return report, run_dir


def remarks(
    config: CompressConfig, setting: Setting, budget: FidBudget, fid_dense: float
) -> Iterator[str]:
    """What a user should know before the search starts."""
    yield budget.explain(fid_dense, setting.extractor.name)
    if not setting.comparable and not budget.relative and fid_dense > 0:
        share = 100 * budget.absolute(fid_dense) / fid_dense
        yield (
            f"hint: a distance in {setting.extractor.name} features is on another scale than a "
            f"published FID; {budget.text} says the same here as --fid-budget {share:.3g}%"
        )
    enough = 2 * setting.extractor.dim
    if config.samples < enough:
        yield (
            f"hint: intervals from fewer than {enough} images (twice the features) are too "
            f"narrow; --samples is {config.samples}"
        )


def make_evaluators(
    config: CompressConfig, setting: Setting
) -> tuple[FidEvaluator, FidEvaluator, FidEvaluator]:
    """Looks at single layers, at whole plans and at the end, each on its own bank of latents."""
    with progress("scoring the dense generator", 3) as advance:
        single = make_evaluator(setting, config, n=config.sweep_samples, seed=config.seed + 1)
        advance(1)
        joint = make_evaluator(setting, config, n=config.samples, seed=config.seed + 2)
        advance(1)
        final = make_evaluator(
            setting, config, n=config.samples, seed=config.seed + 3, bootstrap=True
        )
        advance(1)
    return single, joint, final


def make_store(
    config: CompressConfig, setting: Setting, run_dir: Path, evaluate: FidEvaluator
) -> RecoveredStore:
    """The recovery of a run, remembered in its directory; `evaluate` picks its best state."""
    selection = latent_bank(N_SELECTION, setting.latent_dim, config.seed + 5)
    settings = Recovery(
        config.recover_steps, config.recover_batch, config.recover_lr, seed=config.seed + 4
    )

    def recover_with_progress(factorized: nn.Module) -> nn.Module:
        with progress("  recovering", config.recover_steps) as advance:
            return recover(
                factorized,
                setting.generator,
                settings,
                selection=selection,
                score=lambda network: evaluate(Candidate(DENSE, lambda _: network)).fid,
                latent_dim=setting.latent_dim,
                device=config.device,
                on_update=advance,
            )

    folder = run_dir / "recovered"
    return RecoveredStore(folder, setting.checkpoint, setting.generator, recover_with_progress)


def fingerprint(config: CompressConfig, setting: Setting) -> dict[str, Any]:
    """What a recorded measurement depends on; budget, objective and methods are not part of it."""
    names = ("samples", "sweep_samples", "recover_steps", "recover_batch", "recover_lr", "seed")
    return {
        "checkpoint": sha256(config.checkpoint),
        "extractor": setting.extractor.name,
        "reference": setting.reference,
        **{name: getattr(config, name) for name in names},
    }


def resolved_config(config: CompressConfig, setting: Setting, run_dir: Path) -> dict[str, Any]:
    """Every setting after defaults, with what was found for the automatic ones."""
    return {
        **{k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
        "run_dir": str(run_dir),
        "extractor": setting.extractor.name,
        "reference_source": setting.reference,
        "environment": environment(),
    }


def environment() -> dict[str, str]:
    """Versions and the machine that the run depended on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }


def save_result(setting: Setting, result: CompressionResult, run_dir: Path) -> None:
    """Write the sensitivity table, the plan and the compressed checkpoint."""
    result.table.save(run_dir / "sensitivity.csv")
    write_text(run_dir / "plan.json", result.plan.to_json() + "\n")
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
    from ard.plots import pareto_figure, samples_figure, save_figure, sensitivity_figure
    from ard.report_html import to_html

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
