"""Claims: two workers are 1.7 times as fast as one, one costs at most 10 %, no death loses work.

Single-layer plans of the shipped generator are scored as `make demo` scores them: in this process,
by one Ray worker and by two, of one thread each, on two cores. The three sides take turns with the
same plans, so whatever else the machine does falls on all of them; ratios are of sums over rounds.
A worker's own seconds are those of its processor, which stops while other programs run. On a busy
machine they are the better measure: a scheduler that shares processors among sessions gives two
workers no more of them than one.

Two raylets on the loopback are a cluster of two nodes, of which one is killed in the middle.

The search among whole plans alone, without any network, chooses from tables of 16, 160 and 1,600
layers with 40 choices each: under 10 s and 1 GB.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py
    OMP_NUM_THREADS=1 python benchmarks/scaling.py --only search
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ard.assembly.assembler import Assembler
from ard.costs.cost import params_cost
from ard.measuring.evaluate import Candidate
from ard.measuring.score import Score
from ard.measuring.sweep import Measure
from ard.pipeline import worthwhile_layers
from ard.plan import RankPlan, Replacement
from ard.session.config import SweepConfig, grid_of
from ard.session.search import open_sweep
from nas_gan.cli import progress, say
from nas_gan.files import write_json
from nas_gan.workers.executors import Executor, SerialExecutor
from nas_gan.workers.packing import pack
from nas_gan.workers.ray_executor import RayExecutor

BARS = {"two_workers": 1.7, "one_worker": 1.1, "seconds": 10.0, "bytes": 1e9}
RESULT = Path(__file__).parent / "results" / "scaling.json"
OBJECT_STORE = 200 * 2**20
CHOICES = 40


@dataclass(frozen=True)
class Timed:
    """A function that returns its result, the seconds of the processor, and the process."""

    function: Callable[[Any], Any]

    def __call__(self, item: Any) -> tuple[Any, float, int]:
        started = time.process_time()
        result = self.function(item)
        return result, time.process_time() - started, os.getpid()


# --- workers -----------------------------------------------------------------------------------


def workers(rounds: int, plans_per_round: int, images: int) -> dict[str, Any]:
    """Score the same plans in this process, on one worker and on two, in turns."""
    import ray

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = SweepConfig(
            checkpoint=Path("zoo:fashion_mnist"),
            sweep_samples=images,
            samples=images,
            threads=1,
            run_dir=Path(folder),
        )
        sweep = open_sweep(config, say, SerialExecutor())
    layers, _ = worthwhile_layers(sweep.profile, params_cost)
    assemble = Assembler.measure(sweep.search.generator, sweep.search.latents, layers)
    function = Timed(Measure(assemble, sweep.single))
    grid = grid_of(config)
    plans = [
        RankPlan({layer.name: choice})
        for layer in layers
        for choice in grid.choices(layer)
        if choice.method in ("svd", "spatial_svd")
    ]
    step = max(1, len(plans) // (rounds * plans_per_round))
    plans = plans[::step][: rounds * plans_per_round]
    packed = pack(function)
    ray.init(
        "local",
        num_cpus=3,
        object_store_memory=OBJECT_STORE,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        with RayExecutor(1) as one, RayExecutor(2) as two:
            sides: dict[str, Executor] = {
                "in this process": SerialExecutor(),
                "one worker": one,
                "two workers": two,
            }
            for side in sides.values():  # every worker opens what it was sent
                list(side.run(function, plans[:1] * side.n_workers))
            return {
                **_take_turns(sides, function, plans, rounds),
                "message_bytes": len(packed.message),
                "part_bytes": sum(part.nbytes for part in packed.parts.values()),
            }
    finally:
        ray.shutdown()


def _take_turns(
    sides: dict[str, Executor],
    function: Callable[[RankPlan], tuple[Score, float, int]],
    plans: Sequence[RankPlan],
    rounds: int,
) -> dict[str, Any]:
    wall = dict.fromkeys(sides, 0.0)
    cpu = dict.fromkeys(sides, 0.0)
    driver = dict.fromkeys(sides, 0.0)
    busiest = dict.fromkeys(sides, 0.0)
    values: dict[str, dict[RankPlan, float]] = {name: {} for name in sides}
    with progress("rounds", rounds * len(sides)) as advance:
        for turn in range(rounds):
            share = plans[turn::rounds]
            for name, executor in sides.items():
                started, here = time.perf_counter(), time.process_time()
                by_process: dict[int, float] = {}
                for plan, (score, seconds, process) in executor.run(function, share):
                    values[name][plan] = score.value
                    cpu[name] += seconds
                    by_process[process] = by_process.get(process, 0.0) + seconds
                busiest[name] += max(by_process.values())
                wall[name] += time.perf_counter() - started
                driver[name] += time.process_time() - here
                advance(1)
    alone, one, two = sides
    driver[alone] = 0.0  # the same seconds again
    return {
        "plans": len(plans),
        "wall_s": wall,
        "processor_s": cpu,
        "driver_processor_s": driver,
        "busiest_processor_s": busiest,
        "two_over_one": wall[one] / wall[two],
        "two_over_one_processor": (busiest[one] + driver[one]) / (busiest[two] + driver[two]),
        "one_over_none": wall[one] / wall[alone],
        "one_over_none_processor": (cpu[one] + driver[one]) / cpu[alone],
        "same_scores": values[alone] == values[one] == values[two],
    }


# --- a node that dies --------------------------------------------------------------------------


def node_death(n_items: int = 40) -> dict[str, Any]:
    """Two nodes of one worker each; the one without the driver is killed as soon as both work."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": OBJECT_STORE}
    )
    second = cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
    cluster.wait_for_nodes()

    def work(item: int) -> tuple[int, str]:
        time.sleep(0.1)
        return item * item, ray.get_runtime_context().get_node_id()

    results: dict[int, int] = {}
    by_node: dict[str, int] = {}
    twice, killed_after = 0, None
    started = time.perf_counter()
    try:
        with RayExecutor(address=cluster.address) as executor:
            while len({node for _, (_, node) in executor.run(work, range(2))}) < 2:
                pass  # until both have started
            for item, (square, node) in executor.run(work, range(n_items)):
                twice += item in results
                results[item] = square
                by_node[node] = by_node.get(node, 0) + 1
                if killed_after is None and len(by_node) == 2:
                    cluster.remove_node(second, allow_graceful=False)
                    killed_after = len(results)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {
        "items": n_items,
        "killed_after": killed_after,
        "lost": n_items - len(results),
        "wrong": sum(results.get(item) != item * item for item in range(n_items)),
        "twice": twice,
        "items_by_node": sorted(by_node.values()),
        "wall_s": time.perf_counter() - started,
    }


# --- the search alone --------------------------------------------------------------------------


def search(n_layers: int) -> dict[str, Any]:
    """A search among whole plans of that many layers, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--search-of", str(n_layers)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def search_here(n_layers: int) -> dict[str, Any]:
    """Search among plans whose layers' damages add up, and interact a little.

    The table is one of a sweep in which layer i loses `weight * (1 - fraction)^2 / fraction`.
    """
    from ard.costs.cost import cost_of
    from ard.layers import LayerProfile
    from ard.measuring.journal import MemoryJournal
    from ard.measuring.sensitivity import SensitivityTable
    from ard.pipeline import Effort, Evaluators, Prepared, Run, Search, find_plan
    from ard.plan import Factorization

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = torch.Generator().manual_seed(0)
    weights = torch.rand(n_layers, generator=rng).tolist()
    layers = tuple(
        LayerProfile(f"layer{i}", "linear", (256, 256), positions=64) for i in range(n_layers)
    )
    damages: dict[tuple[str, Replacement], float] = {}
    for layer, weight in zip(layers, weights, strict=True):
        for k in range(1, CHOICES + 1):
            share = k / (CHOICES + 1)
            choice = Factorization("svd", (3 * k,))
            damages[layer.name, choice] = weight * (1 - share) ** 2 / share

    def score(rise: float) -> Score:
        half = 0.05 * rise + 1e-3
        return Score(
            metric="fid",
            value=100 + rise,
            rise=rise,
            ci_low=rise - half,
            ci_high=rise + half,
            n_images=1000,
            features="none",
            measured=True,
        )

    def evaluate(candidate: Candidate) -> Score:
        assert candidate.plan is not None
        return score(0.8 * sum(damages[pair] for pair in candidate.plan.items()) ** 1.05)

    table = SensitivityTable.of(score(0.0), {p: score(d) for p, d in damages.items()}, layers)
    dense = nn.Identity()
    prepared = Prepared(None, layers, (), tuple(damages), lambda plan, base=None: dense)  # type: ignore[arg-type]
    evaluators = Evaluators.all_alike(evaluate)
    run = Run(MemoryJournal(), SerialExecutor())
    budget = 0.1 * sum(weights)
    task = Search(dense, torch.zeros(2, 1), evaluators, effort=Effort(0, 6), run=run)
    wall, cpu = time.perf_counter(), time.process_time()
    found = find_plan(task, prepared, table, budget)
    return {
        "layers": n_layers,
        "rows": len(damages),
        "trials": len(found.trials),
        "wall_s": time.perf_counter() - wall,
        "processor_s": time.process_time() - cpu,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "bytes_above_imports": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
        "share_of_cost": cost_of(params_cost, layers, found.plan)
        / sum(params_cost(layer, None) for layer in layers),
        "budget_met": found.budget_met,
    }


# --- the script --------------------------------------------------------------------------------


def report(result: dict[str, Any]) -> None:
    """Print what was measured, with the bars."""
    if found := result.get("workers"):
        print(
            f"two workers: {found['two_over_one']:.2f} times as fast as one by the clock, "
            f"{found['two_over_one_processor']:.2f} times by processor seconds of the busier "
            f"worker and of this process (bar {BARS['two_workers']:g})"
        )
        print(
            f"one worker: {found['one_over_none']:.2f} times the time of this process alone by the "
            f"clock, {found['one_over_none_processor']:.2f} times by processor seconds (bar "
            f"{BARS['one_worker']:g}); same scores: {found['same_scores']}"
        )
    if found := result.get("node_death"):
        print(
            f"a node killed after {found['killed_after']} of {found['items']} items: "
            f"{found['lost']} lost, {found['wrong']} wrong, {found['twice']} twice"
        )
    last = None
    for found in result.get("search", []):
        growth = "" if last is None else f", {found['processor_s'] / last:.1f} times as long"
        last = found["processor_s"]
        print(
            f"{found['layers']:,} layers x {CHOICES} choices: {found['processor_s']:.2f} s, "
            f"{found['peak_bytes'] / 1e6:.0f} MB, {found['trials']} plans{growth}"
        )
    print(f"load {result['load']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--plans", type=int, default=4, help="plans a round")
    parser.add_argument("--images", type=int, default=400, help="images a score, as the demo has")
    parser.add_argument("--only", choices=("workers", "node_death", "search"))
    parser.add_argument("--search-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.search_of:
        print(json.dumps(search_here(arguments.search_of)))
        return 0
    # As this process has, or the sides would not be alike.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    load = [round(value, 1) for value in os.getloadavg()]
    parts: dict[str, Callable[[], Any]] = {
        "search": lambda: [search(n) for n in (16, 160, 1600)],
        "node_death": node_death,
        "workers": lambda: workers(arguments.rounds, arguments.plans, arguments.images),
    }
    known = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    wanted = [arguments.only] if arguments.only else list(parts)
    result = {
        **known,
        **{name: parts[name]() for name in wanted},
        "bars": BARS,
        "load": {
            **known.get("load", {}),
            **{name: [load, [round(v, 1) for v in os.getloadavg()]] for name in wanted},
        },
        "machine": {
            "cores": os.cpu_count(),
            "machine": f"{platform.system()} {platform.machine()}",
            "torch": str(torch.__version__),
        },
    }
    write_json(arguments.out, result)
    report(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
