"""Settings of sweep, compress and pareto, checked before anything is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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

# What is added to --seed for each bank of latents and each stream of a run. No two may be equal:
# a bank that chose something must not judge it.
SEEDS = {
    "single": 1, "joint": 2, "final": 3, "recovery": 4, "selection": 5, "statistics": 6,
    "proxy": 7, "fine_tuning": 8, "real": 9,
}  # fmt: skip


@dataclass(frozen=True)
class SweepConfig(MeasuringConfig):
    """Which choices are looked at, and what is to become small."""

    checkpoint: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A .pt or .safetensors file, native or of the published code; zoo:NAME for a shipped one."""
    objective: ObjectiveName = "params"
    """What to make small."""
    weights: tuple[str, ...] = ()
    """Of a mixed objective, as in params=1 latency=2."""
    latency_table: Path | None = None
    """Times of single layers (python -m ard.latency); measured here if not given."""
    latency_batch: int = 1
    """Batch size at which latency counts."""
    methods: tuple[MethodName, ...] = COMPETITORS
    """Factorizations that compete on every layer."""
    fractions: tuple[float, ...] = FRACTIONS
    """Shares of a layer's weights that its factorizations aim at."""
    precision: str = "fp32"
    """Of the deployed model: fp32, fp16 or int8; decides what ranks are multiples of."""
    rank_multiple: str = AUTO
    """Ranks are multiples of this; auto is 1 for fp32, 8 for fp16, 32 for int8."""
    closed_form: Fit = "none"
    """Repair of replaced layers without training: none, moments or least_squares."""
    anchors: int = 16
    """Single-layer choices that are scored; the others are estimated. 0 scores all of them."""
    run_dir: Path | None = None
    """Where the run is kept; runs/NAME of the checkpoint if not given."""


@dataclass(frozen=True)
class SearchConfig(SweepConfig):
    """How whole plans are recovered and how many are tried."""

    recover_steps: int = 200
    """Distillation updates after factorizing; 0 leaves them out."""
    recover_batch: int = 32
    recover_lr: float = 5e-4
    feature_weight: float | None = None
    """Weight of the discriminator's features beside the image in the distillation; if not given 1,
    or 0 where the checkpoint holds no discriminator or a conditional one."""
    stage_ratio: float = 4.0
    """A plan that shrinks the net by more is recovered in stages of this ratio each."""
    polish_steps: int | None = None
    """Adversarial updates against the checkpoint's discriminator, after distillation; if not given
    as many as of those, or 0 where the checkpoint holds no discriminator."""
    max_trials: int = 6
    """Whole plans to recover and measure."""


def check(config: SweepConfig) -> None:
    """Do nothing if every setting is within its range.

    Raises:
        InvalidValueError: naming the first that is not.
    """
    least = {
        **{"samples": 2, "sweep_samples": 2, "batch_size": 1, "threads": 1, "latency_batch": 1},
        **{"recover_batch": 1, "max_trials": 1, "recover_steps": 0, "polish_steps": 0},
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
            f"must lie between 0 and 1; got {config.fractions}", setting="fractions"
        )
    if not config.methods:
        raise InvalidValueError(f"needs at least one of {', '.join(METHODS)}", setting="methods")
    parse_rank_multiple(config.rank_multiple, config.precision)
    if config.objective == MIXED and not config.weights:
        raise InvalidValueError(
            "mixed needs weights, as in params=1 macs=2; none were given", setting="objective"
        )
    parse_weights(config.weights)
    if config.latency_table is not None and not config.latency_table.is_file():
        raise InvalidValueError(
            f"{config.latency_table}: no such file; measure one by "
            "python -m ard.latency CHECKPOINT --out DIR",
            setting="latency_table",
        )


def grid_of(config: SweepConfig) -> RankGrid:
    """The rank candidates."""
    multiple_of = parse_rank_multiple(config.rank_multiple, config.precision)
    return RankGrid(config.methods, config.fractions, multiple_of)


def effort_of(config: SweepConfig) -> Effort:
    """How much is measured; a sweep tries no whole plan."""
    trials = config.max_trials if isinstance(config, SearchConfig) else 0
    return Effort(config.anchors, trials)


def budget_of(
    metric: str, fid_budget: str | None, quality_budget: str | None
) -> tuple[Budget, str]:
    """The one budget that was given, and how the command line spells it.

    Raises:
        UsageError: none was given, or both were, or one in FID for another metric.
        BudgetError: it cannot be read.
    """
    if (fid_budget is None) == (quality_budget is None):
        found = "neither" if fid_budget is None else "both"
        raise UsageError(f"give one of --fid-budget and --quality-budget; got {found}")
    if fid_budget is None:
        assert quality_budget is not None
        return Budget.parse(quality_budget, "quality_budget"), "--quality-budget"
    if metric != "fid":
        raise UsageError(
            f"--fid-budget is a rise in FID, and the metric is {metric}; give --quality-budget"
        )
    return Budget.parse(fid_budget, "fid_budget"), "--fid-budget"


def parse_budgets(texts: tuple[str, ...]) -> list[Budget]:
    """The budgets as they were asked for, each once.

    Raises:
        BudgetError: there is none, or one cannot be read.
    """
    if not texts:
        raise BudgetError("needs at least one, as in 2% 5% 10%", setting="budgets")
    return [Budget.parse(text, "budgets") for text in dict.fromkeys(texts)]
