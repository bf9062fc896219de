"""Claim: the whole command takes half of the processor time of an older tree on the same settings.

    git worktree add ../older 6a84427
    OMP_NUM_THREADS=1 python benchmarks/processor_time.py --older ../older

Both trees compress the shipped checkpoint in turns, or at once with `--together`, each in a process
of its own with one thread.
Processor seconds are those of the stages of `staged_compress.py`, and of the process; what the
command exports and times at its end is the same on both sides and left out. Ratios are older over
this tree, as medians over rounds. What each side found is recorded beside its seconds: a search
that is faster because it finds less would be no gain.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nas_gan.files import write_json

BAR = 2.0
HERE = Path(__file__).parent
RESULT = HERE / "results" / "processor_time.json"
# The demo in small.
SETTINGS = (
    *("zoo:fashion_mnist", "--fid-budget", "20%", "--samples", "1700", "--sweep-samples", "200"),
    *("--fractions", "0.5", "0.3", "0.18", "0.1", "0.06", "--anchors", "6"),
    *("--recover-steps", "17", "--recover-batch", "16", "--max-trials", "2"),
    *("--threads", "1", "--no-bundle"),
)
# A few minutes, for a machine with other users.
SHORT = (
    *("zoo:fashion_mnist", "--fid-budget", "40%", "--samples", "520", "--sweep-samples", "64"),
    *("--fractions", "0.3", "0.1", "--anchors", "2"),
    *("--recover-steps", "4", "--recover-batch", "16", "--max-trials", "1"),
    *("--threads", "1", "--no-bundle"),
)
BUDGET_MISSED = 3


def run_tree(tree: Path, settings: Sequence[str]) -> dict[str, Any]:
    """One run of the command from the sources in `tree`."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir, out = Path(folder) / "run", Path(folder) / "seconds.json"
        command = [sys.executable, str(HERE / "staged_compress.py"), str(out), *settings]
        started = time.monotonic()
        done = subprocess.run(
            [*command, "--run-dir", str(run_dir)],
            env={**os.environ, "PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.monotonic() - started
        if done.returncode not in (0, BUDGET_MISSED):
            raise SystemExit(f"{tree}: {done.stderr[-2000:]}")
        report = json.loads((run_dir / "report.json").read_text())
        lines = (run_dir / "journal.jsonl").read_text().splitlines()[1:]
        return {
            "seconds": json.loads(out.read_text()),
            "wall": wall,
            "measurements": len(lines),
            "budget_met": report["budget_met"],
            "compression": report["compression"],
            "recovered": report["recovered"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--older", type=Path, required=True, help="the tree to compare with")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="settings of a few minutes")
    parser.add_argument(
        "--together",
        action="store_true",
        help="both trees at once, so that a load that changes falls on both alike",
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    trees = {"older": args.older, "this": HERE.parent}
    settings = SHORT if args.short else SETTINGS
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for number in range(args.rounds):
        # The side that begins changes, since the machine may change during a round.
        names = list(trees)[:: 1 if number % 2 == 0 else -1]
        with ThreadPoolExecutor(len(names) if args.together else 1) as pool:
            for name, run in zip(
                names, pool.map(lambda name: run_tree(trees[name], settings), names), strict=True
            ):
                runs[name].append(run)
                print(name, run, flush=True)
    stages = runs["older"][0]["seconds"]
    ratios = {
        stage: statistics.median(
            old["seconds"][stage] / new["seconds"][stage]
            for old, new in zip(runs["older"], runs["this"], strict=True)
        )
        for stage in stages
    }
    for stage, ratio in ratios.items():
        print(f"{stage:24} {ratio:.2f}")
    print(f"the whole command: {ratios['all']:.2f}, the bar is {BAR}")
    write_json(
        args.out,
        {
            "settings": " ".join(settings),
            "together": args.together,
            "ratios": ratios,
            "bar": BAR,
            "runs": runs,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        },
    )


if __name__ == "__main__":
    main()
