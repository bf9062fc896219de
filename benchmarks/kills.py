"""Claim: a command that is killed at any moment, and run again, ends as if nothing had happened.

Each command that can be resumed is killed at 20 seeded random moments, in turn after some time and
at one of its writes, each in a fresh directory, and at a few more by SIGTERM. It is then run again
to its end, and must leave the same plan, numbers and weights as an uninterrupted run, with every
measurement once, no file half-written and no temporary one left. The last part compares one thread
with two.

    python benchmarks/kills.py

What is done is in the result file; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import kill_harness as harness  # noqa: E402

from ard.measuring.score import from_record  # noqa: E402
from nas_gan.files import write_json  # noqa: E402

RESULT = Path(__file__).parent / "results" / "kills.json"


def kill_all(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Kill every job at every moment that the result does not have yet."""
    with tempfile.TemporaryDirectory() as name, harness.nursery() as by:
        folder = Path(name)
        inputs = harness.make_inputs(folder, by)
        for job in harness.jobs(inputs, bundle=args.bundle):
            if args.only and job.name not in args.only:
                continue
            done = result["jobs"].setdefault(job.name, {"moments": [], "sigterm": []})
            if len(done["moments"]) >= args.moments and len(done["sigterm"]) >= args.sigterm:
                continue
            where = job.name.replace(" ", "_")
            whole = harness.uninterrupted(job, folder / f"{where}_whole", by)
            done |= {"seconds": whole.seconds, "syncs": whole.syncs}
            at = harness.moments(job.name, args.moments, whole, args.seed)
            for kind, number, places in (
                ("moments", signal.SIGKILL, at),
                ("sigterm", signal.SIGTERM, at[: 2 * args.sigterm : 2]),
            ):
                for moment in places[len(done[kind]) :]:
                    killed = harness.check_kills(job, whole, folder / where, by, [moment], number)
                    text = f"sync {moment.number}" if isinstance(moment, harness.Sync) else moment
                    done[kind].append({"at": text, "killed": bool(killed), "same": True})
                    write_json(args.out, result)
            sys.stdout.write(f"{job.name}: {summary(done)}\n")
            sys.stdout.flush()


def summary(done: dict[str, Any]) -> str:
    """How often a job was killed, and when it had ended before."""
    killed = {kind: sum(one["killed"] for one in done[kind]) for kind in ("moments", "sigterm")}
    return (
        f"{killed['moments']} of {len(done['moments'])} moments killed it, and "
        f"{killed['sigterm']} of {len(done['sigterm'])} SIGTERM; all ended the same"
    )


def compare_threads(result: dict[str, Any]) -> None:
    """Run the same commands with one thread and with two, and keep the largest differences."""
    with tempfile.TemporaryDirectory() as name, harness.nursery() as by:
        folder = Path(name)
        inputs = harness.make_inputs(folder, by)
        found = {}
        for n in (1, 2):
            for job in harness.jobs(inputs, threads=n):
                if job.name in ("compress", "train"):
                    where = folder / f"{job.name}{n}"
                    harness.uninterrupted(job, where, by)
        one, two = (json.loads((folder / f"compress{n}" / "plan.json").read_text()) for n in (1, 2))
        found["compress"] = {
            "same_plan": one == two,
            "largest_relative_difference_of_scores": max(
                abs(a - b) / max(abs(a), 1e-9)
                for a, b in zip(*(scores(folder, n) for n in (1, 2)), strict=True)
            ),
            **weights(folder, "compress", "compressed.pt"),
        }
        found["train"] = weights(folder, "train", "ckpt.pt")
        result["one_thread_against_two"] = found


def scores(folder: Path, n: int) -> list[float]:
    """The values that were measured, in their order."""
    lines = (folder / f"compress{n}" / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    found = [from_record(record["evaluation"]) for record in records if "evaluation" in record]
    return [score.value for score in found]


def weights(folder: Path, job: str, file: str) -> dict[str, float | bool]:
    """How far the weights of a generator are apart, relative to the largest of each tensor."""
    one, two = (
        torch.load(folder / f"{job}{n}" / file, weights_only=True)["generator"] for n in (1, 2)
    )
    apart = [
        float((one[key] - two[key]).abs().max() / one[key].abs().max())
        for key in one
        if one[key].is_floating_point() and one[key].any()
    ]
    return {"same_weights": not any(apart), "largest_relative_difference_of_weights": max(apart)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20, help="SIGKILLs of each command")
    parser.add_argument("--sigterm", type=int, default=3, help="SIGTERMs of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", action="store_true", help="let compress export and time, too")
    parser.add_argument("--only", nargs="*", help="names of commands, instead of all of them")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    setting = {"seed": args.seed, "bundle": args.bundle, "torch": str(torch.__version__)}
    result: dict[str, Any] = {"setting": setting, "jobs": {}}
    if args.out.exists():
        before = json.loads(args.out.read_text())
        if before["setting"] == setting:
            result = before
    result["machine"] = platform.processor() or platform.machine()
    kill_all(args, result)
    if "one_thread_against_two" not in result and not args.only:
        compare_threads(result)
    write_json(args.out, result)
    sys.stdout.write(json.dumps(result.get("one_thread_against_two"), indent=2) + "\n")


if __name__ == "__main__":
    main()
