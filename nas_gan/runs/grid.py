"""Grids of training runs: presets, combinations of variants and seeds, read from one TOML file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.reading import read_toml
from nas_gan.runs.log_metrics import parse_metric
from nas_gan.training.build import check_settings
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import describe_networks
from nas_gan.training.preset import PRESETS, dotted, find_preset, settings_from

DEFAULT = "default"
# The packaged grids: published ablations.
GRIDS = PRESETS / "grids"
# Runs of one grid, each of which is a training; their settings are all checked before the first.
MAX_RUNS = 10_000
METRICS = ("best_fid", "fid", "loss/g", "loss/d")
_HIDDEN = ("hidden_activation", "d_hidden_activation")
_OUTPUT = ("output_activation", "d_output_activation")


@dataclass(frozen=True)
class Skip:
    """Combinations that are left out, besides those that never make sense.

    Attributes:
        default: the combination without any change.
        different_hidden: two hidden activations that are not the same.
        different_output: two output activations that are not the same.
    """

    default: bool = False
    different_hidden: bool = False
    different_output: bool = False


@dataclass(frozen=True)
class Grid:
    """Presets x combinations of variants x cases x seeds.

    Attributes:
        presets: names of packaged presets, or .toml files.
        seeds: every combination is run with each of them.
        settings: of every run, instead of the preset's.
        variants: setting -> the values to try; "default" is the preset's own.
        cases: settings that are changed together, each case in turn.
        skip: combinations to leave out.
        metrics: what is read off the logs, by the names of `nas_gan.runs.log_metrics`.

    Raises:
        InvalidValueError: it has more than `MAX_RUNS` runs.
    """

    presets: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, list[Any]] = field(default_factory=dict)
    cases: tuple[dict[str, Any], ...] = ({},)
    skip: Skip = field(default_factory=Skip)
    metrics: tuple[str, ...] = METRICS

    def __post_init__(self) -> None:
        combinations = math.prod(len(values) for values in self.variants.values())
        combinations *= len(self.cases)
        runs = len(self.presets) * len(self.seeds) * combinations
        if runs > MAX_RUNS:
            raise InvalidValueError(
                f"a grid of {runs:,} runs ({len(self.presets)} presets x {combinations:,} "
                f"combinations x {len(self.seeds)} seeds); at most {MAX_RUNS:,} are planned"
            )

    def combinations(self) -> list[dict[str, Any]]:
        """The changes of every variant and case that is not skipped; a default is no change."""
        chosen = (
            {**dict(zip(self.variants, values, strict=True)), **case}
            for case in self.cases
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
            or (self.skip.different_hidden and len(set(map(str, hidden))) > 1)
            or (self.skip.different_output and len(set(map(str, output))) > 1)
        )


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a grid.

    Attributes:
        preset: the name of its preset.
        variant: its changes to the preset, as text.
        seed: its seed.
        folder: its run directory.
        settings: all of its settings, as a preset has them.
    """

    preset: str
    variant: str
    seed: int
    folder: Path
    settings: dict[str, Any]


def read_grid(path: Path) -> Grid:
    """The grid in a TOML file.

    Raises:
        InvalidValueError: a key is unknown or has a value that cannot be used.
    """
    path = find_grid(path)
    data = read_toml(path)
    _check_keys(str(path), data, Grid)
    for name in ("settings", "variants", "skip"):
        if not isinstance(data.get(name, {}), dict):
            raise InvalidValueError(f"{path}: {name} must be a table, [{name}]")
    _check_keys(f"{path}: skip", data.get("skip", {}), Skip)
    presets, seeds = data.get("presets", []), data.get("seeds", [])
    if not _is_list(presets) or not all(isinstance(preset, str) for preset in presets):
        raise InvalidValueError(f'{path}: presets must be a list of names, such as ["dcgan"]')
    if not _is_list(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InvalidValueError(f"{path}: seeds must be a list of whole numbers from 0 on")
    variants = dotted(data.get("variants", {}), TrainConfig, f"{path}: variants")
    cases = data.get("cases", [{}])
    if not _is_list(cases) or not all(isinstance(case, dict) for case in cases):
        raise InvalidValueError(f"{path}: cases must be a list of tables, [[cases]]")
    cases = [dotted(case, TrainConfig, f"{path}: case {n}") for n, case in enumerate(cases, 1)]
    for n, case in enumerate(cases, start=1):
        for name in case.keys() & variants.keys():
            raise InvalidValueError(f"{path}: {name} is in case {n} and in [variants]; keep one")
    for name, values in variants.items():
        if not _is_list(values):
            raise InvalidValueError(f"{path}: variants: {name} must be a list of values")
    metrics = data.get("metrics", list(METRICS))
    if not isinstance(metrics, list) or not all(isinstance(metric, str) for metric in metrics):
        raise InvalidValueError(f'{path}: metrics must be a list of names, such as ["best_fid"]')
    skip = data.get("skip", {})
    for name, value in skip.items():
        if not isinstance(value, bool):
            raise InvalidValueError(f"{path}: skip: {name} must be true or false; got {value!r}")
    try:
        for metric in metrics:
            parse_metric(metric)
        return Grid(
            tuple(dict.fromkeys(presets)),
            tuple(dict.fromkeys(seeds)),
            data.get("settings", {}),
            variants,
            tuple(cases),
            Skip(**skip),
            tuple(metrics),
        )
    except InvalidValueError as error:
        raise InvalidValueError(f"{path}: {error}") from error


def find_grid(path: Path) -> Path:
    """The file of a grid, which is given by its path or by the name of a packaged one.

    Raises:
        InvalidValueError: there is none.
    """
    if path.is_file():
        return path
    packaged = GRIDS / f"{path}.toml"
    if not path.suffix and len(path.parts) == 1 and packaged.is_file():
        return packaged
    known = ", ".join(sorted(file.stem for file in GRIDS.glob("*.toml")))
    raise InvalidValueError(
        f"{path}: no such file; write a grid as the help of python -m nas_gan.experiments shows, "
        f"or name one of {known}"
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _check_keys(where: str, data: Mapping[str, Any], kind: type[Grid] | type[Skip]) -> None:
    known = list(kind.__dataclass_fields__)
    for key in data:
        if key not in known:
            raise InvalidValueError(f"{where}: {unknown_name('key', key, known)}")


def plan_runs(grid: Grid, run_dir: Path) -> list[PlannedRun]:
    """Every run of a grid, each checked as far as possible without its data.

    Raises:
        InvalidValueError: a preset, a setting or a name is unknown; or every combination is
            skipped.
    """
    runs = []
    for preset, change, seed in product(grid.presets, grid.combinations(), grid.seeds):
        file = find_preset(Path(preset), TrainConfig)
        variant = ", ".join(f"{name}={value}" for name, value in change.items()) or DEFAULT
        folder = run_dir / file.stem / _folder_name(variant) / f"seed-{seed}"
        settings = {
            **dotted(read_toml(file), TrainConfig, str(file)),
            **dotted(grid.settings, TrainConfig, "[settings] of the grid"),
            **change,
            "seed": seed,
        }
        config = settings_from(settings, TrainConfig, f"{preset} ({variant})")
        try:
            describe_networks(config)
            check_settings(config)
        except InvalidValueError as error:
            raise InvalidValueError(f"{preset} ({variant}): {error}") from error
        runs.append(PlannedRun(file.stem, variant, seed, folder, settings))
    if not runs:
        raise InvalidValueError("every combination of the grid is skipped; see [skip]")
    if len({run.folder for run in runs}) < len(runs):
        raise InvalidValueError("two presets of the grid have one name; rename a file")
    return runs


def _folder_name(variant: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=,-]+", "", variant)
