"""Question: what do fp16 and int8 cost in quality, and what do they save in time?

The generator of the zoo, and any compressed ones given, are converted as `python -m export` does:
to fp16, to int8 in every node that can, to int8 within a budget, and to what `auto` takes within
it. Rises are paired, over the float32 graph, in ONNX Runtime on held-out latents. The delivered
graphs then take turns in one process.

    OMP_NUM_THREADS=1 python benchmarks/precision.py                # with 1,536 images a judgement
    OMP_NUM_THREADS=1 python benchmarks/precision.py --samples 5120
    ... --compressed small=runs/small/compressed.pt
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ard.search.budget import Budget
from ard.session.setting import MeasuringConfig, load_setting
from export.interface import arrays_of
from export.precision_plan import Budgets, PrecisionPlanner
from export.quality import CALIBRATION, Measuring
from export.quantization import weight_bits
from export.sessions import Session
from export.speed import Timing, times_ms
from export.summary import interval
from export.to_onnx import build_model
from nas_gan.cli import progress
from nas_gan.errors import NasGanError
from nas_gan.files import write_json
from nas_gan.generators import GeneratorOptions, open_generator
from nas_gan.networks.latents import latents_of
from nas_gan.tables import text_table

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "nas_gan" / "zoo" / "fashion_mnist.pt"
RESULT = Path(__file__).parent / "results" / "precision.json"
SEED = 0
BATCHES = (1, 8, 64)


def conversions(budget: Budget) -> dict[str, dict[str, Any]]:
    """What is compared, by name: the arguments of the planner."""
    within = Budgets(rise=budget)
    return {
        "fp32": {"wanted": "fp32"},
        "fp16": {"wanted": "fp16"},
        "int8, all": {"wanted": "int8"},
        "int8, in budget": {"wanted": "int8", "budgets": within},
        "int8 and fp16, in budget": {"wanted": "int8", "budgets": within, "rest": "fp16"},
        "auto": {"wanted": "auto", "budgets": within},
    }


def measure(path: Path, samples: int, budget: Budget, threads: int) -> dict[str, Any]:
    """The conversions of one checkpoint: their rises, and their times in turns."""
    opened = open_generator(path, GeneratorOptions())
    config = MeasuringConfig(samples=samples, seed=SEED)
    setting = load_setting(opened, config, progress=progress)
    measuring = Measuring(setting, samples, SEED)
    model = build_model(opened.generator)
    graphs, rows = [], []
    wanted = conversions(budget)
    with progress("converting", len(wanted)) as advance:
        for name, arguments in wanted.items():
            planner = PrecisionPlanner(
                measuring=measuring,
                timing=Timing(threads=threads),
                progress=progress,
                **arguments,
            )
            found = planner(model, opened.generator)
            graphs.append(Session(found.model, name, threads))
            rows.append(
                {
                    "name": name,
                    "delivered": found.precision,
                    "bytes": found.model.ByteSize(),
                    "conversion": found.record,
                }
            )
            advance(1)
    timings = {}
    for batch in BATCHES:
        latents = latents_of(opened.interface, batch, SEED + CALIBRATION)
        arrays = arrays_of(opened.interface, latents)
        taken = times_ms(graphs, arrays, Timing(batch, threads, seconds=3.0))
        timings[str(batch)] = dict(zip(wanted, taken, strict=True))
    return {
        "checkpoint": path.name,
        "distance": setting.distance,
        "reference": setting.reference.source,
        "dense_value": measuring.of(model, opened.generator).dense_value,
        "conversions": rows,
        "milliseconds": timings,
    }


def show(result: dict[str, Any]) -> None:
    for name, net in result["nets"].items():
        print(f"\n{name}: {net['distance']} {net['dense_value']:.1f}, {net['reference']}")
        cells = []
        for row in net["conversions"]:
            record = row["conversion"]
            rise = None if record is None else record["rise"]
            nodes = 0 if record is None else len(record["int8_nodes"])
            taken = [net["milliseconds"][str(batch)][row["name"]] for batch in BATCHES]
            cells.append(
                (
                    row["name"],
                    row["delivered"],
                    str(nodes),
                    "-" if rise is None else interval(rise),
                    f"{row['bytes']:,}",
                    *(f"{ms:.3g}" for ms in taken),
                )
            )
        head = ["", "delivered", "int8 nodes", "rise", "bytes"]
        print(text_table([*head, *(f"ms, batch {batch}" for batch in BATCHES)], cells))


def parse(entries: Sequence[str]) -> dict[str, Path]:
    """Checkpoints by name, from entries `NAME=FILE`."""
    found = {"dense": ZOO}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (equals and name and path) or name in found:
            raise NasGanError(f"--compressed takes NAME=FILE with new names; got {entry!r}")
        found[name] = Path(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1536, help="images per judgement")
    parser.add_argument("--budget", default="5%", help="allowed rise of a conversion")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime")
    parser.add_argument(
        "--compressed", action="extend", nargs="+", default=[], metavar="NAME=FILE",
        help="also convert these nets",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        nets, budget = parse(arguments.compressed), Budget.parse(arguments.budget)
    except NasGanError as error:
        parser.error(str(error))
    result = {
        "machine": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load_at_start": os.getloadavg()[0],
            "weight_bits": weight_bits(),
            **{name: version(name) for name in ("torch", "onnx", "onnxruntime")},
        },
        "seed": SEED,
        "samples": arguments.samples,
        "budget": budget.text,
        "threads": arguments.threads,
        "nets": {
            name: measure(path, arguments.samples, budget, arguments.threads)
            for name, path in nets.items()
        },
    }
    write_json(arguments.out, result)
    show(result)


if __name__ == "__main__":
    main()
