"""Times of single layers: which are wanted, and how they are measured."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ard.costs.layer_models import Precision, Wanted, write_layers
from ard.errors import DeliveryError
from ard.layers import LayerProfile
from ard.signature import LayerSignature
from nas_gan.cli import progress

# Wider than what a search tries, because no time is guessed beyond the measured ranks.
FRACTIONS = (0.75, 0.5, 0.25, 0.12, 0.06, 0.03)
TABLE = "latency.csv"


def wanted_choices(
    layers: Sequence[LayerProfile],
    methods: Sequence[str],
    fractions: Sequence[float],
    multiple_of: int,
) -> list[Wanted]:
    """Each signature of the layers once, dense and under every choice of the grid."""
    wanted: dict[Wanted, None] = {}
    for layer in layers:
        grid = [c for m in methods for c in layer.rank_grid(m, fractions, multiple_of)]
        for text in dict.fromkeys(layer.signatures):
            signature = LayerSignature.parse(text)
            wanted.update(dict.fromkeys((signature, choice) for choice in (None, *grid)))
    return list(wanted)


def measure_layers(
    layers: Sequence[LayerProfile],
    folder: Path,
    table: Path,
    *,
    methods: Sequence[str],
    fractions: Sequence[float],
    multiple_of: int = 1,
    batches: Sequence[int] = (1,),
    threads: int = 1,
    runner: str = "auto",
    precision: Precision = "fp32",
) -> None:
    """Write the layers into `folder` and time them into `table`, which keeps what it holds."""
    wanted = wanted_choices(layers, methods, fractions, multiple_of)
    with progress("writing layers", len(wanted)) as advance:
        write_layers(wanted, folder, precision, on_layer=advance)
    with progress("timing layers, percent", 100) as advance:
        time_layers(
            folder, table, batches=batches, threads=threads, runner=runner, on_percent=advance
        )


def time_layers(
    folder: Path,
    table: Path,
    *,
    batches: Sequence[int],
    threads: int,
    runner: str = "auto",
    on_percent: Callable[[int], None] = lambda n: None,
) -> None:
    """Time a folder of single layers into `table`, with `python -m edge_bench.layers`.

    `on_percent(n)` is told of each n percent that were finished since.

    Raises:
        DeliveryError: the command failed; the message is its own.
    """
    arguments = [
        *("edge_bench.layers", str(folder), "--table", str(table), "--runner", runner),
        *("--threads", str(threads), "--batch", *map(str, batches)),
    ]
    command = [sys.executable, "-m", *arguments]
    line, told = "", 0
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None  # it was asked for
        for line in process.stderr:
            if found := re.match(r"measuring: +(\d+)%", line):
                on_percent(int(found[1]) - told)
                told = int(found[1])
    if process.returncode != 0:
        reason = line.strip() or f"exit code {process.returncode}"
        raise DeliveryError(f"python -m {arguments[0]}: {reason.removeprefix('error: ')}")
    on_percent(100 - told)
