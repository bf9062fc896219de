"""How much smaller is the net at the same loss of quality, by ours and by every baseline?

    python benchmarks/compression_at_budget.py

For three budgets, shares of the dense generator's distance, each way to choose ranks gets the most
compressed of its plans for which the upper end of the 95 % interval of ΔFD is within the budget:
with nothing trained, and after recovery, the same for all: distillation and, if the checkpoint
holds a discriminator, fine-tuning against it with the data set. All plans of a net are scored on
the same latents. Baselines factorize the weights alone and have their batch statistics corrected.
The published rule has its faults mended: linear factors scaled right, averaged weights, factors
that are trained. Claim: at least 2 times the compression of the published rule, 1.3 times that of
the best baseline.

Interrupt it and start it again: what was measured is in --work.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rank_bench import FULL, NETS, RESULTS, Effort, Point, RankBench, machine, open_bench
from torch import nn

from ard.measuring.journal import SINGLE_STAGES, FileJournal, Journal
from ard.measuring.measurement import Measurement
from ard.pipeline import Effort as SearchEffort
from ard.pipeline import Evaluators, Run, compress_within
from ard.plan import RankPlan
from ard.recovery.recover import Build, Recover, closed_form_only
from ard.search.proxy import FeatureError, MovementEvaluator
from nas_gan.cli import progress
from nas_gan.files import write_json

BUDGETS = (0.1, 0.2, 0.4)
ANCHORS = 16
N_PROXY = 32
MAX_TRIALS = 5
WAYS = ("published", "uniform rank", "uniform ratio", "energy", "EVBMF", "greedy", "random")
# A plan that loses more than this many times the largest budget before recovery is not recovered:
# no recovery of this length brings that back.
HOPELESS = 2.5


@dataclass(frozen=True)
class SharedSweep:
    """A journal whose single layers are those of every search on one net."""

    singles: Journal
    whole: Journal

    def append(self, measurement: Measurement) -> None:
        single = measurement.stage in SINGLE_STAGES
        (self.singles if single else self.whole).append(measurement)

    def measurements(self) -> Iterator[Measurement]:
        yield from self.singles.measurements()
        yield from self.whole.measurements()


def our_evaluators(bench: RankBench) -> Evaluators:
    latents = bench.setting.latents(N_PROXY, 7)
    proxy = FeatureError(bench.generator, latents, bench.setting.extractor)
    return Evaluators(
        bench.single,
        bench.joint,
        bench.joint,
        proxy=MovementEvaluator(proxy, N_PROXY, bench.setting.extractor.name),
    )


def our_points(bench: RankBench) -> list[Point]:
    """What our search finds for each budget, without training and with it."""

    def journal(name: str) -> FileJournal:
        return FileJournal(bench.work / f"{bench.name}-{name}.jsonl", asdict(bench.effort))

    remembered: dict[RankPlan, nn.Module] = {}

    def recovered(build: Build, plan: RankPlan) -> nn.Module:
        if plan not in remembered:  # asked for again to be verified, and to be returned
            remembered[plan] = bench.recover(build())
        return remembered[plan]

    ways: tuple[tuple[str, Recover], ...] = (
        ("closed-form", closed_form_only),
        ("recovered", recovered),
    )
    points = []
    for name, recover in ways:
        again = name == "recovered"
        search = bench.search(
            evaluators=our_evaluators(bench),
            recover=recover,
            effort=SearchEffort(ANCHORS, MAX_TRIALS),
            run=Run(SharedSweep(journal("ours"), journal(name)), progress=progress),
        )
        budgets = [budget * bench.fid_dense for budget in BUDGETS]
        for budget, found in zip(BUDGETS, compress_within(search, budgets), strict=True):
            for trial in found.trials:
                before, after = (None, trial.score) if again else (trial.score, None)
                points.append(bench.describe("ours", budget, trial.plan, before, after))
            if again:  # the same plan before recovery, for the picture
                score = bench.evaluate(bench.build_ours(found.plan))
                points.append(bench.describe("ours", budget, found.plan, score, found.recovered))
    return points


def baseline_points(bench: RankBench, chosen: frozenset[str], again: frozenset[str]) -> list[Point]:
    """Every plan of the chosen baselines; those of `again` are recovered as well."""
    points = []
    for way, (build, plans) in bench.ways().items():
        if way not in chosen:
            continue
        listed = plans()
        with progress(f"{bench.name}: {way}", len(listed)) as advance:
            for value, plan in listed:
                point = bench.point(way, value, plan, build, again=False)
                assert point.factorized is not None
                limit = HOPELESS * max(BUDGETS) * bench.fid_dense
                within_reach = point.factorized["delta_fid"] < limit
                if way in again and within_reach:
                    point = bench.point(way, value, plan, build, again=True)
                points.append(point)
                advance(1)
    return points


def best_within(points: Iterable[Point], budget: float, stage: str) -> dict[str, dict[str, float]]:
    """Of each way the most compressed plan within the budget; 1 where only the dense net is."""
    best: dict[str, dict[str, float]] = {}
    for point in points:
        score = getattr(point, stage)
        found = best.setdefault(point.way, {"compression": 1.0, "macs_ratio": 1.0})
        if score and score["ci_high"] <= budget and point.compression > found["compression"]:
            best[point.way] = {
                "compression": point.compression,
                "macs_ratio": point.macs_ratio,
                **score,
            }
    return best


def measure(bench: RankBench, chosen: frozenset[str], again: frozenset[str]) -> dict[str, Any]:
    points = [*our_points(bench), *baseline_points(bench, chosen, again)]
    rows = []
    for share in BUDGETS:
        for stage in ("factorized", "recovered"):
            best = best_within(points, share * bench.fid_dense, stage)
            others = {
                way: found["compression"]
                for way, found in best.items()
                if way != "ours" and (stage == "factorized" or way in again)
            }
            ours = best["ours"]["compression"]
            best_name = max(others, key=lambda way: others[way])
            rows.append(
                {
                    "budget": share,
                    "stage": stage,
                    "ours": best["ours"],
                    "baselines": {way: best[way] for way in others},
                    "over_published": ours / others["published"] if "published" in others else None,
                    "best_baseline": best_name,
                    "over_best": ours / others[best_name],
                }
            )
    return {
        "net": bench.name,
        "fid_dense": bench.fid_dense,
        "extractor": bench.setting.extractor.name,
        "effort": asdict(bench.effort),
        "params": bench.prepared.profile.total_params,
        "rows": rows,
        "points": [asdict(point) for point in points],
    }


def to_text(result: dict[str, Any]) -> str:
    lines = [f"{result['net']}, dense {result['fid_dense']:.1f}"]
    for row in result["rows"]:
        others = ", ".join(
            f"{way} {found['compression']:.2f}x" for way, found in row["baselines"].items()
        )
        over = row["over_published"]
        published = "" if over is None else f"{over:.2f} of published, "
        lines.append(
            f"  +{row['budget']:.0%} {row['stage']:<10} ours {row['ours']['compression']:.2f}x "
            f"(MACs {row['ours']['macs_ratio']:.2f}x), {published}"
            f"{row['over_best']:.2f} of {row['best_baseline']}; {others}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--work", type=Path, default=Path("runs/bench"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="sizes for a GPU")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument(
        "--recover", nargs="+", default=["published", "uniform ratio", "greedy"], choices=list(WAYS)
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "compression_at_budget.json")
    options = parser.parse_args()
    effort = replace(FULL if options.full else Effort(), threads=options.threads)
    nets = []
    for name in options.nets:
        bench = open_bench(name, effort, options.work)
        nets.append(measure(bench, frozenset(options.ways), frozenset(options.recover)))
        write_json(options.out, {"machine": machine(), "nets": nets})
        print(to_text(nets[-1]), flush=True)


if __name__ == "__main__":
    main()
