"""Claim: the net of a short search has a smaller FD than a random one of its size, trained alike.

For each of five seeds, an architecture is searched on Fashion-MNIST, and the best of its finalists
is kept. Another genotype is drawn at random until it has as many parameters and multiply-adds,
within 5 %. Both are trained with the same seed (not that of the search), data, discriminator and
number of steps, the sides taking turns to begin, and measured on the same latents. The ratio is the
FD of the found net over that of the random one.

    OMP_NUM_THREADS=1 nice -n 15 python benchmarks/searched.py           # two hours on one core
    OMP_NUM_THREADS=1 nice -n 15 python benchmarks/searched.py --quick   # a minute: does it run?

On two cores, start it with `--seeds 1 3 5` and with `--seeds 2 4` at once, and then as above, which
puts together what both have done. An interrupted run goes on where it stopped. The FD is a Fréchet
distance in EfficientNet-Lite0 features and compares with nothing published.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nas_gan.architecture_search import build as search_build
from nas_gan.architecture_search.config import SearchConfig
from nas_gan.architecture_search.finalists import FINALIST, updates_of
from nas_gan.architecture_search.pictures import draw_search
from nas_gan.architecture_search.run import search
from nas_gan.checkpoint import build_generator, load_checkpoint
from nas_gan.cli import progress
from nas_gan.errors import InvalidValueError
from nas_gan.files import write_json, write_text
from nas_gan.networks.genotype import EDGES, NORMAL, UP, Genotype
from nas_gan.networks.searched import Generator, GeneratorConfig
from nas_gan.reading import read_json
from nas_gan.tables import text_table
from nas_gan.training.build import load_images
from nas_gan.training.config import TrainConfig
from nas_gan.training.describe import read_genotype
from nas_gan.training.measuring import measure_features
from nas_gan.training.run import train

HERE = Path(__file__).parent
RESULT = HERE / "results" / "searched.json"
SEEDS = (1, 2, 3, 4, 5)
SIDES = ("found", "random")
TOLERANCE = 0.05
MAX_DRAWS = 100_000
# Finalists were chosen with the seed of their search, and with its luck; so the sides have another.
OTHER_SEED = 100
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Sizes of the networks and lengths of the runs."""

    channels: int = 8
    batch_size: int = 32
    # With the hinge loss, such short runs lose modes.
    loss: str = "latest"
    lr: float = 1e-3
    arch_lr: float = 3e-2
    search_steps: int = 150
    finalists: int = 8
    finalist_steps: int = 250
    finalist_samples: int = 1500
    train_steps: int = 1000
    samples: int = 5000

    def search_config(self, run_dir: Path, seed: int) -> SearchConfig:
        return SearchConfig(
            run_dir=run_dir, dataset="fashion_mnist", gf_dim=self.channels, df_dim=2*self.channels,
            batch_size=self.batch_size, steps=self.search_steps, n_critic=1, loss=self.loss,
            g_lr=self.lr, d_lr=self.lr, arch_lr=self.arch_lr, ema_decay=0.99, seed=seed,
            sample_every=0, finalists=self.finalists, finalist_steps=self.finalist_steps,
            eval_samples=self.finalist_samples, features="efficientnet-lite0",
        )  # fmt: skip

    def train_config(self, run_dir: Path, genotype: Path, seed: int) -> TrainConfig:
        return TrainConfig(
            run_dir=run_dir, dataset="fashion_mnist", genotype=genotype, gf_dim=self.channels,
            df_dim=2 * self.channels, batch_size=self.batch_size, steps=self.train_steps,
            n_critic=1, loss=self.loss, g_lr=self.lr, d_lr=self.lr, activation="pmish",
            g_scheduler="linear_decay", d_scheduler="linear_decay",
            ema_decay=0.99, seed=OTHER_SEED + seed, sample_every=0, eval_samples=self.samples,
            features="efficientnet-lite0",
        )  # fmt: skip


QUICK = Settings(
    channels=4, batch_size=8, search_steps=2, finalists=2, finalist_steps=2, finalist_samples=32,
    train_steps=4, samples=64,
)  # fmt: skip


def size_of(genotype: Genotype, channels: int) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image, of the generator of a genotype."""
    with torch.device("meta"):
        net = Generator(GeneratorConfig(genotype, gf_dim=channels, n_classes=0))
    macs = 0
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            macs += layer.weight.numel()
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # All of a cell is at the size of its output, which doubles from cell to cell; but for
            # earlier cells' features and transposed convolutions, which are a few in a thousand.
            cell = int(name[4]) if name.startswith("cell") else 3
            macs += layer.weight.numel() * (net.config.bottom_width << cell) ** 2
    return sum(p.numel() for p in net.parameters()), macs


def random_like(genotype: Genotype, channels: int, seed: int) -> Genotype:
    """A uniformly drawn genotype of the same table, and of the same size within the tolerance."""
    rng, wanted = np.random.default_rng([seed, 77]), size_of(genotype, channels)
    sizes = [len(UP[genotype.table] if edge.startswith("up") else NORMAL) for edge in EDGES]
    for _ in range(MAX_DRAWS):
        rows = tuple(tuple(int(n) for n in rng.integers(sizes)) for _ in range(3))
        drawn = Genotype(rows, genotype.table)
        try:
            found = size_of(drawn, channels)
        except InvalidValueError:  # a node without input
            continue
        close = all(abs(a / b - 1) <= TOLERANCE for a, b in zip(found, wanted, strict=True))
        if close and drawn != genotype:
            return drawn
    raise SystemExit(f"no random genotype of this size in {MAX_DRAWS} draws: {genotype}")


@contextmanager
def timed(run_dir: Path) -> Iterator[None]:
    """Add the wall and processor seconds of the block to those of earlier parts of the run."""
    path = run_dir / "seconds.json"
    before = read_json(path) if path.exists() else {"wall": 0.0, "processor": 0.0}
    wall, processor = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        spent = {
            "wall": before["wall"] + time.monotonic() - wall,
            "processor": before["processor"] + time.process_time() - processor,
        }
        write_json(path, spent)


def found_by_search(settings: Settings, folder: Path, seed: int) -> Genotype:
    """The best finalist of a search; a finished one is read."""
    config = settings.search_config(folder / "search", seed)
    images = search_build.load_images(config)
    measure = measure_features(config, images)
    steps = config.steps + updates_of(config.finalists, config.finalist_steps)
    with timed(config.run_dir), progress(f"seed {seed}: search", steps) as advance:
        result = search(config, images, on_update=advance, measure=measure)
    if result.status != "finished":
        raise SystemExit(f"the search of seed {seed} {result.status}: {result.message}")
    draw_search(config.run_dir)
    return read_genotype(config.run_dir / FINALIST)


def trained(settings: Settings, folder: Path, side: str, genotype: Genotype, seed: int) -> Row:
    """Train one side, or go on with it, and measure it."""
    path = folder / f"{side}.json"
    write_text(path, genotype.to_json())
    config = settings.train_config(folder / side, path, seed)
    images = load_images(config)
    with timed(config.run_dir), progress(f"seed {seed}: {side}", config.steps) as advance:
        result = train(config, images, on_update=advance)
    if result.status != "finished":
        raise SystemExit(f"{side} of seed {seed} {result.status}: {result.message}")
    measure = measure_features(replace(config, eval_metrics=("fid",)), images)
    figures = measure(build_generator(load_checkpoint(config.run_dir / "ckpt.pt")))
    params, macs = size_of(genotype, settings.channels)
    seconds = read_json(config.run_dir / "seconds.json")
    return {**figures, "params": params, "macs": macs, "rows": genotype.rows, "seconds": seconds}


def compare(settings: Settings, folder: Path, seed: int) -> Row:
    """Both sides of one seed; what is there already is not done again."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "row.json"
    if done.exists():
        return dict(read_json(done))
    found = found_by_search(settings, folder, seed)
    genotypes = {"found": found, "random": random_like(found, settings.channels, seed)}
    order = SIDES if seed % 2 else SIDES[::-1]
    sides = {side: trained(settings, folder, side, genotypes[side], seed) for side in order}
    row = {"seed": seed, **sides, "search_seconds": read_json(folder / "search" / "seconds.json")}
    write_json(done, row)
    return row


def ratio(row: Row, *keys: str) -> float:
    """A figure of the found net over that of the random one."""
    found, random = row["found"], row["random"]
    for key in keys:
        found, random = found[key], random[key]
    return float(found / random)


def summary(rows: list[Row]) -> Row:
    """Geometric means of the ratios, and how often the found net is ahead."""
    fids = [ratio(row, "fid") for row in rows]
    return {
        "fid_ratio": statistics.geometric_mean(fids),
        "fid_ratios": fids,
        "won": sum(value < 1 for value in fids),
        "seeds": len(rows),
        "params_ratio": statistics.geometric_mean(ratio(row, "params") for row in rows),
        "macs_ratio": statistics.geometric_mean(ratio(row, "macs") for row in rows),
        "wall_ratio": statistics.geometric_mean(ratio(row, "seconds", "wall") for row in rows),
        "processor_ratio": statistics.geometric_mean(
            ratio(row, "seconds", "processor") for row in rows
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny nets and runs, two seeds")
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--work", type=Path, default=None, help="folder of all runs")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = QUICK if args.quick else Settings()
    name = "searched_quick" if args.quick else "searched"
    work = args.work or Path("runs") / name
    out = args.out or (work / "searched.json" if args.quick else RESULT)
    rows: list[Row] = []
    for seed in args.seeds or SEEDS[: 2 if args.quick else None]:
        rows.append(compare(settings, work / f"seed{seed}", seed))
        found = {
            "summary": summary(rows),
            "settings": vars(settings),
            "rows": rows,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "torch": str(torch.__version__),
        }
        write_json(out, found)
    table = [
        [
            str(row["seed"]),
            *(f"{row[side]['fid']:.1f} ± {row[side]['fid_se']:.1f}" for side in SIDES),
            f"{ratio(row, 'fid'):.3f}",
            f"{ratio(row, 'params'):.3f}",
            f"{ratio(row, 'macs'):.3f}",
            f"{ratio(row, 'seconds', 'processor'):.2f}",
        ]
        for row in rows
    ]
    header = ["seed", "found", "random", "ratio", "params", "macs", "processor"]
    sys.stdout.write(f"{text_table(header, table)}\n\n{json.dumps(summary(rows), indent=1)}\n")


if __name__ == "__main__":
    main()
