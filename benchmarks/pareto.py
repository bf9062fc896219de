"""The picture of `compression_at_budget.json`: compression against ΔFD, ours and the baselines.

    python benchmarks/pareto.py

One picture of every net before recovery and one after it. Of each way only the plans are joined
that no other plan of that way beats in both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rank_bench import RESULTS

from ard.measuring.score import Score, from_record
from ard.report.curves import Curve, curves_figure
from nas_gan.pictures.plot_style import save_figure

WAYS = ("ours", "published", "uniform ratio", "energy", "greedy")
# What the points of the results leave out of a score, and a curve does not show.
UNSAID = {"fid": 0.0, "n_samples": 1, "extractor": ""}


def front(points: Iterable[tuple[float, Score]]) -> tuple[tuple[float, Score], ...]:
    """The points that no other beats: more compressed and less harmed."""
    kept: list[tuple[float, Score]] = []
    for ratio, score in sorted(points, key=lambda p: (-p[0], p[1].rise)):
        if not kept or score.rise < kept[-1][1].rise:
            kept.append((ratio, score))
    return tuple(reversed(kept))


def curves(net: dict[str, Any], stage: str, limit: float) -> list[Curve]:
    """One curve a way; plans that lose more than `limit` are left out."""
    found = []
    for way in WAYS:
        points = [
            (p["compression"], from_record({**UNSAID, **p[stage]}))
            for p in net["points"]
            if p["way"] == way and p[stage] and p[stage]["delta_fid"] <= limit
        ]
        if points:
            found.append(Curve(way, front(points)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS / "compression_at_budget.json")
    parser.add_argument("--limit", type=float, default=1.0, help="of the dense distance")
    options = parser.parse_args()
    for net in json.loads(options.results.read_text())["nets"]:
        for stage in ("factorized", "recovered"):
            drawn = curves(net, stage, options.limit * net["fid_dense"])
            figure = curves_figure(
                drawn,
                distance=f"FD ({net['extractor']})",
                title=f"{net['net']}, {'after' if stage == 'recovered' else 'before'} recovery",
            )
            save_figure(figure, options.results.parent / f"pareto_{net['net']}_{stage}.png")


if __name__ == "__main__":
    main()
