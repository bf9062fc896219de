"""Claim: rewriting the graph makes the dense net 1.25 times faster, with the same images.

It is compared with the published formula, and with what torch exports of this code
(`--no-rewrites`), whose PMish has no Softplus.

Question: how much faster is a compressed net, and do the rewrites help it as well?

The generator of the zoo is exported with the published form of PMish (a Softplus), as it is, and
rewritten. So is a compressed one, in which every 3x3 and 5x5 convolution of the cells keeps at most
a quarter of its parameters as a spatial SVD. There is no search and no fine-tuning: this is about
speed, and the images of the compressed net are poor. `--compressed` adds nets that were searched
for, such as one whose plan minimised multiply-adds and one whose plan minimised time. All sessions
take turns in one process, timed by `edge_bench`: ratios of medians with a bootstrap interval over
rounds. One thread is timed by the processor's clock, which stops while other programs run; two
threads are timed by the wall clock.

    OMP_NUM_THREADS=1 python benchmarks/latency.py            # five minutes
    OMP_NUM_THREADS=1 python benchmarks/latency.py --full     # four times as many runs
    ... --compressed macs=runs/macs/compressed.pt time=runs/time/compressed.pt
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from ard.assembly.surgery import apply_plan
from ard.plan import Factorization, RankPlan
from edge_bench.asked import RunSettings
from edge_bench.runners import OnnxRuntimeRunner
from edge_bench.statistics import disturbance, ratio_of_medians, summarize
from edge_bench.timing import Clock, TimingPlan, measure
from export.activation_forms import choose_activation_forms
from export.bundle import count_macs
from export.parity import check_parity
from export.rewrites import rewrite
from export.to_onnx import build_model
from nas_gan.checkpoint import Checkpoint, build_generator, load_checkpoint
from nas_gan.cli import progress
from nas_gan.errors import InvalidValueError, NasGanError
from nas_gan.files import write_json
from nas_gan.networks.activations import PMish, away_from_zero
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of
from nas_gan.tables import text_table

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "nas_gan" / "zoo" / "fashion_mnist.pt"
RESULT = Path(__file__).parent / "results" / "latency.json"
SEED = 0
CLOCKS = {1: time.process_time_ns, 2: time.perf_counter_ns}
SHARE = 4  # one weight in four stays
QUARTER = "compressed"  # the net whose plan was not searched for
# What is compared: (slower, faster), and the ratio that is claimed, if any.
Pair = tuple[str, str, float | None]
DENSE_PAIRS: tuple[Pair, ...] = (
    ("dense published", "dense as is", None),
    ("dense published", "dense rewritten", 1.25),
    ("dense as is", "dense rewritten", 1.25),
)


class PublishedPMish(nn.Module):
    """`x * tanh(softplus(beta x) / beta)`, as in the paper."""

    def __init__(self, beta: nn.Parameter) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        beta = away_from_zero(self.beta)
        return x * torch.tanh(F.softplus(beta * x) / beta)


def with_published_activations(generator: nn.Module) -> nn.Module:
    """`generator` itself, with its PMish in the published form."""
    for name, module in list(generator.named_modules()):
        if isinstance(module, PMish):
            generator.set_submodule(name, PublishedPMish(module.beta))
    return generator


def quarter(generator: nn.Module) -> RankPlan:
    """A spatial SVD of each larger kernel of the cells, with at most a quarter of its weights.

    Ranks are multiples of 8, because runtimes compute whole blocks of channels.
    """
    plan = {}
    for name, layer in generator.named_modules():
        if name.startswith("cell") and isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1:
            c_out, c_in, height, width = layer.weight.shape
            rank = layer.weight.numel() // (SHARE * (c_in * height + c_out * width))
            plan[name] = Factorization("spatial_svd", (max(8, rank // 8 * 8),))
    return RankPlan(plan)


def pairs_of(compressed: Sequence[str]) -> list[Pair]:
    """What is compared: the dense graphs, each compressed net with them, and each other."""
    pairs = list(DENSE_PAIRS)
    for name in compressed:
        pairs += [
            (f"{name} as is", f"{name} rewritten", None),
            ("dense rewritten", f"{name} rewritten", 1.5),
            ("dense as is", f"{name} rewritten", None),
            ("dense published", f"{name} rewritten", 2.5),
        ]
    for one, other in itertools.combinations(compressed, 2):
        pairs.append((f"{one} rewritten", f"{other} rewritten", None))
    return pairs


def write_graphs(
    folder: Path, dense: nn.Module, compressed: Mapping[str, nn.Module]
) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """The graphs to be timed, by name, and the facts about each of them."""
    published = build_model(with_published_activations(copy.deepcopy(dense)), rewrites=())
    graphs = [("dense published", dense, published)]
    for name, net in {"dense": dense, **compressed}.items():
        plain = build_model(net, rewrites=())
        graphs += [(f"{name} as is", net, plain), (f"{name} rewritten", net, rewrite(plain))]
    latents = latents_of(interface_of(dense), 16, SEED)
    paths, rows = {}, []
    for graph, net, model in graphs:
        paths[graph] = folder / f"{graph.replace(' ', '_')}.onnx"
        onnx.save(model, paths[graph])
        parity = check_parity(net, paths[graph], latents)
        rows.append(
            {
                "graph": graph,
                "params": sum(p.numel() for p in net.parameters()),
                "macs": graph_macs(model),
                "macs_of_the_network": count_macs(net),
                "nodes": len(model.graph.node),
                "parity": parity.to_dict(),
            }
        )
    return paths, rows


def graph_macs(model: onnx.ModelProto) -> int:
    """Multiply-adds of the convolutions and matrix products of a graph, for one image."""
    weights = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    total = 0
    for node in model.graph.node:
        if node.op_type in {"Conv", "ConvTranspose"}:
            at = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]]
            total += weights[node.input[1]] * int(np.prod(at[2:]))
        elif node.op_type in {"Gemm", "MatMul"}:  # with a bias, and without one
            total += weights[node.input[1]]
    return total


def timing_plans(many: int) -> dict[int, TimingPlan]:
    """How much is measured, by batch size."""
    common = TimingPlan(warmup=3, duration_s=5.0 * many, max_warmup_s=2.0)
    return {
        1: replace(common, runs=120 * many, block=10),
        64: replace(common, runs=12 * many, block=1),
    }


def time_graphs(
    paths: Mapping[str, Path],
    pairs: Sequence[Pair],
    bank: NDArray[Any],
    plans: Mapping[int, TimingPlan],
    clocks: Mapping[int, Clock],
) -> list[dict[str, Any]]:
    """Time every graph at each batch size and number of threads, in turns; ratios of the pairs.

    `bank` holds at least as many latents as the largest batch. `plans` are keyed by batch size, and
    `clocks` by number of threads.
    """
    names, rows = list(paths), []
    settings = [(threads, batch) for threads in clocks for batch in plans]
    with progress("timing graphs", len(settings)) as advance:
        for threads, batch in settings:
            with ExitStack() as stack:
                runners = [
                    stack.enter_context(OnnxRuntimeRunner(paths[name], RunSettings(threads)))
                    for name in names
                ]
                timings = measure(
                    runners, [(bank,)] * len(names), [batch], clocks[threads], plans[batch]
                )
            times = {name: t.times_ns / 1e3 for name, t in zip(names, timings, strict=True)}
            rows.append(
                {
                    "threads": threads,
                    "clock": "processor" if threads == 1 else "wall",
                    "batch": batch,
                    "latency_us": {name: asdict(summarize(times[name])) for name in names},
                    "ratios": [compare(times, *pair) for pair in pairs],
                }
            )
            advance(1)
    return rows


def compare(
    times: Mapping[str, np.ndarray[Any, Any]], slow: str, fast: str, bar: float | None
) -> dict[str, Any]:
    """How many times faster the second graph is, and whether that is at least `bar`."""
    ratio = ratio_of_medians(times[slow], times[fast], np.random.default_rng(SEED))
    return {
        "of": slow,
        "over": fast,
        **asdict(ratio),
        "bar": bar,
        "met": None if bar is None else ratio.value >= bar,
        "doubt": list(disturbance(ratio)),
    }


def activation_graphs(folder: Path, beta: float) -> dict[str, Path]:
    """PMish on `(n, 32, 32, 32)`, in its published form and in ours."""

    def node(op_type: str, inputs: str, output: str) -> onnx.NodeProto:
        return helper.make_node(op_type, inputs.split(), [output], output)

    shape: list[str | int | None] = ["batch", 32, 32, 32]
    nodes = [node("Mul", "latents b", "u"), node("Softplus", "u", "l"), node("Div", "l b", "t")]
    nodes += [node("Tanh", "t", "h"), node("Mul", "latents h", "images")]
    graph = helper.make_graph(
        nodes,
        "activation",
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array([beta], np.float32), "b")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    paths = {"published": folder / f"published_{beta}.onnx", "ours": folder / f"ours_{beta}.onnx"}
    onnx.save(model, paths["published"])
    onnx.save(choose_activation_forms(model), paths["ours"])
    return paths


def time_activations(folder: Path, runs: int) -> list[dict[str, Any]]:
    """Our form for each range of beta against the published one, with one image and one thread."""
    rows = []
    x = np.random.default_rng(SEED).standard_normal((1, 32, 32, 32)).astype(np.float32)
    for beta in (1.0, 0.9, 3.0):
        paths = activation_graphs(folder, beta)
        with ExitStack() as stack:
            runners = [stack.enter_context(OnnxRuntimeRunner(p)) for p in paths.values()]
            published, ours = (np.asarray(runner.infer(x), np.float64) for runner in runners)
            plan = TimingPlan(runs=10 * runs, duration_s=2.0, warmup=10)
            timings = measure(runners, [(x,), (x,)], [1], CLOCKS[1], plan)
        times = {name: t.times_ns / 1e3 for name, t in zip(paths, timings, strict=True)}
        row = {"beta": beta, "largest_difference": float(np.abs(published - ours).max())}
        rows.append(row | compare(times, "published", "ours", None))
    return rows


def show(result: Mapping[str, Any]) -> None:
    graphs = [
        (row["graph"], f"{row['macs']:,}", str(row["nodes"]), f"{row['parity']['max_abs']:.1e}")
        for row in result["graphs"]
    ]
    print(text_table(["graph", "MACs", "nodes", "largest difference"], graphs))
    for row in result["latency"]:
        print(f"\nbatch {row['batch']}, {row['threads']} thread(s)")
        columns = ["slower", "faster", "ratio", "interval", "fastest runs", "claimed"]
        ratios = [
            (
                ratio["of"],
                ratio["over"],
                f"{ratio['value']:.2f}",
                f"{ratio['low']:.2f}-{ratio['high']:.2f}",
                f"{ratio['of_fastest']:.2f}",
                "" if ratio["bar"] is None else f"{ratio['bar']:g}: {ratio['met']}",
            )
            for ratio in row["ratios"]
        ]
        print(text_table(columns, ratios))
        for ratio in row["ratios"]:
            if ratio["doubt"]:
                print(f"{ratio['of']} / {ratio['over']}: {'; '.join(ratio['doubt'])}")
    print()
    for row in result["activations"]:
        print(
            f"PMish, beta {row['beta']:g}: {row['value']:.2f} times faster "
            f"({row['low']:.2f}-{row['high']:.2f}), largest difference "
            f"{row['largest_difference']:.1e}"
        )


def parse_compressed(entries: Sequence[str], dense: Checkpoint) -> dict[str, Checkpoint]:
    """Compressed nets by name, from entries `NAME=FILE`.

    Raises:
        InvalidValueError: an entry is malformed, its name is taken, or its net is not of `dense`.
    """
    found: dict[str, Checkpoint] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (equals and path and re.fullmatch(r"[\w.-]+", name)):
            raise InvalidValueError(f"--compressed takes NAME=FILE; got {entry!r}")
        if name in found or name in {"dense", QUARTER}:
            taken = ", ".join(["dense", QUARTER, *found])
            raise InvalidValueError(f"--compressed {entry}: {name} is taken ({taken})")
        found[name] = load_checkpoint(Path(path))
        if found[name].architecture != dense.architecture:
            raise InvalidValueError(
                f"--compressed {entry}: a net of {found[name].architecture}, and the dense one is "
                f"of {dense.architecture}; a ratio of their times would mean nothing"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="four times as many runs")
    parser.add_argument(
        "--compressed", action="extend", nargs="+", default=[], metavar="NAME=FILE",
        help="also time these nets, compressed from the one of the zoo",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file to write")
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(ZOO)
    try:
        others = parse_compressed(arguments.compressed, checkpoint)
    except NasGanError as error:
        parser.error(str(error))
    many = 4 if arguments.full else 1
    dense = build_generator(checkpoint)
    plan = quarter(dense)
    compressed = {QUARTER: apply_plan(dense, plan)}
    compressed |= {name: build_generator(other) for name, other in others.items()}
    plans = {QUARTER: {name: str(choice) for name, choice in plan.items()}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths, graphs = write_graphs(folder, dense, compressed)
        timing = timing_plans(many)
        bank = latents_of(interface_of(dense), max(timing), SEED).numpy()
        result = {
            "machine": {
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "load_at_start": os.getloadavg()[0],
                **{name: version(name) for name in ("torch", "onnx", "onnxsim", "onnxruntime")},
            },
            "checkpoint": ZOO.name,
            "plans": plans | {n: other.provenance.get("plan", {}) for n, other in others.items()},
            "seed": SEED,
            "graphs": graphs,
            "latency": time_graphs(paths, pairs_of(list(compressed)), bank, timing, CLOCKS),
            "activations": time_activations(folder, runs=10 * many),
        }
    write_json(arguments.out, result)
    show(result)


if __name__ == "__main__":
    main()
