"""Settings of sweep, compress and pareto, checked before any work starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from ard.assembly.closed_form import Fit
from ard.costs.alignment import AUTO, parse_rank_multiple
from ard.costs.objectives import MIXED, ObjectiveName, parse_weights
from ard.errors import BudgetError
from ard.factorization.methods import COMPETITORS, METHODS, MethodName
from ard.grid import FRACTIONS, RankGrid
from ard.pipeline import Effort
from ard.search.budget import Budget
from ard.session.setting import MeasuringConfig
from nas_gan.errors import InvalidValueError, UsageError
from nas_gan.panels import ADDRESS, CANDIDATES, MACHINE, OBJECTIVE, RECOVERY
from nas_gan.workers.options import WorkerOptions, check_workers

# Offsets from the seed of a run, one for each bank of latents and each random stream. They must all
# differ: latents that decided something must not also judge it.
SEEDS = {
    "single": 1, "joint": 2, "final": 3, "recovery": 4, "selection": 5, "statistics": 6,
    "fine_tuning": 8, "real": 9,
}  # fmt: skip
# From the least to the most; what they stand for is in `ard.session.effort`.
EffortName = Literal["quick", "default", "thorough"]
# From the seed of one bank of held-out latents to that of the next.
FRESH = 1_000_003


@dataclass(frozen=True)
class SweepConfig(WorkerOptions, MeasuringConfig):
    """Which factorizations are tried, and which cost is minimised."""

    checkpoint: Annotated[Path, tyro.conf.Positional, ADDRESS] = tyro.MISSING
    """Checkpoint to compress: a .pt or .safetensors file of this toolkit or of the published code,
    or zoo:NAME for a shipped one."""
    effort: EffortName = "default"
    """How much is measured and trained: quick (minutes, wide intervals), default, or thorough (a
    night). It sets the defaults of the other options; an unfinished run may be given more."""
    objective: ObjectiveName = "params"
    """Cost to minimise: params, macs, latency, or mixed for a weighted mean of them."""
    weights: Annotated[tuple[str, ...], OBJECTIVE] = ()
    """Weights of a mixed objective, such as params=1 latency=2."""
    latency_table: Annotated[Path | None, OBJECTIVE] = None
    """Table of layer times from python -m ard.latency; measured on this machine if not given."""
    latency_batch: Annotated[int, OBJECTIVE] = 1
    """Batch size whose latency is minimised."""
    methods: Annotated[tuple[MethodName, ...], CANDIDATES] = COMPETITORS
    """Factorization methods that compete on every layer."""
    fractions: Annotated[tuple[float, ...], CANDIDATES] = FRACTIONS
    """Target sizes of a factorized layer, as fractions of its dense weights."""
    precision: str = "fp32"
    """Precision of the deployed model (fp32, fp16, int8, or auto for the fastest that the ranks
    leave budget for), which sets the rank multiple and is that of the bundle."""
    activations: Annotated[bool, CANDIDATES] = True
    """Let gates take the place of slow activations, where the objective counts time."""
    rank_multiple: Annotated[str, CANDIDATES] = AUTO
    """Number that every rank is a multiple of; auto is 1 for fp32, 8 for fp16 and for
    a precision that is still open, and 32 for int8."""
    closed_form: Annotated[Fit, RECOVERY] = "none"
    """Closed-form correction of factorized layers, without training: none, moments or
    least_squares."""
    anchors: Annotated[int, CANDIDATES] = 16
    """Single-layer choices that are scored; the others are estimated. 0 scores all of them."""
    run_dir: Annotated[Path | None, ADDRESS] = None
    """Directory of the run, runs/NAME of the checkpoint by default; an unfinished run there is
    resumed."""
    dry_run: Annotated[bool, MACHINE] = False
    """Say how many evaluations, seconds and bytes the run would take, and end without writing."""


@dataclass(frozen=True)
class SearchConfig(SweepConfig):
    """How whole plans are recovered, and how many are tried."""

    recover_steps: Annotated[int, RECOVERY] = 200
    """Distillation updates after factorizing; 0 skips distillation."""
    recover_batch: Annotated[int, RECOVERY] = 32
    """Images per update of the recovery."""
    recover_lr: Annotated[float, RECOVERY] = 5e-4
    """Learning rate of the distillation."""
    feature_weight: Annotated[float | None, RECOVERY] = None
    """Weight of the discriminator's features relative to the image in the distillation loss; 1 by
    default, or 0 if the checkpoint holds no discriminator or is conditional."""
    stage_ratio: Annotated[float, RECOVERY] = 4.0
    """Compression ratio per stage: a plan that shrinks the network by more is recovered in several
    stages."""
    polish_steps: Annotated[int | None, RECOVERY] = None
    """Updates of adversarial fine-tuning against the checkpoint's discriminator, after the
    distillation; as many as recover_steps by default, or 0 if the checkpoint holds no
    discriminator."""
    trials_at_once: Annotated[int | None, RECOVERY] = None
    """Whole plans to choose, recover and measure at a time; as many as there are workers by
    default. The result depends on it, not on the number of workers."""
    max_trials: Annotated[int, RECOVERY] = 9
    """Rounds of recovery at most, of all whole plans together; the search ends before if the next
    one is not worth its time. A round continues a plan that missed the budget, or begins a harsher
    one with the weights of a milder one; it is measured at its end. A finished run may be given
    more."""
    max_rounds: Annotated[int, RECOVERY] = 8
    """Rounds of recovery that one plan may get at most; with 1 every plan begins with the dense
    generator."""


_Config = TypeVar("_Config", bound=SweepConfig)


def check(config: SweepConfig) -> None:
    """Check that every setting is within its range.

    Raises:
        InvalidValueError: a setting is out of range; the error names the first one.
    """
    least = {
        **{"samples": 2, "sweep_samples": 2, "batch_size": 1, "threads": 1, "latency_batch": 1},
        **{
            "recover_batch": 1,
            "max_trials": 1,
            "max_rounds": 1,
            "trials_at_once": 1,
            "recover_steps": 0,
            "polish_steps": 0,
        },
        **{"anchors": 0, "seed": 0},
    }
    for name, minimum in least.items():
        value = getattr(config, name, None)
        if value is not None and value < minimum:
            raise InvalidValueError(f"must be at least {minimum}; got {value}", setting=name)
    bounds = {"recover_lr": (0.0, False), "stage_ratio": (1.0, False), "feature_weight": (0, True)}
    for name, (bound, inclusive) in bounds.items():
        value = getattr(config, name, None)
        if value is None:
            continue
        if not (math.isfinite(value) and (value >= bound if inclusive else value > bound)):
            word = "at least" if inclusive else "above"
            raise InvalidValueError(f"must be {word} {bound:g}; got {value}", setting=name)
    if not config.fractions or not all(0 < fraction < 1 for fraction in config.fractions):
        raise InvalidValueError(
            f"must lie between 0 and 1; got {config.fractions}",
            setting="fractions",
        )
    if not config.methods:
        raise InvalidValueError(f"needs at least one of {', '.join(METHODS)}", setting="methods")
    check_workers(config, config.device)
    parse_rank_multiple(config.rank_multiple, config.precision)
    if config.objective == MIXED and not config.weights:
        raise InvalidValueError(
            "mixed needs weights, as in params=1 macs=2; none were given", setting="objective"
        )
    parse_weights(config.weights)
    if config.latency_table is not None and not config.latency_table.is_file():
        raise InvalidValueError(
            f"{config.latency_table}: no such file; measure a table with python -m ard.latency",
            setting="latency_table",
        )


def settled(config: _Config) -> _Config:
    """The settings with one thread for each worker, unless the user wants more.

    This process uses as many: how a sum is split among threads shows in its last digits, and
    scores must not depend on where they are made.
    """
    return replace(config, threads=config.threads or 1) if config.spread else config


def grid_of(config: SweepConfig) -> RankGrid:
    """The rank candidates."""
    multiple_of = parse_rank_multiple(config.rank_multiple, config.precision)
    return RankGrid(config.methods, config.fractions, multiple_of)


def effort_of(config: SweepConfig) -> Effort:
    """How much is measured; a sweep tries no whole plans."""
    if not isinstance(config, SearchConfig):
        return Effort(config.anchors, max_trials=0)
    trains = config.recover_steps or config.polish_steps
    return Effort(config.anchors, config.max_trials, config.max_rounds if trains else 1)


def budget_of(
    metric: str, fid_budget: str | None, quality_budget: str | None
) -> tuple[Budget, str]:
    """The one budget that was given, and how the command line spells it.

    Raises:
        UsageError: neither or both were given, or an FID budget was given for another metric.
        BudgetError: the budget cannot be parsed.
    """
    if fid_budget is not None and quality_budget is not None:
        raise UsageError(
            "cannot be given together with an FID budget; leave one of them out",
            setting="quality_budget",
        )
    if quality_budget is not None:
        return Budget.parse(quality_budget, "quality_budget"), "--quality-budget"
    if fid_budget is None:
        raise UsageError(
            "is missing; give the allowed rise in FID, such as 5%, or a quality budget, which is a "
            "rise in the chosen metric",
            setting="fid_budget",
        )
    if metric != "fid":
        raise UsageError(
            f"is a rise in FID, but the metric is {metric}; give a quality budget instead",
            setting="fid_budget",
        )
    return Budget.parse(fid_budget, "fid_budget"), "--fid-budget"


def parse_budgets(texts: tuple[str, ...]) -> list[Budget]:
    """The budgets in the order given, without duplicates.

    Raises:
        BudgetError: there is no budget, or one cannot be parsed.
    """
    if not texts:
        raise BudgetError("needs at least one, such as 2% 5% 10%", setting="budgets")
    return [Budget.parse(text, "budgets") for text in dict.fromkeys(texts)]
