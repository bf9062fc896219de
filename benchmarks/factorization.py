"""Image error against parameters, each layer alone by each method; seconds and memory of each.

    python benchmarks/factorization.py
    python benchmarks/factorization.py --parts engines competition

Every layer of the zoo generator at three shares of its parameters: by plain factors of the weight,
weighted by what enters the layer, weighted on both sides, and for convolutions CP by tensorly from
a random start. The error is the relative mean square error of the image on latents that nothing
was fitted to. Whole plans show what weighing and fitting in closed form do to ΔFD. Seconds are of
one layer; peak memory is that of a process which factorizes one 256 x 256 x 5 x 5 kernel, ours and
tensorly's, less what it held before (read from /proc, so on Linux). `engines` runs tensorly's loops
and ours for the same sweeps from the same start; `competition` counts which methods are left when
they compete on every layer, with tensor train and without. Parts that are not run again keep what
the file of results holds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rank_bench import RESULTS, Effort, RankBench, machine, open_bench, scores
from tensorly.cp_tensor import CPTensor, cp_to_tensor
from tensorly.decomposition import parafac, partial_tucker
from tensorly.tenalg import multi_mode_dot
from torch import Tensor, nn

from ard.assembly.closed_form import Fit, layer_outputs
from ard.assembly.statistics import LayerStatistics, capture_inputs
from ard.assembly.surgery import apply_plan, factorize_layer
from ard.baselines.published import published_generator
from ard.baselines.rules import uniform_ratio
from ard.factorization.backend import torch_backend
from ard.factorization.cp import RIDGE, alternating_least_squares, spatial_svd_terms
from ard.factorization.methods import METHODS
from ard.factorization.ranks import Shape
from ard.factorization.svd import economy_svd
from ard.factorization.tensor_train import TENSOR_TRAIN
from ard.factorization.tucker import N_ITER_MAX, TOL, tucker2
from ard.factorization.whitening import covariance_root
from ard.grid import RankGrid
from ard.pipeline import prepare
from ard.plan import Factorization, RankPlan
from ard.search.candidates import output_error
from ard.search.proxy import image_error
from nas_gan.cli import progress
from nas_gan.files import write_json

SHARES = (0.5, 0.25, 0.1)
PARTS = ("closed_form", "one_kernel", "engines", "competition", "layers")
# Kernels behind `engines`, and the sweeps of its alternating least squares.
KERNELS = ((256, 256, 3, 3), (128, 128, 5, 5))
CP_SWEEPS = 3
# The kernel keeps the highest use of memory of a process, and forgets it when told to: what
# importing took once is far more than what a small kernel needs.
MEMORY = """
import re, time, torch
from pathlib import Path
torch.set_num_threads(1)
from tensorly.decomposition import parafac, partial_tucker
from ard.factorization.cp import cp
from ard.factorization.spatial_svd import spatial_svd
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
            for method in METHODS:
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
    for method in METHODS:
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


def measure_engines() -> list[dict[str, Any]]:
    """Processor seconds of tensorly's loops and ours for the same sweeps of the same kernel."""
    rows = []
    for shape in KERNELS:
        rng = torch.Generator().manual_seed(0)
        weight = torch.randn(shape, dtype=torch.float64, generator=rng)
        for share in (1 / 4, 1 / 2, 3 / 4):
            rank = (round(share * shape[0]), round(share * shape[1]))
            ours, found = processor_seconds(partial(tucker2, weight, rank))
            theirs, (expected, sweeps) = processor_seconds(partial(their_tucker, weight, rank))
            errors = [tucker_error(weight, value) for value in (found, expected)]
            rows.append(engine_row(f"tucker2{rank}", shape, len(sweeps), (ours, theirs), errors))
        start = spatial_svd_terms(weight / weight.norm(), shape[0])
        ours, factors = processor_seconds(partial(our_als, weight, start))
        theirs, value = processor_seconds(partial(their_als, weight, start))
        errors = [cp_error(weight, terms) for terms in ((None, factors), value)]
        rows.append(engine_row(f"cp({shape[0]})", shape, CP_SWEEPS, (ours, theirs), errors))
    return rows


def engine_row(
    choice: str,
    shape: tuple[int, ...],
    sweeps: int,
    seconds: tuple[float, float],
    errors: Sequence[float],
) -> dict[str, Any]:
    return {
        "choice": choice,
        "shape": list(shape),
        "sweeps": sweeps,
        "seconds_ours": seconds[0],
        "seconds_tensorly": seconds[1],
        "ratio": seconds[1] / seconds[0],
        "error_ours": errors[0],
        "error_tensorly": errors[1],
    }


def processor_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    with torch_backend():
        result = work()
    return time.process_time() - started, result


def their_tucker(weight: Tensor, rank: tuple[int, int]) -> Any:
    """tensorly's HOOI with our SVD, which its version 0.10 takes for the start alone."""
    return partial_tucker(
        weight, rank, modes=[0, 1], n_iter_max=N_ITER_MAX, tol=TOL, svd=economy_svd
    )


def our_als(weight: Tensor, start: Sequence[Tensor]) -> list[Tensor]:
    return alternating_least_squares(
        weight / weight.norm(), list(start), CP_SWEEPS, extrapolated=False
    )


def their_als(weight: Tensor, start: Sequence[Tensor]) -> Any:
    normed, terms = weight / weight.norm(), start[0].shape[1]
    init = CPTensor((None, list(start)))
    return parafac(normed, terms, init=init, n_iter_max=CP_SWEEPS, tol=0, l2_reg=RIDGE)


def tucker_error(weight: Tensor, value: Any) -> float:
    core, factors = value
    with torch_backend():
        rest = weight - multi_mode_dot(core, list(factors)[:2], modes=[0, 1])
    return float(rest.norm() / weight.norm())


def cp_error(weight: Tensor, value: Any) -> float:
    with torch_backend():
        return float((weight / weight.norm() - cp_to_tensor(value)).norm())


def measure_competition(bench: RankBench) -> list[dict[str, Any]]:
    """Which methods are left on the layers of a net, and what asking them took."""
    rows: list[dict[str, Any]] = []
    for left_out in ((), ("tensor_train",), ("cp",), ("cp", "tensor_train")):
        methods = [name for name in METHODS if name not in left_out]
        started = time.process_time()
        prepared = prepare(bench.search(grid=RankGrid(tuple(methods))))
        seconds = time.process_time() - started
        left = Counter(choice.method for _, choice in prepared.choices)
        rows.append({"methods": methods, "left": dict(left), "seconds": seconds})
    return rows


def measure_middles(bench: RankBench) -> list[dict[str, Any]]:
    """Output error of tensor trains at equal weights, by the rank in the middle over the others."""
    prepared, rows = bench.prepared, []
    layers = [layer for layer in bench.layers if TENSOR_TRAIN.name in layer.methods()]
    inputs = capture_inputs(bench.generator, bench.latents[:16], [layer.name for layer in layers])

    def ranks(shape: Shape, middle: float | None) -> tuple[float, ...]:
        first, most, last = TENSOR_TRAIN.max_rank(shape)
        return (first, most if middle is None else middle * min(first, last), last)

    for share in SHARES:
        for middle in (0.75, 1.0, 1.25, 1.5, 2.0, None):
            method = replace(TENSOR_TRAIN, proportions=partial(ranks, middle=middle))
            errors = []
            for layer in layers:
                rank = method.rank_for_fraction(layer.shape, share)
                module = bench.generator.get_submodule(layer.name)
                known = prepared.assemble.statistics[layer.name]
                factors = factorize_layer(module, Factorization(method.name, rank), known)
                root = None if known.output is None else covariance_root(known.output)
                errors.append(output_error(module, factors, inputs[layer.name], root))
            error = float(np.exp(np.mean(np.log(errors))))
            rows.append({"share": share, "middle": middle or "largest", "error": error})
    return rows


def measure_rows(bench: RankBench) -> dict[str, Any]:
    rows = measure_layers(bench)
    return {"summary": summarise(rows), "best_method": best_methods(rows), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="mmd-nas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="channels of the memory test")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=RESULTS / "factorization.json")
    options = parser.parse_args()
    bench = open_bench(options.net, Effort(threads=options.threads), Path("runs/bench"))
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "closed_form": lambda: {"closed_form": measure_closed_form(bench)},
        "one_kernel": lambda: {
            "one_kernel": {
                "shape": [options.size, options.size, 5, 5],
                "rank": options.size // 2,
                "runs": measure_memory(options.size, options.size // 2),
            }
        },
        "engines": lambda: {"engines": measure_engines()},
        "competition": lambda: {
            "competition": measure_competition(bench),
            "tensor_train_middle": measure_middles(bench),
        },
        "layers": lambda: measure_rows(bench),
    }
    same = {"machine": machine(), "net": options.net}
    kept = json.loads(options.out.read_text()) if options.out.exists() else same
    if set(options.parts) != set(PARTS) and {key: kept.get(key) for key in same} != same:
        parser.error(f"{options.out} is of another machine, net or number of threads")
    found: dict[str, Any] = {}
    for name in options.parts:
        found |= parts[name]()
    result = {**kept, **same, **found}
    if "layers" in options.parts or "closed_form" in options.parts:
        result["fid_dense"] = bench.fid_dense
    write_json(options.out, result)
    print(json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1))


if __name__ == "__main__":
    main()
