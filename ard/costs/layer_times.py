"""Times of single layers: choosing, measuring and summarising them."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ard.activations import ActivationProfile, ActivationSignature
from ard.costs.latency_table import LatencyRow, LatencyTable
from ard.costs.layer_models import Precision, Wanted, write_layers
from ard.errors import DeliveryError
from ard.grid import RankGrid
from ard.layers import Part
from ard.signature import LayerSignature
from nas_gan.children import child_process
from nas_gan.options import option_name
from nas_gan.progress import Progress
from nas_gan.tables import text_table
from nas_gan.workers.executors import Executor

# A wider range than that of a search, because times are not extrapolated.
FRACTIONS = (0.75, 0.5, 0.25, 0.12, 0.06, 0.03)
TABLE = "latency.csv"


@dataclass(frozen=True)
class Device:
    """A machine that is reached by ssh: its address, its Python, and the client with options."""

    host: str
    python: str = "python3"
    ssh: str = "ssh"


@dataclass(frozen=True)
class LayerTiming:
    """How layers are timed: batch sizes, CPU threads, runtime, precision, and where if not here."""

    batches: tuple[int, ...] = (1,)
    threads: int = 1
    runner: str = "auto"
    precision: Precision = "fp32"
    device: Device | None = None


def wanted_choices(layers: Sequence[Part], grid: RankGrid) -> list[Wanted]:
    """Every distinct signature, dense and under every choice of the grid or every form."""
    wanted: dict[Wanted, None] = {}
    for layer in layers:
        if isinstance(layer, ActivationProfile):
            forms = (None, *layer.choices())
            wanted.update(dict.fromkeys((call, form) for call in layer.calls for form in forms))
            continue
        choices = (None, *grid.choices(layer))
        for text in dict.fromkeys(layer.signatures):
            signature = LayerSignature.parse(text)
            wanted.update(dict.fromkeys((signature, choice) for choice in choices))
    return list(wanted)


def write_wanted(
    layers: Sequence[Part],
    grid: RankGrid,
    folder: Path,
    precision: Precision,
    progress: Progress,
) -> int:
    """Write the layers as ONNX files into `folder`; returns how many there are."""
    wanted = wanted_choices(layers, grid)
    with progress("writing layers", len(wanted)) as advance:
        write_layers(wanted, folder, precision, on_layer=advance)
    return len(wanted)


def measure_layers(
    layers: Sequence[Part],
    grid: RankGrid,
    folder: Path,
    table: Path,
    timing: LayerTiming,
    progress: Progress,
) -> None:
    """Write the layers into `folder`, and add their times to `table`."""
    write_wanted(layers, grid, folder, timing.precision, progress)
    with progress("timing layers, percent", 100) as advance:
        time_layers(folder, table, timing, on_percent=advance)


@dataclass(frozen=True)
class TimeLayer:
    """A function that times one layer, dense and under its choices, where it is called.

    Attributes:
        timing: how.
        known: a table of earlier times, as CSV, which are not measured again; it may be empty.
    """

    timing: LayerTiming
    known: str

    def __call__(self, wanted: Sequence[Wanted]) -> str:
        """The table with the times of the layer, as CSV."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            table = folder / TABLE
            if self.known:
                table.write_text(self.known, encoding="utf-8")
            write_layers(wanted, folder, self.timing.precision)
            time_layers(folder, table, self.timing)
            return table.read_text(encoding="utf-8")


def measure_on_workers(
    layers: Sequence[Part],
    grid: RankGrid,
    table: Path,
    timing: LayerTiming,
    progress: Progress,
    executor: Executor,
) -> None:
    """Add the times of layers to `table`, a layer at a time on any worker.

    A layer and its factorizations are timed by the same worker, and `table` is written whenever one
    is finished.
    """
    by_signature: dict[LayerSignature | ActivationSignature, list[Wanted]] = {}
    for signature, choice in wanted_choices(layers, grid):
        by_signature.setdefault(signature, []).append((signature, choice))
    rows = {_key(row): row for row in LatencyTable.read(table).rows} if table.exists() else {}
    known = table.read_text(encoding="utf-8") if rows else ""
    with progress("timing layers on workers", len(by_signature)) as advance:
        for _, text in executor.run(TimeLayer(timing, known), list(by_signature.values())):
            rows |= {_key(row): row for row in LatencyTable.from_csv(text).rows}
            LatencyTable(tuple(rows.values())).save(table)
            advance(1)


def _key(row: LatencyRow) -> tuple[object, ...]:
    """What one time is of."""
    return row.conditions, row.signature, row.choice


def to_text(table: LatencyTable, layers: Sequence[Part]) -> str:
    """A table of calls, dense times and fastest times, per signature and batch size."""
    calls = Counter(signature for layer in layers for signature in layer.signatures)
    columns = ("layer", "calls", "batch", "dense ms", "fastest ms", "choice", "not faster")
    cells: list[tuple[str, ...]] = []
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
            cells.append((signature, str(count), str(conditions.batch), *shown, of_all))
    return text_table(columns, cells)


def time_layers(
    folder: Path,
    table: Path,
    timing: LayerTiming,
    *,
    on_percent: Callable[[int], None] = lambda n: None,
) -> None:
    """Time a folder of single layers with `python -m edge_bench.layers`, which extends `table`.

    `on_percent(n)` is called whenever another `n` percent are finished.

    Raises:
        DeliveryError: the command failed; the message is that of the command.
    """
    arguments = [
        *("edge_bench.layers", str(folder), "--table", str(table), "--runner", timing.runner),
        *("--threads", str(timing.threads), "--batch", *map(str, timing.batches)),
    ]
    if timing.device is not None:
        # Joined, because a value such as `ssh -p 2222` may look like an option.
        given = asdict(timing.device).items()
        arguments += [f"{option_name(name)}={value}" for name, value in given]
    command = [sys.executable, "-m", *arguments]
    line, told = "", 0
    with child_process(
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
