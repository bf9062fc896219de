"""Measure how long each layer of a generator takes, dense and factorized, on this machine.

    python -m ard.latency ckpt.pt --out layers/

Writes a folder of single layers and, unless --no-measure, times them with ONNX Runtime (or with
TensorRT, where it is installed) into `layers/latency.csv`. For a table of another device copy the
folder there and run `python -m edge_bench.layers layers/`; it needs neither torch nor this package.
Give the table to other commands by --latency-table. One table serves every net: with --table, what
it holds already is not measured again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from ard.costs.alignment import AUTO, parse_rank_multiple
from ard.costs.latency_table import LatencyTable
from ard.costs.layer_models import Precision
from ard.costs.layer_times import (
    FRACTIONS,
    TABLE,
    LayerTiming,
    measure_layers,
    to_text,
    write_wanted,
)
from ard.factorization.methods import COMPETITORS, MethodName
from ard.grid import RankGrid
from ard.layers import LayerProfile, profile_layers
from nas_gan.checkpoint import build_generator, import_builder, load_checkpoint
from nas_gan.cli import DONE, progress, run
from nas_gan.errors import InvalidValueError
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of


@dataclass(frozen=True)
class LatencyConfig:
    """Which layers under which choices, and where and how they are timed."""

    checkpoint: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A .pt or .safetensors file, native or of the published code; zoo:NAME for a shipped one."""
    out: Path = tyro.MISSING
    """Folder of the layers."""
    methods: tuple[MethodName, ...] = COMPETITORS
    """Factorizations to time on every layer."""
    fractions: tuple[float, ...] = FRACTIONS
    """Shares of a layer's weights to time; what lies between two of them is interpolated."""
    rank_multiple: str = AUTO
    """Ranks are multiples of this; auto is 1 for fp32 and 8 for fp16."""
    precision: Precision = "fp32"
    """Type of the weights and of what flows between them."""
    batch: tuple[int, ...] = (1,)
    """Batch sizes."""
    threads: int = 1
    """CPU threads of ONNX Runtime."""
    runner: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    """auto takes TensorRT where its package is installed."""
    measure: bool = True
    """Time the layers here, after writing them."""
    table: Path | None = None
    """The table to write or to extend; latency.csv in the folder if not given."""
    model: str | None = None
    """package.module:build for a state dict of another network."""


def check(config: LatencyConfig) -> RankGrid:
    """The rank candidates to time, after everything else was found sensible.

    Raises:
        InvalidValueError: a setting is out of its range.
    """
    if not config.fractions or not all(0 < fraction < 1 for fraction in config.fractions):
        raise InvalidValueError(
            f"must lie between 0 and 1; got {config.fractions}", setting="fractions"
        )
    if not config.methods:
        raise InvalidValueError("needs at least one", setting="methods")
    if not config.batch or min(config.batch) < 1 or len(set(config.batch)) < len(config.batch):
        raise InvalidValueError(
            f"takes sizes from 1 on, each once; got {config.batch}", setting="batch"
        )
    if config.threads < 1:
        raise InvalidValueError(f"must be at least 1; got {config.threads}", setting="threads")
    multiple_of = parse_rank_multiple(config.rank_multiple, config.precision)
    return RankGrid(config.methods, config.fractions, multiple_of)


def load_layers(config: LatencyConfig) -> tuple[LayerProfile, ...]:
    """The layers of the generator that can be factorized."""
    build = import_builder(config.model) if config.model else None
    generator = build_generator(load_checkpoint(config.checkpoint), build)
    with torch.inference_mode():
        return profile_layers(generator, latents_of(interface_of(generator), 2, seed=0)).layers


def main(config: LatencyConfig) -> int:
    grid = check(config)
    layers = load_layers(config)
    if not config.measure:
        n = write_wanted(layers, grid, config.out, config.precision, progress)
        sys.stdout.write(
            f"{config.out}: {n} layers; to time them on a device, copy this folder and "
            f"run python -m edge_bench.layers {config.out.name} there\n"
        )
        return DONE
    path = config.table or config.out / TABLE
    timing = LayerTiming(config.batch, config.threads, config.runner, config.precision)
    measure_layers(layers, grid, config.out, path, timing, progress)
    sys.stdout.write(f"{to_text(LatencyTable.read(path), layers)}\n{path}\n")
    return DONE


if __name__ == "__main__":
    sys.exit(run(main, LatencyConfig, prog="python -m ard.latency", description=__doc__))
