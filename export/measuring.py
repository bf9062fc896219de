"""How the quality of a conversion is measured: options of the command, and what a run used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

from ard.measuring.metrics import MetricName, metric_named
from ard.search.budget import Budget
from ard.session.setting import MeasuringConfig, load_setting, samples_of
from export.errors import ExportError
from export.precision import Precision
from export.precision_plan import Budgets, PrecisionPlanner, Wanted
from export.quality import WITHOUT_BUDGET, Measuring
from export.sources import SETTINGS
from export.speed import Timing
from nas_gan.errors import InvalidValueError, MissingDataError, NasGanError, UsageError
from nas_gan.generators import GeneratorOptions, OpenedGenerator
from nas_gan.metrics.features import ExtractorName
from nas_gan.panels import QUALITY, Panel
from nas_gan.progress import Progress, no_progress
from nas_gan.reading import Fields, read_json

PRECISION = Panel("precision")


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions(GeneratorOptions):
    """What a conversion may cost, and how that is measured."""

    precision: Wanted = "fp32"
    """Arithmetic of the graph: fp32, fp16, int8, or auto for the fastest within the quality
    budget; latents and images are float32 in any case."""
    quality_budget: Annotated[str | None, PRECISION] = None
    """Allowed rise of the converted graph over float32: 0.5 is absolute, 5% is relative to the
    dense generator's distance. Exit code 3 says that the precision does not hold it."""
    total_budget: Annotated[str | None, PRECISION] = None
    """Allowed rise over the dense generator of a run directory, ranks and precision together."""
    int8_rest: Annotated[Precision, PRECISION] = "fp32"
    """Precision of what an int8 graph does not compute in int8: fp32 or fp16."""
    threads: Annotated[int | None, PRECISION] = None
    """CPU threads of ONNX Runtime when graphs are timed; those of torch by default."""
    metric: Annotated[MetricName | None, QUALITY] = None
    """Quality metric: fid, kid or mmd. This and the next options are those of the run directory if
    they are not given, or else those of ard.compress."""
    quality_samples: Annotated[int | None, QUALITY] = None
    """Images per judgement; 512 if there is no budget."""
    features: Annotated[ExtractorName | None, QUALITY] = None
    """Network whose features the metric compares."""
    inception_weights: Annotated[Path | None, QUALITY] = None
    """Weights of pytorch-fid's Inception, if they are not in torch's cache."""
    reference: Annotated[str | None, QUALITY] = None
    """What the images are compared with: auto, dense or an .npz file."""
    data_root: Annotated[Path | None, QUALITY] = None
    """Folder of the data set; needed if its reference statistics are not shipped."""


def check(options: PrecisionOptions) -> Budgets:
    """The budgets of the options, before anything is loaded.

    Raises:
        BudgetError: a budget cannot be parsed.
        InvalidValueError: a number is too small.
        UsageError: `auto` has no budget that it could hold.
    """
    texts = {name: getattr(options, name) for name in ("quality_budget", "total_budget")}
    rise, total = (None if t is None else Budget.parse(t, name) for name, t in texts.items())
    for name, least in (("quality_samples", 4), ("threads", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InvalidValueError(f"must be at least {least}; got {value}", setting=name)
    if options.precision == "auto" and rise is None and total is None:
        raise UsageError(
            "is missing: auto takes the fastest precision within it; give the allowed rise, such "
            "as 5%, or name the precision",
            setting="quality_budget",
        )
    return Budgets(rise, total)


def make_planner(
    options: PrecisionOptions,
    opened: OpenedGenerator,
    dense: OpenedGenerator | None,
    *,
    run_dir: Path | None,
    seed: int,
    timing: Timing,
    progress: Progress = no_progress,
) -> PrecisionPlanner:
    """What converts the generator as the options say.

    Args:
        options: the options of the command.
        opened: the generator that is exported.
        dense: the one before compression, if it is known.
        run_dir: the run directory that it came from, whose settings and references are used.
        seed: seed of all latents, if there is no run directory.
        timing: how graphs are timed.
        progress: shows bars.

    Raises:
        NasGanError: there is a budget, and the quality cannot be measured.
    """
    budgets = check(options)
    if budgets.total is not None and dense is None:
        raise UsageError(
            "is a rise over the dense generator, which is not there; give the run directory of "
            "ard.compress",
            setting="total_budget",
        )
    asked = budgets != Budgets()
    measuring, unmeasured = None, ""
    if options.precision != "fp32":
        try:
            measuring = _measuring(options, opened, dense, run_dir, seed, asked, progress)
        except NasGanError as error:
            if asked:
                raise
            unmeasured = str(error)
    return PrecisionPlanner(
        options.precision, measuring, unmeasured, budgets, options.int8_rest, timing, progress
    )


def _measuring(
    options: PrecisionOptions,
    opened: OpenedGenerator,
    dense: OpenedGenerator | None,
    run_dir: Path | None,
    seed: int,
    asked: bool,
    progress: Progress,
) -> Measuring:
    config = measuring_config(options, run_dir, seed)
    if config.samples is None and not asked:
        config = replace(config, samples=WITHOUT_BUDGET)
    setting = load_setting(dense or opened, config, run_dir=run_dir, progress=progress)
    samples = options.quality_samples or (
        samples_of(config, setting.metric, setting.extractor) if asked else WITHOUT_BUDGET
    )
    return Measuring(
        setting,
        samples,
        config.seed,
        None if dense is None else dense.generator,
        setting.batch_size,
    )


def read_settings(run_dir: Path) -> dict[str, Any]:
    """How the run in a directory measured quality, by the names of `MeasuringConfig`.

    Raises:
        ExportError: its settings cannot be read.
    """
    path = run_dir / SETTINGS
    try:
        found = _settings(Fields(read_json(path), str(path)))
        metric_named(found.get("metric", "fid"))
        if found.get("features", "auto") not in get_args(ExtractorName):
            raise InvalidValueError(f"features {found['features']!r} are not known")
    except MissingDataError:
        return {}
    except InvalidValueError as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise ExportError(f"{where}{error}") from error
    return found


def _settings(given: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("metric", "features", "reference"):
        if name in given:
            found[name] = given.text(name)
    for name, least in (("samples", 2), ("seed", 0), ("batch_size", 1)):
        if name in given and given.any(name) is not None:
            found[name] = given.count(name, least)
    for name in ("inception_weights", "data_root"):
        if name in given and given.any(name) is not None:
            found[name] = Path(given.text(name))
    return found


def measuring_config(options: PrecisionOptions, run_dir: Path | None, seed: int) -> MeasuringConfig:
    """How quality is measured: as the options say, or else as the run did.

    Args:
        options: the options of the command.
        run_dir: the run directory, if there is one.
        seed: seed of all latents if there is no run directory.

    Raises:
        ExportError: the settings of the run cannot be read.
    """
    of_run = {} if run_dir is None else read_settings(run_dir)
    names = ("metric", "features", "inception_weights", "reference", "data_root")
    given = {name: getattr(options, name) for name in names}
    chosen = {name: value for name, value in given.items() if value is not None}
    return MeasuringConfig(**{"seed": seed, **of_run, **chosen, **options.given()})
