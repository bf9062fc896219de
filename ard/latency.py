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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from ard.costs.alignment import AUTO, parse_rank_multiple
from ard.costs.latency_table import LatencyTable
from ard.costs.layer_models import Precision, write_layers
from ard.costs.layer_times import FRACTIONS, TABLE, measure_layers, wanted_choices
from ard.errors import ArdError
from ard.layers import LayerProfile, profile_layers
from ard.pipeline import COMPETITORS
from ard.plan import Method
from nas_gan.checkpoint import build_generator, import_builder, load_checkpoint
from nas_gan.cli import DONE, progress, run
from nas_gan.errors import InvalidValueError
from nas_gan.metrics.sampling import latent_bank


@dataclass(frozen=True)
class LatencyConfig:
    """Which layers under which choices, and where and how they are timed."""

    checkpoint: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A .pt or .safetensors file, native or of the published code; zoo:NAME for a shipped one."""
    out: Path = tyro.MISSING
    """Folder of the layers."""
    methods: tuple[Method, ...] = COMPETITORS
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


def check(config: LatencyConfig) -> int:
    """The multiple of the ranks, after everything else in a configuration was found sensible.

    Raises:
        InvalidValueError: a setting is out of its range.
    """
    if not config.fractions or not all(0 < fraction < 1 for fraction in config.fractions):
        raise InvalidValueError(f"--fractions must lie between 0 and 1; got {config.fractions}")
    if not config.methods:
        raise InvalidValueError("--methods needs at least one")
    if not config.batch or min(config.batch) < 1 or len(set(config.batch)) < len(config.batch):
        raise InvalidValueError(f"--batch takes sizes from 1 on, each once; got {config.batch}")
    if config.threads < 1:
        raise InvalidValueError(f"--threads must be at least 1; got {config.threads}")
    return parse_rank_multiple(config.rank_multiple, config.precision)


def load_layers(config: LatencyConfig) -> tuple[LayerProfile, ...]:
    """The layers of the generator that can be factorized."""
    build = import_builder(config.model) if config.model else None
    generator = build_generator(load_checkpoint(config.checkpoint), build)
    latent_dim = getattr(generator, "latent_dim", None)
    if not isinstance(latent_dim, int):
        raise ArdError(
            f"{type(generator).__name__} has no latent_dim; set that attribute to the length of "
            "its latents, so that they can be drawn"
        )
    with torch.inference_mode():
        return profile_layers(generator, latent_bank(2, latent_dim, seed=0)).layers


def to_text(table: LatencyTable, layers: Sequence[LayerProfile]) -> str:
    """For each signature and batch size: how often it occurs, its dense time and its fastest."""
    calls = Counter(signature for layer in layers for signature in layer.signatures)
    lines = [("layer", "calls", "batch", "dense ms", "fastest ms", "choice", "not faster")]
    for conditions in table.conditions:
        rows = [row for row in table.rows if row.conditions == conditions]
        for signature, count in calls.items():
            times = {row.choice: row.milliseconds for row in rows if row.signature == signature}
            factorized = {choice: ms for choice, ms in times.items() if choice is not None}
            if None not in times or not factorized:
                continue
            fastest = min(factorized, key=lambda choice: factorized[choice])
            slow = sum(ms >= times[None] for ms in factorized.values())
            shown = (f"{times[None]:.4g}", f"{factorized[fastest]:.4g}", str(fastest))
            of_all = f"{slow} of {len(factorized)}"
            lines.append((signature, str(count), str(conditions.batch), *shown, of_all))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def main(config: LatencyConfig) -> int:
    multiple_of = check(config)
    layers = load_layers(config)
    if not config.measure:
        wanted = wanted_choices(layers, config.methods, config.fractions, multiple_of)
        with progress("writing layers", len(wanted)) as advance:
            write_layers(wanted, config.out, config.precision, on_layer=advance)
        sys.stdout.write(
            f"{config.out}: {len(wanted)} layers; to time them on a device, copy this folder and "
            f"run python -m edge_bench.layers {config.out.name} there\n"
        )
        return DONE
    path = config.table or config.out / TABLE
    measure_layers(
        layers,
        config.out,
        path,
        methods=config.methods,
        fractions=config.fractions,
        multiple_of=multiple_of,
        batches=config.batch,
        threads=config.threads,
        runner=config.runner,
        precision=config.precision,
    )
    sys.stdout.write(f"{to_text(LatencyTable.read(path), layers)}\n{path}\n")
    return DONE


if __name__ == "__main__":
    sys.exit(run(main, LatencyConfig, prog="python -m ard.latency", description=__doc__))
