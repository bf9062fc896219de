"""Train presets with several seeds and variants: `python -m nas_gan.experiments grid.toml`.

    presets = ["mnist_condgan"]              # packaged presets or .toml files
    seeds = [1, 2, 3]
    metrics = ["best_fid", "loss/g"]         # in the logs; also top5_fid, fid<=30, first_fid<=30

    [settings]                               # of every run, any that nas_gan.train has
    steps = 6000

    [variants]                               # every combination; "default" is the preset's own
    output_activation = ["default", "bhsa"]
    d_output_activation = ["default", "bhsa"]

    [skip]
    default = true                           # the combination without any change
    different_hidden = true                  # two hidden activations that are not the same
    different_output = true

No run has both a hidden and an output activation that is not the default. Every run is a process
and a directory of its own: one that fails is counted, with its reason, and does not stop the
others. Of a metric the table has the last value of a run, behind best_ its best, behind top5_ the
mean of its five best; of fid<=30 the share of runs that got there, behind first_ the step at which.
The same command runs what is not finished yet, from where it was stopped. The table is in
table.csv and table.json too. Exits with 1 where a run failed.
"""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from nas_gan.cli import progress, run
from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.files import write_json, write_text
from nas_gan.runs.log_metrics import metrics_of, parse_metric
from nas_gan.training.build import build_loss
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import describe_networks
from nas_gan.training.log import read_log
from nas_gan.training.preset import find_preset, read_toml, settings_from

DEFAULT = "default"
METRICS = ("best_fid", "fid", "loss/g", "loss/d")
OUTCOME = "outcome.json"
_HIDDEN = ("hidden_activation", "d_hidden_activation")
_OUTPUT = ("output_activation", "d_output_activation")


@dataclass(frozen=True)
class ExperimentsConfig:
    """Which grid, and where its runs are kept."""

    grid: Annotated[Path, tyro.conf.Positional]
    """A .toml file as above."""
    run_dir: Path | None = None
    """Where the runs are kept; by default runs/experiments/ and the name of the grid."""


@dataclass(frozen=True)
class Skip:
    """Combinations that are left out, besides those that never make sense."""

    default: bool = False
    different_hidden: bool = False
    different_output: bool = False


@dataclass(frozen=True)
class Grid:
    """Presets x combinations of variants x seeds, with settings for all of them."""

    presets: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, list[Any]] = field(default_factory=dict)
    skip: Skip = field(default_factory=Skip)
    metrics: tuple[str, ...] = METRICS

    def combinations(self) -> list[dict[str, Any]]:
        """The changes of every variant that is not skipped, without those that are the default."""
        chosen = (
            dict(zip(self.variants, values, strict=True))
            for values in product(*self.variants.values())
        )
        changes = ({k: v for k, v in choice.items() if v != DEFAULT} for choice in chosen)
        return [change for change in changes if not self._skipped(change)]

    def _skipped(self, change: Mapping[str, Any]) -> bool:
        hidden = [change[name] for name in _HIDDEN if name in change]
        output = [change[name] for name in _OUTPUT if name in change]
        return (
            bool(hidden and output)
            or (self.skip.default and not change)
            or (self.skip.different_hidden and len(set(hidden)) > 1)
            or (self.skip.different_output and len(set(output)) > 1)
        )


@dataclass(frozen=True)
class Run:
    """One training run: what makes it, and its directory."""

    preset: str
    variant: str
    seed: int
    folder: Path
    settings: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `reason` is empty where it finished, `seconds` are of its last part."""

    preset: str
    variant: str
    seed: int
    metrics: dict[str, float]
    reason: str
    seconds: float

    @property
    def failed(self) -> bool:
        return bool(self.reason)


@dataclass(frozen=True)
class Row:
    """All seeds of a preset and variant; a deviation needs two, a mean one that finished."""

    preset: str
    variant: str
    finished: int
    failed: int
    mean: dict[str, float]
    deviation: dict[str, float]


def read_grid(path: Path) -> Grid:
    """The grid in a TOML file.

    Raises:
        InvalidValueError: a key is unknown or has a value that cannot be used.
    """
    if not path.is_file():
        raise InvalidValueError(f"{path}: no such file; give a grid as --help shows one")
    data = read_toml(path)
    _check_keys(str(path), data, Grid)
    for name in ("settings", "variants", "skip"):
        if not isinstance(data.get(name, {}), dict):
            raise InvalidValueError(f"{path}: {name} must be a table, [{name}]")
    _check_keys(f"{path}: skip", data.get("skip", {}), Skip)
    presets, seeds = data.get("presets", []), data.get("seeds", [])
    if not presets or not all(isinstance(preset, str) for preset in presets):
        raise InvalidValueError(f'{path}: presets must be a list of names, such as ["dcgan"]')
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InvalidValueError(f"{path}: seeds must be a list of whole numbers from 0 on")
    variants = data.get("variants", {})
    for name, values in variants.items():
        if not isinstance(values, list) or not values:
            raise InvalidValueError(f"{path}: variants: {name} must be a list of values")
    metrics = data.get("metrics", list(METRICS))
    if not isinstance(metrics, list) or not all(isinstance(metric, str) for metric in metrics):
        raise InvalidValueError(f'{path}: metrics must be a list of names, such as ["best_fid"]')
    for metric in metrics:
        parse_metric(metric)
    return Grid(
        tuple(dict.fromkeys(presets)),
        tuple(dict.fromkeys(seeds)),
        data.get("settings", {}),
        variants,
        Skip(**data.get("skip", {})),
        tuple(metrics),
    )


def _check_keys(where: str, data: Mapping[str, Any], kind: type[Grid] | type[Skip]) -> None:
    known = list(kind.__dataclass_fields__)
    for key in data:
        if key not in known:
            raise InvalidValueError(f"{where}: {unknown_name('key', key, known)}")


def plan_runs(grid: Grid, run_dir: Path) -> list[Run]:
    """Every run of a grid, each checked as far as that is possible without its data.

    Raises:
        InvalidValueError: a preset, a setting or a name is unknown; or every combination is
            skipped.
    """
    runs = []
    for preset, change, seed in product(grid.presets, grid.combinations(), grid.seeds):
        file = find_preset(Path(preset), TrainConfig)
        variant = ", ".join(f"{name}={value}" for name, value in change.items()) or DEFAULT
        folder = run_dir / file.stem / _folder_name(variant) / f"seed-{seed}"
        settings = {**read_toml(file), **grid.settings, **change, "seed": seed}
        config = settings_from(settings, TrainConfig, f"{preset} ({variant})")
        try:
            describe_networks(config)
            build_loss(config)
        except InvalidValueError as error:
            raise InvalidValueError(f"{preset} ({variant}): {error}") from error
        runs.append(Run(file.stem, variant, seed, folder, settings))
    if not runs:
        raise InvalidValueError("every combination of the grid is skipped; see [skip]")
    if len({run.folder for run in runs}) < len(runs):
        raise InvalidValueError("two presets of the grid have one name; rename a file")
    return runs


def _folder_name(variant: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=,-]+", "", variant)


def to_toml(settings: Mapping[str, Any]) -> str:
    """Flat settings as a TOML file: texts, truth values and numbers."""
    # JSON writes all of these as TOML does.
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())


def train_in_process(folder: Path) -> str:
    """Train in a process of its own what settings.toml in `folder` says; why it failed, or ""."""
    command = [sys.executable, "-m", "nas_gan.train", "--config", str(folder / "settings.toml")]
    done = subprocess.run(
        [*command, "--run-dir", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]


def run_experiment(
    run: Run,
    metrics: Sequence[str],
    *,
    train: Callable[[Path], str] = train_in_process,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Do one run, unless it is finished already, and keep how it ended in its directory."""
    outcome_file, text = run.folder / OUTCOME, to_toml(run.settings)
    known = _read_outcome(outcome_file)
    seconds = float(known.get("seconds", 0.0))
    reason = ""
    if known.get("settings") != text or known.get("reason"):
        write_text(run.folder / "settings.toml", text)
        started = clock()
        reason = train(run.folder)
        seconds = clock() - started
        write_json(outcome_file, {"settings": text, "reason": reason, "seconds": seconds})
    found = metrics_of(read_log(run.folder / "log.jsonl"), metrics)
    return Outcome(run.preset, run.variant, run.seed, found, reason, seconds)


def _read_outcome(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def summarise(outcomes: Iterable[Outcome]) -> list[Row]:
    """A row for each preset and variant: how many finished and failed, mean and deviation.

    The deviation is that of a sample (n - 1). Runs that failed count as such and nowhere else.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.preset, outcome.variant), []).append(outcome)
    rows = []
    for (preset, variant), group in groups.items():
        finished = [outcome for outcome in group if not outcome.failed]
        values: dict[str, list[float]] = {}
        for outcome in finished:
            for name, value in outcome.metrics.items():
                values.setdefault(name, []).append(value)
        rows.append(
            Row(
                preset,
                variant,
                finished=len(finished),
                failed=len(group) - len(finished),
                mean={name: statistics.fmean(v) for name, v in values.items()},
                deviation={name: statistics.stdev(v) for name, v in values.items() if len(v) > 1},
            )
        )
    return rows


def _columns(rows: Iterable[Row], metrics: Sequence[str]) -> list[str]:
    """The metrics that some run has."""
    return [name for name in metrics if any(name in row.mean for row in rows)]


def to_csv(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """The table as CSV: two columns for a metric; a cell is empty where there is no number."""
    names = _columns(rows, metrics)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = [f"{name} {what}" for name in names for what in ("mean", "deviation")]
    writer.writerow(["preset", "variant", "finished", "failed", *header])
    for row in rows:
        cells = [column.get(name, "") for name in names for column in (row.mean, row.deviation)]
        writer.writerow([row.preset, row.variant, row.finished, row.failed, *cells])
    return text.getvalue()


def render(rows: Sequence[Row], metrics: Sequence[str]) -> Table:
    """The table for people."""
    names = _columns(rows, metrics)
    table = Table("preset", "variant", "finished", "failed", *names)
    for row in rows:
        cells = []
        for name in names:
            cell = f"{row.mean[name]:.4g}" if name in row.mean else "-"
            cells.append(f"{cell} ± {row.deviation[name]:.2g}" if name in row.deviation else cell)
        table.add_row(row.preset, row.variant, str(row.finished), str(row.failed), *cells)
    return table


def main(config: ExperimentsConfig) -> int:
    grid = read_grid(config.grid)
    run_dir = config.run_dir or Path("runs/experiments") / config.grid.stem
    runs = plan_runs(grid, run_dir)
    outcomes = []
    with progress("runs", len(runs)) as advance:
        for one in runs:
            outcomes.append(run_experiment(one, grid.metrics))
            advance(1)
    rows = summarise(outcomes)
    write_text(run_dir / "table.csv", to_csv(rows, grid.metrics))
    content = {"rows": [asdict(row) for row in rows], "runs": [asdict(one) for one in outcomes]}
    write_json(run_dir / "table.json", content)
    Console().print(render(rows, grid.metrics))
    failed = [outcome for outcome in outcomes if outcome.failed]
    for outcome in failed:
        sys.stdout.write(
            f"failed: {outcome.preset}, {outcome.variant}, seed {outcome.seed}: {outcome.reason}\n"
        )
    if failed:
        sys.stderr.write(
            f"error: {len(failed)} of {len(outcomes)} runs failed; the same command tries them "
            "again\n"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(
        run(main, ExperimentsConfig, prog="python -m nas_gan.experiments", description=__doc__)
    )
