"""What a search costs: full-size FID evaluations and time, ours against the published sweep.

    python benchmarks/evaluations.py

The published method scores every layer at every rank with a full-size evaluation (70 on its own
net), then its five plans. Ours moves the images of a few latents for every choice, scores a few
single layers on a small bank, and only whole plans at full size. Time does not include recovery,
which both need. The published sweep is measured on a sample of its rows, drawn evenly, and scaled
up; --full measures all of it. Claim: at most a seventh of the evaluations, a fifth of the time.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from compression_at_budget import ANCHORS, BUDGETS, MAX_TRIALS, our_evaluators
from rank_bench import NETS, RESULTS, Effort, RankBench, machine, open_bench

from ard.measuring.evaluate import Candidate, Evaluator
from ard.measuring.score import Score
from ard.pipeline import Effort as SearchEffort
from ard.pipeline import compress_within
from ard.plan import RankPlan
from nas_gan.cli import progress
from nas_gan.files import write_json

N_PUBLISHED_PLANS = 5


class Counted:
    """An evaluator that counts how often it is used."""

    def __init__(self, evaluate: Evaluator) -> None:
        self.evaluate, self.count = evaluate, 0

    def __call__(self, candidate: Candidate) -> Score:
        self.count += 1
        return self.evaluate(candidate)


def measure_ours(bench: RankBench) -> dict[str, float]:
    """One search for the middle budget, from the checkpoint to a verified plan."""
    evaluators = our_evaluators(bench)
    full, small = Counted(bench.joint), Counted(evaluators.single)
    counted = replace(evaluators, single=small, joint=full, final=full)
    started = time.perf_counter()
    search = bench.search(evaluators=counted, effort=SearchEffort(ANCHORS, MAX_TRIALS))
    list(compress_within(search, [BUDGETS[1] * bench.fid_dense]))
    seconds = time.perf_counter() - started
    return {"full_size": full.count, "small": small.count, "seconds": seconds}


def measure_published(bench: RankBench, n_measured: int | None) -> dict[str, float]:
    """The single-layer sweep at full size, on evenly drawn rows, and what its plans add."""
    choices = bench.published_choices()
    rows = choices
    if n_measured is not None and n_measured < len(choices):
        rows = [choices[i * len(choices) // n_measured] for i in range(n_measured)]
    started = time.perf_counter()
    with progress("published sweep", len(rows)) as advance:
        for name, choice in rows:
            bench.evaluate(bench.build_published(RankPlan({name: choice})))
            advance(1)
    per_row = (time.perf_counter() - started) / len(rows)
    total = len(choices) + N_PUBLISHED_PLANS
    return {
        "full_size": total,
        "measured_rows": len(rows),
        "seconds": per_row * total,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="mmd-nas", choices=list(NETS))
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="measure every published row")
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluations.json")
    options = parser.parse_args()
    effort = Effort(samples=options.samples, threads=options.threads)
    bench = open_bench(options.net, effort, Path("runs/bench"))
    bench.joint, bench.single  # noqa: B018  # the dense scores, which both need
    ours = measure_ours(bench)
    published = measure_published(bench, None if options.full else options.rows)
    result = {
        "machine": machine(),
        "net": options.net,
        "effort": asdict(effort),
        "ours": ours,
        "published": published,
        "share_of_evaluations": ours["full_size"] / published["full_size"],
        "share_of_time": ours["seconds"] / published["seconds"],
    }
    write_json(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
