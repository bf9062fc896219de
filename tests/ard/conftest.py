"""A report made of hand numbers, as large as a real one; a checkpoint and a score to run with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import checkpoint_of, lively_generator

from ard.coverage import Coverage
from ard.measuring.score import Score
from ard.measuring.sensitivity import Row, SensitivityTable
from ard.plan import Factorization, RankPlan
from ard.report.values import CompressionReport, LayerRow, TimedRow, Totals, Trial
from nas_gan.checkpoint import save_checkpoint
from nas_gan.cli import run
from nas_gan.metrics.features import make_extractor
from nas_gan.metrics.frechet import statistics_of
from nas_gan.metrics.sampling import extract_features
from nas_gan.networks.latents import latent_bank

FEATURES = "efficientnet-lite0@96"
# name, weight shape, output positions, rise in FD when half of the layer is kept
LAYERS = (
    ("l1", (2048, 40), 1, 0.4),
    ("l2", (512, 40), 1, -0.2),
    ("l3", (2048, 40), 1, 0.1),
    *(
        (f"cell{cell}.{edge}.ops.0.op.1", (128, 128, size, size), (4 << cell) ** 2, rise)
        for cell, rises in ((1, (9, 4, 2)), (2, (3, 1.5, 0.8)), (3, (6, 2.2, 14)))
        for (edge, size), rise in zip((("c0", 3), ("c1", 5), ("c3", 3)), rises, strict=True)
    ),
    *((f"cell{cell}.up0.ups.0.c.1", (128, 128, 1, 1), (4 << cell) ** 2, 0.6) for cell in (1, 2, 3)),
    ("cell3.skip_in_ops.1", (128, 128, 1, 1), 1024, 0.9),
    ("cell3.c4.ops.0.op.1", (128, 128, 5, 5), 1024, 31.0),
)
SHARES = (0.1, 0.25, 0.5, 0.75)


def evaluation(delta: float, half: float = 0.5, n: int = 2000) -> Score:
    return Score(
        metric="fid",
        value=446.0 + delta,
        rise=delta,
        ci_low=delta - half,
        ci_high=delta + half,
        n_images=n,
        features=FEATURES,
        measured=True,
    )


def _rows() -> tuple[Row, ...]:
    rows = []
    for name, shape, positions, rise in LAYERS:
        dense = _params(shape)
        pointwise = len(shape) == 2 or shape[2] == 1
        methods: tuple[str, ...] = ("svd",) if pointwise else ("tucker2", "spatial_svd", "cp")
        for method, factor in zip(methods, (1.0, 0.55, 2.5), strict=False):
            for share in SHARES:
                rank = max(1, round(shape[0] * share))
                choice = Factorization(method, (rank, rank) if method == "tucker2" else (rank,))
                delta = rise * factor * (1 - share) ** 2 / share / 0.5
                kind = "linear" if len(shape) == 2 else "conv2d"
                params = round(dense * share)
                score = evaluation(delta - 0.1, 0.3 + 0.1 * abs(delta))
                rows.append(Row(name, kind, choice, params, params * positions, score))
    return tuple(rows)


def _params(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total + shape[0]


def _layer(index: int, table: SensitivityTable, plan: RankPlan) -> LayerRow:
    name, shape, positions, _ = LAYERS[index]
    dense = _params(shape)
    kind = "linear" if len(shape) == 2 else "conv2d"
    params = dense
    if name in plan:
        [params] = [row.params for row in table.of_layer(name) if row.choice == plan[name]]
    choice = str(plan[name]) if name in plan else "dense"
    return LayerRow(name, kind, shape, choice, dense, params, dense * positions, params * positions)


def example_report() -> CompressionReport:
    """Three times smaller, 2.4 times fewer MACs, 12.5 of 22.3 allowed."""
    table = SensitivityTable(evaluation(0.0, 0.0), _rows())
    plan = RankPlan(
        {
            name: next(row.choice for row in table.of_layer(name) if row.score.rise < 4)
            for name, *_ in LAYERS[:-1]
        }
    )
    trials = tuple(
        Trial(
            plan.without_layer("l1") if i else plan,
            round(1_230_000 / ratio),
            round(45_600_000 / (1 + 0.7 * (ratio - 1))),
            round(1_230_000 / ratio),
            evaluation(delta, half),
            1,
            delta + half <= 22.3,
        )
        for i, (ratio, delta, half) in enumerate(
            (
                (3.0, 12.1, 3.9),
                (1.6, -1.2, 1.1),
                (2.1, 3.4, 2.0),
                (2.6, 7.9, 3.0),
                (3.3, 19.8, 4.4),
                (3.9, 48.0, 6.0),
                (5.2, 171.0, 13.0),
            )
        )
    )
    return CompressionReport(
        checkpoint="fashion_mnist.pt",
        dataset="fashion-mnist",
        objective="params",
        metric="fid",
        budget=22.3,
        budget_text="5%",
        budget_met=True,
        extractor=FEATURES,
        comparable=False,
        reference="statistics shipped with the checkpoint (fashion-mnist, 32 x 32, 60,000 images)",
        plan=plan,
        layers=tuple(_layer(i, table, plan) for i in range(len(LAYERS))),
        skipped=(
            ("to_rgb.2", "too thin to factorize (128 -> 3 channels)"),
            ("cell1.up1.ups.0.c.1", "called 2 times in one pass"),
        ),
        dense=Totals(1_230_000, 45_600_000, 1_230_000, 4_920_000),
        compressed=Totals(410_000, 19_000_000, 410_000, 1_640_000),
        dense_score=446.0,
        factorized=evaluation(118.0, 9.0, 4000),
        recovered=evaluation(12.5, 3.6, 4000),
        rounds=1,
        trials=trials,
        table=table,
        coverage=Coverage.of(1_220_000, [("BatchNorm2d", 10_000)]),
        latency=(
            TimedRow("onnxruntime-cpu", 1, 4.2, 2.0, 2.1, 2.02, 2.2),
            TimedRow("onnxruntime-cpu", 64, 212.0, 88.3, 2.4, 2.31, 2.48),
        ),
        timings={"dense scores": 21.5, "sweep": 193.0, "search and recovery": 141.2, "report": 0.4},
        environment={"python": "3.11.2", "torch": "2.15.0", "machine": "Linux x86_64", "seed": "0"},
    )


@pytest.fixture(scope="session")
def report() -> CompressionReport:
    return example_report()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(checkpoint_of(lively_generator()), path)
    return path


@pytest.fixture(scope="session")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference statistics of rank 16, which makes a score cheap: of images of the dense generator.

    They have ten times its spread, of which a factorization, being a projection, loses some more.
    """
    features = extract_features(
        lively_generator(), latent_bank(17, 120, 99), make_extractor("efficientnet-lite0")
    )
    known = statistics_of(features)
    path = tmp_path_factory.mktemp("statistics") / "reference.npz"
    np.savez(path, mu=known.mean, sigma=100 * known.covariance, n=17)
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run the `main` of a command in this process; exit code, stdout and stderr."""
    threads = torch.get_num_threads()

    def call(
        main: Callable[[Any], int], config: type[Any], *arguments: str | Path
    ) -> tuple[int, str, str]:
        args = [str(argument) for argument in arguments]
        capsys.readouterr()
        code = run(main, config, prog="python -m ard", description="", args=args)
        return code, *capsys.readouterr()

    yield call
    logging.captureWarnings(False)
    torch.set_num_threads(threads)
