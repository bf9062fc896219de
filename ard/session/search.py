"""What compress, sweep and pareto share: settings, evaluators, recovery, the record of a run."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from ard.assembly.closed_form import Fit
from ard.costs.alignment import AUTO, parse_rank_multiple
from ard.costs.cost import LayerCost, Objective, Quantity, make_cost, parse_weights
from ard.costs.latency_table import LatencyTable
from ard.errors import ArdError
from ard.latency import TABLE, measure_layers
from ard.layers import LayerProfile, profile_layers
from ard.measuring.evaluate import Candidate, FidEvaluator
from ard.measuring.journal import FileJournal
from ard.pipeline import COMPETITORS, FRACTIONS, Build, Evaluators, Prepared, prepare
from ard.plan import DENSE, METHODS, Method, RankPlan
from ard.recovery.adversarial import Polish, batches_of, polish
from ard.recovery.distillation import Distance, Recovery, feature_distance, recover
from ard.recovery.staging import in_stages
from ard.recovery.store import RecoveredStore
from ard.search.budget import FidBudget
from ard.search.proxy import MovementEvaluator, feature_error
from ard.session.setting import MeasuringConfig, Setting, load_setting, make_evaluator
from nas_gan.checkpoint import Checkpoint, build_saved_discriminator
from nas_gan.cli import progress
from nas_gan.data.loading import ShuffledBatches
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.files import sha256, write_json
from nas_gan.losses.registry import ALIASES, LOSSES
from nas_gan.training.steps import Batch, StepLatents, image_distance

N_STATISTICS = 128  # latents behind activation covariances and everything fitted in closed form
N_PROXY = 32  # latents whose images may move
N_SELECTION = 128  # latents on which recovery watches the image error
# Of the discriminator's features against the image, both as shares: benchmarks/recovery.py.
FEATURE_WEIGHT = 1.0
N_PICTURED = 24  # latents whose images are shown
# What is added to --seed for each bank of latents and each stream of a run. No two may be equal:
# a bank that chose something must not judge it.
SEEDS = {
    "single": 1, "joint": 2, "final": 3, "recovery": 4, "selection": 5, "statistics": 6,
    "proxy": 7, "polish": 8, "real": 9,
}  # fmt: skip


@dataclass(frozen=True)
class SweepConfig(MeasuringConfig):
    """Which choices are looked at, and what is to become small."""

    checkpoint: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A .pt or .safetensors file, native or of the published code."""
    objective: Objective = "params"
    """What to make small."""
    weights: tuple[str, ...] = ()
    """Of a mixed objective, as in params=1 latency=2."""
    latency_table: Path | None = None
    """Times of single layers (python -m ard.latency); measured here if not given."""
    latency_batch: int = 1
    """Batch size at which latency counts."""
    methods: tuple[Method, ...] = COMPETITORS
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
    """Single layers whose FID is measured, the others are estimated; 0 measures all."""
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
            raise InvalidValueError(f"{_flag(name)} must be at least {minimum}; got {value}")
    bounds = {"recover_lr": (0.0, False), "stage_ratio": (1.0, False), "feature_weight": (0, True)}
    for name, (bound, inclusive) in bounds.items():
        value = getattr(config, name, None)
        if value is None:
            continue
        if not (math.isfinite(value) and (value >= bound if inclusive else value > bound)):
            word = "at least" if inclusive else "above"
            raise InvalidValueError(f"{_flag(name)} must be {word} {bound:g}; got {value}")
    if not config.fractions or not all(0 < fraction < 1 for fraction in config.fractions):
        raise InvalidValueError(f"--fractions must lie between 0 and 1; got {config.fractions}")
    if not config.methods:
        raise InvalidValueError(f"--methods needs at least one of {', '.join(METHODS)}")
    parse_rank_multiple(config.rank_multiple, config.precision)
    if config.objective == "mixed" and not config.weights:
        raise InvalidValueError("--objective mixed needs --weights, as in params=1 macs=2")
    parse_weights(config.weights)
    if config.latency_table is not None and not config.latency_table.is_file():
        raise InvalidValueError(
            f"--latency-table {config.latency_table}: no such file; measure one by "
            "python -m ard.latency CHECKPOINT --out DIR"
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run_directory(config: SweepConfig) -> Path:
    """Where the run is kept.

    Raises:
        ArdError: there is a file of that name.
    """
    run_dir = config.run_dir or Path("runs") / config.checkpoint.stem
    if run_dir.exists() and not run_dir.is_dir():
        raise ArdError(f"{run_dir} is a file; give another --run-dir")
    return run_dir


def multiple_of(config: SweepConfig) -> int:
    """What ranks are multiples of."""
    return parse_rank_multiple(config.rank_multiple, config.precision)


def open_journal(config: SweepConfig, setting: Setting, run_dir: Path) -> FileJournal:
    """The record of a run; its settings are written beside it."""
    journal = FileJournal(run_dir / "journal.jsonl", fingerprint(config, setting))
    write_json(run_dir / "config.json", resolved_config(config, setting, run_dir))
    return journal


def fingerprint(config: SweepConfig, setting: Setting) -> dict[str, Any]:
    """What a recorded measurement depends on; budget, objective and methods are not part of it."""
    names = ["samples", "sweep_samples", "closed_form", "model", "seed"]
    if isinstance(config, SearchConfig):
        names += ["recover_steps", "recover_batch", "recover_lr"]
        names += ["feature_weight", "stage_ratio", "polish_steps"]
    return {
        "checkpoint": sha256(config.checkpoint),
        "extractor": setting.extractor.name,
        "reference": setting.reference,
        **{name: getattr(config, name) for name in names},
    }


def resolved_config(config: SweepConfig, setting: Setting, run_dir: Path) -> dict[str, Any]:
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


def tell_remarks(console: Console, config: SearchConfig, search: Search, budget: FidBudget) -> None:
    """Print what a user should know before the search starts."""
    for line in remarks(config, search.setting, budget, search.fid_dense):
        console.print(line, highlight=False)
    if search.polished_with is not None:
        n_steps = polish_steps(config, search.setting)
        console.print(
            f"recovery: {config.recover_steps} updates of distillation, then {n_steps} against the "
            f"checkpoint's discriminator ({search.polished_with})",
            highlight=False,
        )


def remarks(
    config: SweepConfig, setting: Setting, budget: FidBudget, fid_dense: float
) -> Iterator[str]:
    """What the budget means here, and what about the settings is doubtful."""
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


def layer_cost(config: SweepConfig, setting: Setting, run_dir: Path) -> LayerCost:
    """The cost that the objective names; times that no table was given for are measured now."""
    weights: Mapping[Quantity, float] = parse_weights(config.weights) if config.weights else {}
    timed = config.objective == "latency" or "latency" in weights
    if not timed and config.objective != "mixed":
        return make_cost(config.objective)
    with torch.inference_mode():
        latents = setting.latents(2, config.seed).to(config.device)
        layers = profile_layers(setting.generator, latents).layers
    table = _latency_table(config, layers, run_dir) if timed else None
    return make_cost(config.objective, table=table, weights=weights, layers=layers)


def _latency_table(
    config: SweepConfig, layers: tuple[LayerProfile, ...], run_dir: Path
) -> LatencyTable:
    path = config.latency_table
    if path is None:
        path = run_dir / TABLE
        measure_layers(
            layers,
            run_dir / "layers",
            path,
            methods=config.methods,
            fractions=config.fractions,
            multiple_of=multiple_of(config),
            batches=(config.latency_batch,),
            threads=torch.get_num_threads(),
        )
    return LatencyTable.read(path).at(config.latency_batch)


def single_evaluator(config: SweepConfig, setting: Setting) -> FidEvaluator:
    """The look at single layers, on a bank of its own."""
    seed = config.seed + SEEDS["single"]
    return make_evaluator(setting, config, n=config.sweep_samples, seed=seed)


def proxy_evaluator(config: SweepConfig, setting: Setting) -> MovementEvaluator | None:
    """How far a choice moves the features of a few images, unless every choice is scored."""
    if not config.anchors:
        return None
    latents = setting.latents(N_PROXY, config.seed + SEEDS["proxy"])
    measure = feature_error(
        setting.generator,
        latents,
        setting.extractor,
        batch_size=config.batch_size,
        device=config.device,
    )
    return MovementEvaluator(measure, N_PROXY, setting.extractor.name)


@dataclass(frozen=True)
class Search:
    """What a search for plans is made of, wired as its settings say.

    Attributes:
        setting: the checkpoint and how its quality is measured.
        run_dir: where the run is kept.
        journal: the record of its measurements.
        cost: what is to become small.
        evaluators: looks at single layers, at whole plans and at the end, each on its own latents.
        store: the recovery, remembered in the run directory.
        fid_dense: score of the dense generator on the latents of the last look.
        pictured: the first of those latents, on the device.
        seconds: what scoring the dense generator and timing its layers took.
        polished_with: what the polish takes for real images, where there is a polish.
    """

    setting: Setting
    run_dir: Path
    journal: FileJournal
    cost: LayerCost
    evaluators: Evaluators
    store: RecoveredStore
    fid_dense: float
    pictured: Tensor
    seconds: float
    polished_with: str | None = None


def open_search(config: SearchConfig) -> Search:
    """Everything that a search needs before its first measurement of a plan.

    Refuses what is wrong with the settings before anything is written or measured.
    """
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    setting = load_setting(config.checkpoint, config)
    discriminator = discriminator_of(config, setting)
    source, real = real_images(config, setting) if polish_steps(config, setting) else (None, None)
    run_dir = run_directory(config)
    journal = open_journal(config, setting, run_dir)
    started = time.monotonic()
    cost = layer_cost(config, setting, run_dir)
    with progress("scoring the dense generator", 3) as advance:
        single = single_evaluator(config, setting)
        advance(1)
        seeds = {name: config.seed + SEEDS[name] for name in ("joint", "final")}
        joint = make_evaluator(setting, config, n=config.samples, seed=seeds["joint"])
        advance(1)
        final = make_evaluator(
            setting, config, n=config.samples, seed=seeds["final"], bootstrap=True
        )
        advance(1)
    evaluators = Evaluators(
        single,
        joint,
        final,
        factorized=replace(final, bootstrap=False),
        proxy=proxy_evaluator(config, setting),
    )
    return Search(
        setting,
        run_dir,
        journal,
        cost,
        evaluators,
        make_store(config, setting, run_dir, single, discriminator, real),
        final.paired.fid_dense,
        final.latents[:N_PICTURED].to(config.device),
        time.monotonic() - started,
        source,
    )


def statistics_latents(config: SweepConfig, setting: Setting) -> Tensor:
    """The latents behind everything that is fitted in closed form."""
    return setting.latents(N_STATISTICS, config.seed + SEEDS["statistics"]).to(config.device)


def prepare_setting(config: SweepConfig, setting: Setting, cost: LayerCost) -> Prepared:
    """The generator taken apart as the settings say.

    Raises:
        NothingToFactorizeError: none of the methods makes any layer cheaper.
    """
    return prepare(
        setting.generator,
        statistics_latents(config, setting),
        cost=cost,
        methods=config.methods,
        fractions=config.fractions,
        multiple_of=multiple_of(config),
        fit=config.closed_form,
        progress=progress,
    )


def make_store(
    config: SearchConfig,
    setting: Setting,
    run_dir: Path,
    evaluate: FidEvaluator,
    discriminator: nn.Module | None,
    real: Callable[[int], Batch] | None,
) -> RecoveredStore:
    """The recovery of a run, remembered in its directory.

    `evaluate` picks its best state, `discriminator` is there where the recovery makes use of one,
    `real` are the images of the polish where there is one.
    """
    selection = setting.latents(N_SELECTION, config.seed + SEEDS["selection"])
    shown = selection[:2].to(config.device)
    settings = Recovery(
        config.recover_steps,
        config.recover_batch,
        config.recover_lr,
        seed=config.seed + SEEDS["recovery"],
    )
    distance: Distance = image_distance
    polishing = Polish(
        polish_steps(config, setting),
        config.recover_batch,
        seed=config.seed + SEEDS["polish"],
        loss=loss_of(setting.checkpoint),
    )
    weight = feature_weight(config, setting)
    if weight and discriminator is not None:
        distance = feature_distance(discriminator, weight)

    def score(network: nn.Module) -> float:
        return evaluate(Candidate(DENSE, lambda _: network)).fid

    def distilled(student: nn.Module, settings: Recovery) -> nn.Module:
        with progress("  recovering", settings.n_steps) as advance:
            return recover(
                student,
                setting.generator,
                settings,
                selection=selection,
                score=score,
                distance=distance,
                latent_dim=setting.latent_dim,
                n_classes=setting.n_classes,
                device=config.device,
                on_update=advance,
            )

    def recovered(build: Build, plan: RankPlan) -> nn.Module:
        network = in_stages(
            build, plan, setting.generator, shown, config.stage_ratio, settings, distilled
        )
        if real is not None and discriminator is not None:
            with progress("  polishing", polishing.n_steps) as advance:
                network = polish(
                    network,
                    discriminator,
                    polishing,
                    real=real,
                    latent_dim=setting.latent_dim,
                    n_classes=setting.n_classes,
                    score=score,
                    device=config.device,
                    on_update=advance,
                )
        return network

    return RecoveredStore(run_dir / "recovered", setting.checkpoint, setting.generator, recovered)


def discriminator_of(config: SearchConfig, setting: Setting) -> nn.Module | None:
    """The discriminator, where the recovery makes use of one.

    Raises:
        ArdError: it is asked to, and the checkpoint has none, or one that also takes labels; or a
            batch is too small for it.
    """
    if config.feature_weight and setting.n_classes:
        raise ArdError(
            f"--feature-weight {config.feature_weight:g}: the discriminator of a conditional "
            "generator judges images with their labels, whose features are not used; leave it out"
        )
    if not (feature_weight(config, setting) or polish_steps(config, setting)):
        return None
    discriminator = build_saved_discriminator(setting.checkpoint)
    if discriminator is None:
        raise ArdError(
            f"{config.checkpoint} holds no discriminator, which --feature-weight and "
            "--polish-steps need; leave them out"
        )
    if config.recover_batch < 2 and polish_steps(config, setting):
        raise ArdError(
            f"--recover-batch {config.recover_batch}: the polish compares images with one another "
            "and needs batches of at least 2; give more, or --polish-steps 0"
        )
    return discriminator.to(config.device)


def feature_weight(config: SearchConfig, setting: Setting) -> float:
    """What the discriminator's features weigh in the recovery of this checkpoint."""
    if config.feature_weight is not None:
        return config.feature_weight
    saved = holds_discriminator(setting.checkpoint)
    return FEATURE_WEIGHT if saved and not setting.n_classes else 0.0


def polish_steps(config: SearchConfig, setting: Setting) -> int:
    """How many adversarial updates a recovery of this checkpoint ends with."""
    if config.polish_steps is not None:
        return config.polish_steps
    return config.recover_steps if holds_discriminator(setting.checkpoint) else 0


def holds_discriminator(checkpoint: Checkpoint) -> bool:
    """Whether the discriminator that the generator was trained against is in its file."""
    return checkpoint.discriminator is not None and checkpoint.discriminator_config is not None


def loss_of(checkpoint: Checkpoint) -> str:
    """The loss that a checkpoint says it was trained by, or that of the shipped ones."""
    name = checkpoint.provenance.get("loss")
    return name if name in LOSSES or name in ALIASES else Polish.loss


def real_images(config: SearchConfig, setting: Setting) -> tuple[str, Callable[[int], Batch]]:
    """Batches for the polish: of the data set where it is on disk, else of the dense generator.

    What they are comes with them, in words.
    """
    seed, name = config.seed + SEEDS["real"], setting.checkpoint.provenance.get("dataset")
    if setting.load_images is not None and not setting.n_classes:
        try:
            return str(name), ShuffledBatches(setting.load_images(), config.recover_batch, seed)
        except MissingDataError:
            pass
    draw = StepLatents(seed, config.recover_batch, setting.latent_dim, setting.n_classes)
    absent = "" if name is None or setting.n_classes else f"; {name} is not on this disk"
    dense = batches_of(setting.generator, draw, setting.n_classes, config.device)
    return f"images of the dense generator{absent}", dense
