"""Claim: rounds of recovery find cheaper plans than one recovery a plan, in as much training.

    OMP_NUM_THREADS=1 python benchmarks/searches.py --runs runs/searches

Under each budget the shipped checkpoint is compressed three times, from the same single-layer
scores and with as many updates in all: every plan recovered once from the dense generator (as
without rounds); rounds of the same length; and half as many, twice as long. Cost is the
objective's, relative to the dense network. Seconds are the processor's, of the whole command behind
the single-layer scores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas_gan.files import write_json
from nas_gan.tables import text_table

RESULT = Path(__file__).parent / "results" / "searches.json"
BUDGETS = ("10%", "20%", "40%")
SETTINGS = (
    *("zoo:fashion_mnist", "--objective", "mixed", "--weights", "params=1", "latency=2"),
    *("--sweep-samples", "400", "--fractions", "0.5", "0.3", "0.18", "0.1", "0.06"),
    *("--anchors", "12", "--samples", "2560", "--threads", "1"),
)
WHOLE = ("--recover-batch", "16", "--no-bundle")
VARIANTS = {
    "one recovery a plan": ("--recover-steps", "50", "--max-trials", "4", "--max-rounds", "1"),
    "rounds": ("--recover-steps", "50", "--max-trials", "4"),
    "longer rounds": ("--recover-steps", "100", "--max-trials", "2"),
}
BUDGET_MISSED = 3


def run(module: str, arguments: Sequence[str | Path]) -> float:
    """Run a command; its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode not in (0, BUDGET_MISSED):
        sys.exit(f"{module} ended with exit code {done.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def outcome(run_dir: Path) -> dict[str, Any]:
    """What a finished search saved."""
    report = json.loads((run_dir / "report.json").read_text())
    score = report["recovered"]
    return {
        "met": report["budget_met"],
        "used": score["ci_high"] / report["budget"],
        "rise": score["rise"],
        "cost": report["compressed"]["cost"] / report["dense"]["cost"],
        "params": report["compression"],
        "macs": report["macs_ratio"],
        "rounds": report["rounds"],
        "trials": [[t["rounds"], t["evaluation"]["ci_high"]] for t in report["trials"]],
    }


def measure(runs: Path, budgets: Sequence[str]) -> list[dict[str, Any]]:
    """Every search that is not finished yet; each variant starts from the same sweep."""
    base = runs / "sweep"
    if not (base / "sensitivity.csv").exists():
        run("ard.sweep", [*SETTINGS, "--run-dir", base])
    rows = []
    for budget in budgets:
        for name, options in VARIANTS.items():
            run_dir = runs / f"{name} {budget}".replace(" ", "-").replace("%", "pct")
            seconds = run_dir / "seconds.json"
            if not seconds.exists():
                if not run_dir.exists():
                    run_dir.mkdir(parents=True)
                    shutil.copy(base / "journal.jsonl", run_dir)
                table = ("--latency-table", base / "latency.csv", "--fid-budget", budget)
                spent = run(
                    "ard.compress",
                    [*SETTINGS, *WHOLE, *options, *table, "--run-dir", run_dir],
                )
                write_json(seconds, spent)
            spent = json.loads(seconds.read_text())
            rows.append(
                {"budget": budget, "search": name, "processor_s": spent, **outcome(run_dir)}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/searches"), help="resumes here")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS)
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file to write")
    arguments = parser.parse_args()
    rows = measure(arguments.runs, arguments.budgets)
    by = {
        name: math.exp(
            sum(-math.log(row["cost"]) for row in rows if row["search"] == name)
            / len(arguments.budgets)
        )
        for name in VARIANTS
    }
    result = {"settings": [*SETTINGS, *WHOLE], "searches": rows, "times_cheaper": by}
    write_json(arguments.out, result)
    columns = ["budget", "search", "cost", "params", "MACs", "budget used", "rounds", "processor s"]
    cells = [
        [
            row["budget"],
            row["search"],
            f"1/{1 / row['cost']:.2f}",
            f"1/{row['params']:.2f}",
            f"1/{row['macs']:.2f}",
            f"{row['used']:.0%}" if row["met"] else "missed",
            str(row["rounds"]),
            f"{row['processor_s']:.0f}",
        ]
        for row in rows
    ]
    sys.stdout.write(text_table(columns, cells) + "\n")


if __name__ == "__main__":
    main()
