"""How far rounds of recovery get against one as long, and whether the first tell the later ones.

    OMP_NUM_THREADS=1 python benchmarks/rounds.py --runs runs/rounds

Plans along the ladder of one search, from near its budget to beyond, are recovered for four rounds
of 25 + 25 updates (those after the first are all adversarial), and once for 100 + 100. And each is
begun with the weights of the milder one before it, in rounds of 50 + 50. Every network is scored on
the same latents.

Held out: the pace of the other plans (`ard.search.outlook`) and the first rounds of a plan predict
its fourth. The error is relative to what was left above nothing.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ard.compress import CompressConfig
from ard.measuring.executors import SerialExecutor
from ard.pipeline import WholePlans, measure_sensitivities, no_advance, prepare
from ard.search.ladder import Ladder
from ard.search.outlook import AGAIN, FLOOR, PACE, PACE_SPREAD, PACES, continued
from ard.session.search import open_session
from nas_gan.cli import say
from nas_gan.files import write_json
from nas_gan.tables import text_table

RESULT = Path(__file__).parent / "results" / "rounds.json"
ROUNDS, STEPS = 4, 25
DAMAGES = (60.0, 120.0, 180.0)  # allowed sums of single-layer damages; the budget is 48
SETTINGS: dict[str, Any] = {
    "checkpoint": Path("zoo:fashion_mnist"),
    "fid_budget": "20%",
    "objective": "mixed",
    "weights": ("params=1", "latency=2"),
    "samples": 2560,
    "sweep_samples": 400,
    "fractions": (0.5, 0.3, 0.18, 0.1, 0.06),
    "anchors": 12,
    "recover_batch": 16,
    "threads": 1,
}


Histories = Sequence[tuple[int, tuple[int, ...]]]  # a plan, and those of the rounds before


def measure(
    folder: Path, steps: int, histories: Histories, table: Path | None
) -> list[dict[str, Any]]:
    """The rises of plans after rounds of so many updates; resumes from its folder."""
    config = CompressConfig(run_dir=folder, recover_steps=steps, latency_table=table, **SETTINGS)
    session = open_session(config, say, SerialExecutor())
    prepared = prepare(session.search, session.profile)
    scores = measure_sensitivities(session.search, prepared)
    rungs = Ladder(scores, prepared.parts, session.search.cost).rungs()
    tried = [min(rungs[1:], key=lambda rung: abs(rung.damage - damage)) for damage in DAMAGES]
    whole = WholePlans(session.search, prepared)
    rows = []
    for i, before in histories:
        history = tuple(tried[j].plan for j in before)
        [measured] = whole.measure({tried[i].plan: history}, "recovered", no_advance)
        rows.append(
            {
                "damage": tried[i].damage,
                "cost": tried[i].cost / rungs[0].cost,
                "updates": 2 * steps * measured.rounds,
                "rise": measured.score.rise,
                "ci_low": measured.score.ci_low,
                "ci_high": measured.score.ci_high,
            }
        )
    return rows


def pace_of(curves: Sequence[Sequence[float]]) -> float:
    """The expected pace, given what the rounds of some plans left."""
    log = -0.5 * ((PACES - PACE) / PACE_SPREAD) ** 2
    for curve in curves:
        for done, (upper, later) in enumerate(itertools.pairwise(curve), start=1):
            mean, deviation = continued(upper, np.zeros(1), (done + 1) / done, PACES)
            log = log - 0.5 * ((later - mean) / deviation) ** 2 - np.log(deviation)
    weights = np.exp(log - log.max())
    return float(weights @ PACES / weights.sum())


def held_out(rows: Sequence[dict[str, Any]], budget: float) -> list[dict[str, Any]]:
    """Each plan's last round, predicted from its first ones and from the other plans."""
    curves = {
        damage: [row["rise"] / budget for row in rows if row["damage"] == damage]
        for damage in dict.fromkeys(row["damage"] for row in rows)
    }
    found = []
    for damage, curve in curves.items():
        others = [other for at, other in curves.items() if at != damage]
        for seen in range(1, len(curve)):
            pace = pace_of([*others, curve[:seen]])
            ratio = len(curve) / seen
            mean, _ = continued(curve[seen - 1], np.zeros(1), ratio, np.array([pace]))
            found.append(
                {
                    "damage": damage,
                    "rounds_seen": seen,
                    "pace": pace,
                    "predicted": float(mean[0]) * budget,
                    "measured": curve[-1] * budget,
                    "error": float(mean[0]) / curve[-1] - 1,
                    "expected_error": AGAIN * (1 + FLOOR / curve[-1]),
                }
            )
    return found


def show(result: dict[str, Any]) -> None:
    """The tables on stdout."""
    columns = ["damage", "of the cost", "updates", "ΔFD", "95 %"]
    for name in ("in_rounds", "at_once", "sharpened"):
        sys.stdout.write(name.replace("_", " ") + "\n")
        cells = [
            [
                f"{row['damage']:.0f}",
                f"{row['cost']:.2f}",
                str(row["updates"]),
                f"{row['rise']:+.1f}",
                f"{row['ci_low']:+.1f} to {row['ci_high']:+.1f}",
            ]
            for row in result[name]
        ]
        sys.stdout.write(text_table(columns, cells) + "\n")
    cells = [
        [
            f"{row['damage']:.0f}",
            str(row["rounds_seen"]),
            f"{row['predicted']:+.1f}",
            f"{row['measured']:+.1f}",
            f"{row['error']:+.0%}",
        ]
        for row in result["held_out"]
    ]
    columns = ["damage", "rounds seen", "predicted", "measured", "error"]
    sys.stdout.write(text_table(columns, cells) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/rounds"), help="resumes here")
    parser.add_argument("--latency-table", type=Path, help="times of the layers, if known")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file to write")
    arguments = parser.parse_args()
    table = arguments.latency_table
    plans = range(len(DAMAGES))
    own = [(i, (i,) * done) for i in plans for done in range(ROUNDS)]
    in_rounds = measure(arguments.runs / f"run{STEPS}", STEPS, own, table)
    once = [(i, ()) for i in plans]
    at_once = measure(arguments.runs / f"run{ROUNDS * STEPS}", ROUNDS * STEPS, once, table)
    milder = [(i, tuple(range(i))) for i in plans]
    sharpened = measure(arguments.runs / f"run{2 * STEPS}", 2 * STEPS, milder, table)
    settings = {key: str(value) for key, value in SETTINGS.items()}
    result = {
        "settings": settings,
        "in_rounds": in_rounds,
        "at_once": at_once,
        "sharpened": sharpened,
        "held_out": held_out(in_rounds, 48.0),
    }
    write_json(arguments.out, result)
    show(result)


if __name__ == "__main__":
    main()
