"""Claim: `ard.compress` brings generators of 20 and 30 million parameters through on one core.

Two generators with random weights, because time and memory do not depend on what they draw: the
published CIFAR-10 shape at full width (20 M parameters, 32 x 32 pixels), and one of the size of
StyleGAN2 for 256 x 256 pixels (30 M), of plain convolutions, as a network of other people. Each is
compressed by the command, in a process of its own with one thread, on few images and in one trial.
Beside what it took stands what `--dry-run` said before: evaluations, seconds and bytes. The search
may measure fewer plans than the forecast's bound, and other programs may slow it down, so seconds
of the processor are given too.

Each step of a network is written at once, and the same command goes on with the next one.

    nice -n 19 python benchmarks/big.py
    nice -n 19 python benchmarks/big.py --only cifar10
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.cli import BUDGET_MISSED
from nas_gan.files import write_json
from nas_gan.metrics.features import ExtractorName, make_extractor
from nas_gan.networks.models import build_model
from nas_gan.tables import text_table

RESULT = Path(__file__).parent / "results" / "big.json"
FEATURES: ExtractorName = "efficientnet-lite0"
REFERENCE_IMAGES = 256
# Few of everything: what is measured is whether it goes through, and at what price.
QUICK = (
    *("--samples", "64", "--sweep-samples", "16", "--batch-size", "16", "--threads", "1"),
    *("--anchors", "2", "--methods", "svd", "spatial_svd", "tucker2", "--max-trials", "1"),
    *("--fractions", "0.25"),
    *("--recover-steps", "4", "--recover-batch", "4", "--features", FEATURES),
)


class Synthesis(nn.Module):
    """A generator as large as StyleGAN2: a mapping of 8 x 512, then convolutions of 512 to 64.

    Each resolution from 8 to 256 pixels doubles the map by its nearest neighbours and has two
    convolutions, those of 8 and 16 pixels three.
    """

    def __init__(self, channels: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64)) -> None:
        super().__init__()
        width = channels[0]
        self.width = width
        self.mapping = nn.ModuleList([nn.Linear(width, width) for _ in range(8)])
        self.first = nn.Linear(width, width * 4 * 4)
        self.entry = nn.Conv2d(width, width, 3, padding=1)
        blocks = []
        for i, (before, after) in enumerate(itertools.pairwise(channels)):
            widths = [before, after, after, *([after] if i < 2 else [])]
            convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)]
            blocks.append(nn.Sequential(*convs))
        self.blocks = nn.ModuleList(blocks)
        self.to_rgb = nn.Conv2d(channels[-1], 3, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, a=0.2)

    def forward(self, z: Tensor) -> Tensor:
        w = z
        for layer in self.mapping:
            w = F.leaky_relu(layer(w), 0.2)
        x = self.first(w).view(-1, self.width, 4, 4)
        x = F.leaky_relu(self.entry(x), 0.2)
        for block in self.blocks:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            for conv in cast(nn.Sequential, block):
                x = F.leaky_relu(conv(x), 0.2)
        return torch.tanh(self.to_rgb(x))


def write_cifar10(folder: Path) -> tuple[str, ...]:
    """The published shape with random weights, as a checkpoint of this toolkit."""
    architecture = {"kind": "mmd-nas", "gf_dim": 256}
    generator = build_model(architecture, rng=torch.Generator().manual_seed(0))
    path = folder / "cifar10.pt"
    save_checkpoint(Checkpoint(architecture, dict(generator.state_dict())), path)
    return (str(path),)


def write_stylegan2(folder: Path) -> tuple[str, ...]:
    """The large plain generator as a state dict, with the class that it belongs to."""
    torch.manual_seed(0)
    path = folder / "stylegan2.pt"
    torch.save(Synthesis().state_dict(), path)
    return (str(path), "--model", f"{Path(__file__)}:Synthesis", "--latent-shape", "512",
            "--output-range", "-1,1")  # fmt: skip


NETS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "cifar10": write_cifar10,
    "stylegan2": write_stylegan2,
}


@dataclass(frozen=True)
class Ended:
    """How a process ended, with what it took.

    Attributes:
        output: what it wrote to its standard output.
        seconds: by the clock.
        processor_seconds: of it and its children.
        peak_bytes: the largest resident memory of any of its processes.
    """

    output: str
    seconds: float
    processor_seconds: float
    peak_bytes: int


# Started by a small process of its own: a child's peak memory begins with that of the process
# that started it, and a benchmark that has drawn images is a large one.
MEASURED = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)
seconds = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "code": done.returncode, "output": done.stdout, "seconds": seconds,
    "processor_seconds": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024,
}))
"""


def measured(*arguments: str) -> Ended:
    """Run a module of the toolkit in a process of its own.

    Raises:
        RuntimeError: it failed; a missed budget is no failure.
    """
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    if found.pop("code") not in (0, BUDGET_MISSED):
        raise RuntimeError(f"{' '.join(arguments)} failed; what it said stands above")
    return Ended(**found)


def write_reference(path: Path) -> Path:
    """Statistics of smooth random images; a reference of the generator's would need thousands."""
    rng = torch.Generator().manual_seed(1)
    coarse = torch.rand(REFERENCE_IMAGES, 3, 8, 8, generator=rng)
    pixels = (255 * F.interpolate(coarse, size=64, mode="bilinear")).to(torch.uint8)
    features = np.concatenate([make_extractor(FEATURES)(batch) for batch in pixels.split(32)])
    np.savez(path, mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False))
    return path


def forecast_of(output: str) -> dict[str, float]:
    """Evaluations, seconds and bytes of a dry run; zeros for what it does not say."""
    [whole] = re.findall(r"^in all, at most +([\d,]+) +[\d,]+ +([\d,.]+)", output, re.MULTILINE)
    [memory] = re.findall(r"([\d,.]+) MB of memory", output)
    [disk] = re.findall(r"at most ([\d,.]+) MB on the disk", output)
    numbers = [float(text.replace(",", "")) for text in (*whole, disk, memory)]
    return {
        "evaluations": numbers[0],
        "seconds": numbers[1],
        "disk_bytes": 1e6 * numbers[2],
        "memory_bytes": 1e6 * numbers[3],
    }


def evaluations_of(run_dir: Path) -> dict[str, int]:
    """How many plans of each stage the run has scored."""
    text = (run_dir / "journal.jsonl").read_text(encoding="utf-8")
    return dict(Counter(re.findall(r'"stage": "(\w+)"', text)))


def arguments_of(name: str, folder: Path, reference: Path) -> tuple[str, ...]:
    """The command that compresses a network; its files are written."""
    return ("ard.compress", *NETS[name](folder), "--reference", str(reference),
            "--target", "params=0.5", *QUICK, "--run-dir", str(folder / name))  # fmt: skip


def forecast(name: str, folder: Path, reference: Path) -> dict[str, Any]:
    """What the command says beforehand."""
    dry = measured(*arguments_of(name, folder, reference), "--dry-run")
    sys.stderr.write(dry.output)
    took = {"took_seconds": dry.seconds, "took_processor_seconds": dry.processor_seconds}
    return {**forecast_of(dry.output), **took}


def compression(name: str, folder: Path, reference: Path) -> dict[str, Any]:
    """What the command takes."""
    done = measured(*arguments_of(name, folder, reference))
    sys.stderr.write(done.output)
    run_dir = folder / name
    stages = evaluations_of(run_dir)
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    return {
        "evaluations": sum(stages.values()),
        "stages": stages,
        "seconds": done.seconds,
        "processor_seconds": done.processor_seconds,
        "memory_bytes": done.peak_bytes,
        "disk_bytes": sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file()),
        "timings": report.get("timings"),
    }


STEPS: dict[str, Callable[[str, Path, Path], dict[str, Any]]] = {
    "forecast": forecast,
    "compression": compression,
}


def rows_of(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """What was forecast and what was taken, of the networks for which both are known."""
    rows: list[tuple[str, ...]] = []
    for name, found in result.items():
        if not STEPS.keys() <= found.keys():
            continue
        said, took = found["forecast"], found["compression"]
        for what, unit in (("evaluations", 1), ("seconds", 1), ("memory_bytes", 1e6)):
            rows.append((name, what, f"{said[what] / unit:,.0f}", f"{took[what] / unit:,.0f}"))
        rows.append((name, "processor seconds", "", f"{took['processor_seconds']:,.0f}"))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=NETS, help="one of the networks")
    parser.add_argument("--step", choices=STEPS, help="one of the steps")
    parser.add_argument("--again", action="store_true", help="measure also what is known")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        reference = write_reference(folder / "reference.npz")
        for name in NETS if arguments.only is None else (arguments.only,):
            for step in STEPS if arguments.step is None else (arguments.step,):
                if step in result.setdefault(name, {}) and not arguments.again:
                    continue
                before = os.getloadavg()[0]
                found = STEPS[step](name, folder, reference)
                result[name][step] = {
                    **found,
                    "load": [before, os.getloadavg()[0]],
                    "machine": f"{platform.platform()}, {os.cpu_count()} cores",
                    "torch": torch.__version__,
                }
                write_json(arguments.out, result)
    sys.stdout.write(text_table(("net", "what", "forecast", "taken"), rows_of(result)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
