"""Image error against parameters, each layer alone by each method; seconds and memory of each.

    python benchmarks/factorization.py

Every layer of the zoo generator at three shares of its parameters: by plain factors of the weight,
weighted by what enters the layer, weighted on both sides, and for convolutions CP by tensorly from
a random start. The error is the relative mean square error of the image on latents that nothing
was fitted to. Whole plans show what weighing and fitting in closed form do to ΔFD. Seconds are of
one layer; peak memory is that of a process which factorizes one 256 x 256 x 5 x 5 kernel, ours and
tensorly's, less what it held before (read from /proc, so on Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rank_bench import RESULTS, Effort, RankBench, machine, open_bench, scores
from torch import nn

from ard.assembly.closed_form import Fit, layer_outputs
from ard.assembly.statistics import LayerStatistics
from ard.assembly.surgery import apply_plan
from ard.baselines.published import published_generator
from ard.baselines.rules import uniform_ratio
from ard.factorization.methods import COMPETITORS
from ard.plan import Factorization, RankPlan
from ard.search.proxy import image_error
from nas_gan.cli import progress
from nas_gan.files import write_json

SHARES = (0.5, 0.25, 0.1)
# The kernel keeps the highest use of memory of a process, and forgets it when told to: what
# importing took once is far more than what a small kernel needs.
MEMORY = """
import re, time, torch
from pathlib import Path
torch.set_num_threads(1)
from tensorly.decomposition import parafac, partial_tucker
from ard.factorization.cp import cp
from ard.factorization.svd import spatial_svd
from ard.factorization.tucker import tucker2
weight = torch.randn({size}, {size}, 5, 5, generator=torch.Generator().manual_seed(0))
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
started = time.perf_counter()
{statement}
seconds = time.perf_counter() - started
print(seconds, (kilobytes("VmHWM") - before) / 1024)
"""
STATEMENTS = {
    "tucker2, ours": "tucker2(weight, ({rank}, {rank}))",
    "tucker2, tensorly": (
        "partial_tucker(weight.double().numpy(), rank=[{rank}, {rank}], modes=[0, 1])"
    ),
    "spatial_svd, ours": "spatial_svd(weight, {rank})",
    "cp, ours": "cp(weight, {rank})",
    "cp, tensorly random start": (
        "parafac(weight.double().numpy(), {rank}, init='random', n_iter_max=100, tol=1e-8)"
    ),
}


def variants(
    bench: RankBench,
) -> dict[str, Callable[[RankPlan], nn.Module]]:
    """Ways to weigh the error, as builders of a generator without any repair afterwards."""
    both = bench.prepared.assemble.statistics
    inputs: dict[str, LayerStatistics] = {n: replace(s, output=None) for n, s in both.items()}
    return {
        "plain": partial(apply_plan, bench.generator),
        "inputs": partial(apply_plan, bench.generator, statistics=inputs),
        "inputs and outputs": partial(apply_plan, bench.generator, statistics=both),
    }


def measure_layers(bench: RankBench) -> list[dict[str, Any]]:
    error = image_error(bench.generator, bench.setting.latents(128, 77))
    rows = []
    with progress("layers", len(bench.layers)) as advance:
        for layer in bench.layers:
            for method in COMPETITORS:
                for share, choice in zip(SHARES, grid(bench, layer.name, method), strict=False):
                    plan = RankPlan({layer.name: choice})
                    builders = variants(bench)
                    if method == "cp":
                        builders["tensorly, random start"] = partial(
                            published_generator, bench.generator, seed=0, linear_fault=False
                        )
                    for weighting, build in builders.items():
                        made = partial(build, plan)
                        rows.append(row(layer.name, choice, share, weighting, made, error))
            advance(1)
    return rows


def grid(bench: RankBench, name: str, method: str) -> list[Factorization]:
    return bench.prepared.profile[name].rank_grid(method, SHARES)


def row(
    name: str,
    choice: Factorization,
    share: float,
    weighting: str,
    build: Callable[[], nn.Module],
    error: Callable[[nn.Module], float],
) -> dict[str, Any]:
    started = time.perf_counter()
    network = build()
    seconds = time.perf_counter() - started
    return {
        "layer": name,
        "method": choice.method,
        "rank": list(choice.rank),
        "share": share,
        "weighting": weighting,
        "image_error": error(network),
        "seconds": seconds,
    }


def measure_closed_form(bench: RankBench) -> list[dict[str, Any]]:
    """ΔFD of whole plans without training: what is weighed, and what is fitted afterwards."""
    both = bench.prepared.assemble
    inputs = replace(
        both, statistics={n: replace(s, output=None) for n, s in both.statistics.items()}
    )
    outputs = layer_outputs(bench.generator, bench.latents, list(both.statistics))
    fits: tuple[Fit, ...] = ("none", "moments", "least_squares")
    rows = []
    for share in SHARES[:2]:
        plan = uniform_ratio(bench.layers, share, "spatial_svd")
        rows.append({"share": share, "weighting": "plain", "fit": "none"})
        rows[-1] |= scores(bench.evaluate(bench.build_plain(plan)))
        for weighting, assemble in (("inputs", inputs), ("inputs and outputs", both)):
            for fit in fits:
                network = replace(assemble, outputs=outputs, fit=fit)(plan)
                rows.append({"share": share, "weighting": weighting, "fit": fit})
                rows[-1] |= scores(bench.evaluate(network))
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means over the layers that have every entry compared."""
    table = {(r["layer"], r["method"], r["share"], r["weighting"]): r for r in rows}
    summary = []
    for method in COMPETITORS:
        for share in SHARES:
            layers = sorted({r["layer"] for r in rows if r["method"] == method})
            for weighting in ("inputs", "inputs and outputs", "tensorly, random start"):
                pairs = [
                    (table[name, method, share, "plain"], table[name, method, share, weighting])
                    for name in layers
                    if (name, method, share, weighting) in table
                    and (name, method, share, "plain") in table
                ]
                ratios = [
                    max(b["image_error"], 1e-12) / max(a["image_error"], 1e-12) for a, b in pairs
                ]
                if ratios:
                    summary.append(
                        {
                            "method": method,
                            "share": share,
                            "weighting": weighting,
                            "layers": len(ratios),
                            "error_over_plain": float(np.exp(np.mean(np.log(ratios)))),
                        }
                    )
    return summary


def best_methods(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each method has the least image error of a layer, weighted on both sides."""
    counts: dict[str, dict[str, int]] = {}
    for share in SHARES:
        mine = [r for r in rows if r["share"] == share and r["weighting"] == "inputs and outputs"]
        for name in {r["layer"] for r in mine}:
            best = min((r for r in mine if r["layer"] == name), key=lambda r: r["image_error"])
            of_share = counts.setdefault(str(share), {})
            of_share[best["method"]] = of_share.get(best["method"], 0) + 1
    return counts


def measure_memory(size: int, rank: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, statement in STATEMENTS.items():
        code = MEMORY.format(size=size, statement=statement.format(rank=rank))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            found[name] = {"error": done.stderr.strip().splitlines()[-1]}
            continue
        seconds, megabytes = map(float, done.stdout.split())
        found[name] = {"seconds": seconds, "megabytes": megabytes}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="mmd-nas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="channels of the memory test")
    parser.add_argument("--out", type=Path, default=RESULTS / "factorization.json")
    options = parser.parse_args()
    bench = open_bench(options.net, Effort(threads=options.threads), Path("runs/bench"))
    rows = measure_layers(bench)
    result = {
        "machine": machine(),
        "net": options.net,
        "fid_dense": bench.fid_dense,
        "closed_form": measure_closed_form(bench),
        "summary": summarise(rows),
        "best_method": best_methods(rows),
        "one_kernel": {
            "shape": [options.size, options.size, 5, 5],
            "rank": options.size // 2,
            "runs": measure_memory(options.size, options.size // 2),
        },
        "rows": rows,
    }
    write_json(options.out, result)
    print(
        json.dumps(
            {k: result[k] for k in ("closed_form", "summary", "best_method", "one_kernel")},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
