"""What the latency benchmark measures, on nets of a few channels and with a clock made here."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmark_modules import load_benchmark
from tiny import SmallNet, checkpoint_of, lively_generator
from torch import nn

from ard.assembly.surgery import apply_plan
from ard.layers import profile_layers
from ard.plan import Factorization, RankPlan
from ard.recovery.store import compressed_checkpoint
from edge_bench.timing import TimingPlan
from nas_gan.checkpoint import load_checkpoint, save_checkpoint
from nas_gan.errors import InvalidValueError, NasGanError
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of

ONCE = TimingPlan(runs=1, warmup=1, duration_s=0, block=1, min_warmup_s=0, max_warmup_s=0)
NETS = ("macs", "time")
Written = tuple[dict[str, nn.Module], dict[str, Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def latency() -> ModuleType:
    return load_benchmark("latency")


@pytest.fixture(scope="module")
def written(latency: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The graphs of a dense net and of two compressed ones, and what is known of them."""
    dense = SmallNet()
    conv, linear = Factorization("spatial_svd", (4,)), Factorization("svd", (4,))
    plans = (RankPlan({"conv1": conv, "linear": linear}), RankPlan({"conv2": conv}))
    nets = {name: apply_plan(dense, plan) for name, plan in zip(NETS, plans, strict=True)}
    paths, rows = latency.write_graphs(tmp_path_factory.mktemp("graphs"), dense, nets)
    return {"dense": dense, **nets}, paths, rows


def ticking(step_ns: int) -> Callable[[], int]:
    """A clock that every look moves on by `step_ns`: whatever is timed takes that long."""
    ticks = itertools.count(0, step_ns)
    return lambda: next(ticks)


def test_every_net_is_written_plain_and_rewritten(written: Written) -> None:
    _, paths, rows = written
    names = [f"{net} {form}" for net in ("dense", *NETS) for form in ("as is", "rewritten")]
    assert list(paths) == ["dense published", *names] == [row["graph"] for row in rows]
    assert all(path.is_file() for path in paths.values())
    assert all(row["parity"]["max_abs"] < 1e-4 for row in rows)


def test_multiply_adds_of_the_graphs_are_those_of_the_nets(written: Written) -> None:
    nets, _, rows = written
    for name, net in nets.items():
        [plain] = [row for row in rows if row["graph"] == f"{name} as is"]
        expected = profile_layers(
            net, latents_of(interface_of(SmallNet()), 2, 0), min_channels=1
        ).total_macs
        assert plain["macs"] == plain["macs_of_the_network"] == expected
        assert plain["params"] == sum(p.numel() for p in net.parameters())


def test_each_batch_has_every_graph_and_each_compressed_net_over_plain_and_rewritten_dense(
    latency: ModuleType, written: Written
) -> None:
    nets, paths, _ = written
    bank = latents_of(interface_of(nets["dense"]), 64, 0).numpy()
    rows = latency.time_graphs(
        paths, latency.pairs_of(NETS), bank, {1: ONCE, 64: ONCE}, {1: ticking(2000)}
    )
    assert [(row["threads"], row["batch"]) for row in rows] == [(1, 1), (1, 64)]
    for row in rows:
        assert row["latency_us"].keys() == paths.keys()
        assert {times["p50_us"] for times in row["latency_us"].values()} == {2.0}
        found = {(ratio["of"], ratio["over"]): ratio for ratio in row["ratios"]}
        assert all(ratio["value"] == 1.0 for ratio in found.values())
        for of, net in itertools.product(("as is", "published", "rewritten"), NETS):
            assert (f"dense {of}", f"{net} rewritten") in found
        assert found["macs rewritten", "time rewritten"]["bar"] is None
        asked = [found[f"dense {of}", "time rewritten"] for of in ("rewritten", "published")]
        assert [(ratio["bar"], ratio["met"]) for ratio in asked] == [(1.5, False), (2.5, False)]


def test_the_settings_of_the_real_run_are_for_batches_of_1_and_64(latency: ModuleType) -> None:
    plans, full = latency.timing_plans(1), latency.timing_plans(4)
    assert list(plans) == list(full) == [1, 64]
    assert all(full[batch].runs == 4 * plans[batch].runs for batch in plans)


def test_compressed_nets_come_by_name(latency: ModuleType, tmp_path: Path) -> None:
    generator = lively_generator()
    plan = RankPlan({"l1": Factorization("svd", (2,))})
    path, other, large = (tmp_path / f"{name}.pt" for name in ("small", "other", "large"))
    save_checkpoint(checkpoint_of(generator), large)
    dense = load_checkpoint(large)
    save_checkpoint(compressed_checkpoint(dense, apply_plan(generator, plan), plan), path)
    found = latency.parse_compressed([f"a={path}", f"b={path}"], dense)
    assert [net.provenance["plan"] for net in found.values()] == [{"l1": "svd(2)"}] * 2
    save_checkpoint(replace(dense, architecture={**dense.architecture, "gf_dim": 9}), other)
    for entries, message in (
        (["small.pt"], "takes NAME=FILE; got 'small.pt'"),
        (["two words=x.pt"], "takes NAME=FILE"),
        ([f"dense={path}"], "dense is taken"),
        ([f"a={path}", f"a={path}"], r"a is taken \(dense, compressed, a\)"),
        ([f"a={other}"], "would mean nothing"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            latency.parse_compressed(entries, dense)
    with pytest.raises(NasGanError, match="no such file"):
        latency.parse_compressed(["a=nowhere.pt"], dense)
