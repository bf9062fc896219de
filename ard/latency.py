"""Measure how long each layer of a generator takes, dense and factorized, on this machine.

    python -m ard.latency ckpt.pt --out layers/

Writes a folder of single layers and, unless --no-measure is given, times them with ONNX Runtime, or
with TensorRT if it is installed, into `layers/latency.csv`. To measure another device, name it by
--host, or copy the folder there and run `python -m edge_bench.layers layers/`, which needs neither
torch nor this package. Pass the table to other commands as --latency-table. One table can serve
many networks: with --table, times that the table already holds are not measured again. With
--executor ray, the layers are timed by the workers of a cluster, whose nodes should be alike.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from ard.activation_sites import find_activations
from ard.costs.alignment import AUTO, parse_rank_multiple
from ard.costs.latency_table import LatencyTable
from ard.costs.layer_models import Precision
from ard.costs.layer_times import (
    FRACTIONS,
    TABLE,
    Device,
    LayerTiming,
    measure_layers,
    measure_on_workers,
    to_text,
    write_wanted,
)
from ard.factorization.methods import COMPETITORS, MethodName
from ard.grid import RankGrid
from ard.layers import Part, profile_layers
from nas_gan.cli import DONE, progress, run
from nas_gan.errors import InvalidValueError, UsageError
from nas_gan.generators import GeneratorOptions, open_generator
from nas_gan.locks import locked
from nas_gan.networks.latents import latents_of
from nas_gan.panels import ADDRESS, CANDIDATES, MACHINE
from nas_gan.workers.options import WorkerOptions, check_one_kind, check_workers, opened_executor


@dataclass(frozen=True)
class LatencyConfig(WorkerOptions, GeneratorOptions):
    """Which layers and factorizations are timed, and how."""

    checkpoint: Annotated[Path, tyro.conf.Positional, ADDRESS] = tyro.MISSING
    """Checkpoint whose layers are timed: a .pt or .safetensors file of this toolkit or of the
    published code, or zoo:NAME for a shipped one."""
    out: Path = tyro.MISSING
    """Folder to write the layers to."""
    methods: Annotated[tuple[MethodName, ...], CANDIDATES] = COMPETITORS
    """Factorization methods to time on every layer."""
    fractions: Annotated[tuple[float, ...], CANDIDATES] = FRACTIONS
    """Sizes to time, as fractions of a layer's dense weights; sizes in between are interpolated."""
    rank_multiple: Annotated[str, CANDIDATES] = AUTO
    """Number that every rank is a multiple of; auto is 1 for fp32 and 8 for fp16."""
    precision: Precision = "fp32"
    """Precision of weights and activations."""
    batch: tuple[int, ...] = (1,)
    """Batch sizes to time."""
    threads: int = 1
    """CPU threads of ONNX Runtime."""
    runner: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    """Runtime that times the layers; auto is TensorRT if its package is installed."""
    measure: bool = True
    """Time the layers after writing them."""
    host: str | None = None
    """Device to time them on, by ssh, as user@host; here if not given."""
    python: Annotated[str, MACHINE] = "python3"
    """Python of the device that has numpy and a runtime."""
    ssh: Annotated[str, MACHINE] = "ssh"
    """The OpenSSH client and its options, such as 'ssh -p 2222'."""
    table: Path | None = None
    """Table to write or extend; latency.csv in the folder of the layers if not given."""


def check(config: LatencyConfig) -> RankGrid:
    """Check the settings; returns the rank candidates to time.

    Raises:
        InvalidValueError: a setting is out of range.
    """
    if not config.fractions or not all(0 < fraction < 1 for fraction in config.fractions):
        raise InvalidValueError(
            f"must lie between 0 and 1; got {config.fractions}",
            setting="fractions",
        )
    if not config.methods:
        raise InvalidValueError("needs at least one", setting="methods")
    if not config.batch or min(config.batch) < 1 or len(set(config.batch)) < len(config.batch):
        raise InvalidValueError(
            f"must be distinct sizes of at least 1; got {config.batch}", setting="batch"
        )
    if config.threads < 1:
        raise InvalidValueError(f"must be at least 1; got {config.threads}", setting="threads")
    check_one_kind(config, "times of one kind of device say nothing about another")
    check_workers(config, "cuda" if config.spread and config.gpus_per_worker else "cpu")
    if config.spread and (config.host is not None or not config.measure):
        raise UsageError(
            "is ray, but a device is measured by ssh, and what is only written is not measured; "
            "use local",
            setting="executor",
        )
    multiple_of = parse_rank_multiple(config.rank_multiple, config.precision)
    return RankGrid(config.methods, config.fractions, multiple_of)


def load_parts(config: LatencyConfig) -> tuple[Part, ...]:
    """The layers of the generator that can be factorized, and its slow activations."""
    opened = open_generator(config.checkpoint, config)
    with torch.inference_mode():
        latents = latents_of(opened.interface, 2, seed=0)
        layers = profile_layers(opened.generator, latents).layers
        return (*layers, *find_activations(opened.generator, latents))


def main(config: LatencyConfig) -> int:
    grid = check(config)
    layers = load_parts(config)
    with locked(config.out):
        return write_and_time(config, grid, layers)


def write_and_time(config: LatencyConfig, grid: RankGrid, layers: tuple[Part, ...]) -> int:
    """Write the layers, time them if asked to, and print what there is."""
    if not config.measure:
        n = write_wanted(layers, grid, config.out, config.precision, progress)
        sys.stdout.write(
            f"{config.out}: {n} layers; to time them on a device, copy this folder and "
            f"run python -m edge_bench.layers {config.out.name} there\n"
        )
        return DONE
    path = config.table or config.out / TABLE
    device = None if config.host is None else Device(config.host, config.python, config.ssh)
    timing = LayerTiming(config.batch, config.threads, config.runner, config.precision, device)
    if config.spread:
        write_wanted(layers, grid, config.out, config.precision, progress)
        # A worker has its GPU for TensorRT.
        on = "cuda" if config.gpus_per_worker else "cpu"
        with opened_executor(config, on, config.threads) as executor:
            measure_on_workers(layers, grid, path, timing, progress, executor)
    else:
        measure_layers(layers, grid, config.out, path, timing, progress)
    sys.stdout.write(f"{to_text(LatencyTable.read(path), layers)}\n{path}\n")
    return DONE


if __name__ == "__main__":
    sys.exit(run(main, LatencyConfig, prog="python -m ard.latency", description=__doc__))
