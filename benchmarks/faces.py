"""What does the command make of a trained network that nobody here wrote?

    python benchmarks/faces.py

A DCGAN of 64 x 64 faces, whose weights are part of the package gan-face-generate, is compressed
within a rise of 30, which is 5 % of the spread of its features, with the settings of `make demo`.
There is no data set, so the distance says how far the images moved, not how good they are.

Interrupt it and start it again: what was measured is in --run-dir.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rank_bench import NETS, RESULTS, machine

from ard.compress import CompressConfig, compress
from nas_gan.files import write_json

KEPT = (
    *("extractor", "reference", "interface", "coverage", "dense", "compressed", "compression"),
    *("macs_ratio", "fid_dense", "budget", "budget_met", "recovered", "latency", "plan"),
)


def settings_of(run_dir: Path, threads: int) -> CompressConfig:
    net = NETS["faces"]
    return CompressConfig(
        checkpoint=net.path,
        fid_budget="30",
        samples=5120,
        sweep_samples=400,
        fractions=(0.5, 0.3, 0.18, 0.1, 0.06),
        anchors=12,
        recover_steps=50,
        recover_batch=16,
        max_trials=3,
        threads=threads,
        run_dir=run_dir,
        **net.options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/faces"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "faces.json")
    options = parser.parse_args()
    _, run_dir = compress(settings_of(options.run_dir, options.threads))
    report: dict[str, Any] = json.loads((run_dir / "report.json").read_text())
    write_json(options.out, {"machine": machine(), **{key: report[key] for key in KEPT}})
    print(options.out)


if __name__ == "__main__":
    main()
