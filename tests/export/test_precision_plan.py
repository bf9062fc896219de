from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny import PixelFeatures
from torch import Tensor, nn

from ard.measuring.bank import Reference
from ard.measuring.fid import FID
from ard.measuring.score import Score
from ard.search.budget import Budget
from ard.session.setting import Setting
from edge_bench.__main__ import main as time_bundles
from export.bundle import BundleSettings, BundleSource, write_bundle
from export.errors import ExportError
from export.manifest import Manifest, verify
from export.precision import Delivered
from export.precision_plan import (
    Allowed,
    Budgets,
    NodeEffect,
    PrecisionPlanner,
    Trial,
    Wanted,
    fastest,
    in_order,
    most_that_hold,
)
from export.quality import JUDGING, Measuring, Verdict
from export.quantization import find_quantizable, int8_nodes
from export.speed import Timing
from export.summary import conversion_lines, summary
from nas_gan.checkpoint import Checkpoint
from nas_gan.errors import InvalidValueError
from nas_gan.metrics.frechet import FeatureStatistics, FrechetReference, PairedFid, statistics_of
from nas_gan.metrics.protocol import to_uint8
from nas_gan.metrics.sampling import extract_features
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of

pytest.importorskip("onnxsim", reason="onnxsim is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx  # noqa: E402 - skipped without it

from export.to_onnx import build_model  # noqa: E402

pytestmark = pytest.mark.onnx
SAMPLES, SEED = 256, 7
QUICK = Timing(batch=2, threads=1, seconds=0.0)


class Fragile(nn.Module):
    """Three layers that int8 could take; one of them would lose the image.

    A channel of `fragile` is ten thousand times as large as the others, and the tanh behind it does
    not let it through. On the grid of int8 that covers it, the others are zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latent_dim, self.image_shape = 32, (3, 8, 8)
        self.linear = nn.Linear(32, 32 * 8 * 8)
        self.fragile = nn.Conv2d(32, 32, 3, padding=1)
        self.sturdy = nn.Conv2d(32, 32, 3, padding=1)
        self.to_rgb = nn.Conv2d(32, 3, 3, padding=1)
        with torch.no_grad():
            self.linear.weight *= 4
            for layer in (self.fragile, self.sturdy, self.to_rgb):
                layer.weight *= 3
            bias = self.fragile.bias
            assert bias is not None
            bias[0] = 1e4

    def forward(self, z: Tensor) -> Tensor:
        h = torch.tanh(self.linear(z)).view(-1, 32, 8, 8)
        h = torch.tanh(self.sturdy(torch.tanh(self.fragile(h))))
        return torch.tanh(self.to_rgb(h))


@pytest.fixture(scope="module")
def net() -> Fragile:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Fragile().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def other(net: Fragile) -> Fragile:
    """The net before it was compressed, as it were: near to it, but not the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        dense = Fragile().eval().requires_grad_(False)
    dense.load_state_dict(net.state_dict())
    dense.to_rgb.weight += 0.05 * torch.randn(dense.to_rgb.weight.shape)
    return dense


@pytest.fixture(scope="module")
def graph(net: Fragile) -> onnx.ModelProto:
    return build_model(net)


@pytest.fixture(scope="module")
def names(graph: onnx.ModelProto) -> tuple[str, ...]:
    """The three nodes that can be in int8: linear, fragile, sturdy."""
    found = tuple(node.name for node in find_quantizable(graph).nodes)
    assert len(found) == 3
    return found


@pytest.fixture(scope="module")
def statistics(net: Fragile) -> FeatureStatistics:
    """Those of images of another seed with their features moved, so that the net has a distance."""
    features = extract_features(net, latents_of(interface_of(net), 400, 99), PixelFeatures())
    return statistics_of(features * 1.2 + 3)


@pytest.fixture(scope="module")
def measuring(net: Fragile, statistics: FeatureStatistics) -> Measuring:
    setting = Setting(
        Checkpoint({}, {}),
        net,
        interface_of(net),
        PixelFeatures(),
        FID,
        Reference("moved images", FrechetReference(statistics), dense=False),
        batch_size=64,
    )
    return Measuring(setting, SAMPLES, SEED)


@pytest.fixture(scope="module")
def planner(measuring: Measuring) -> Callable[..., PrecisionPlanner]:
    def make(wanted: Wanted, budget: str | None = None, **changes: Any) -> PrecisionPlanner:
        budgets = Budgets(None if budget is None else Budget.parse(budget))
        made = PrecisionPlanner(wanted, measuring, budgets=budgets, timing=QUICK)
        return dataclasses.replace(made, **changes)

    return make


# -- the choice, on numbers


def test_nodes_that_cost_least_for_their_worth_come_first():
    effects = [
        NodeEffect("dear", 4.0, 2.0),
        NodeEffect("cheap", 1.0, 2.0),
        NodeEffect("slower", -1.0, -0.5),
        NodeEffect("free", -0.1, 0.5),
        NodeEffect("free and large", 0.0, 1.0),
    ]
    assert in_order(effects) == ("free and large", "free", "cheap", "dear")


@pytest.mark.parametrize("largest", range(8))
def test_bisection_finds_the_largest_number_that_holds(largest):
    asked: list[int] = []

    def holds(k: int) -> bool:
        asked.append(k)
        return k <= largest

    assert most_that_hold(7, holds) == largest
    assert 0 not in asked
    assert len(asked) == len(set(asked)) <= 4


def trial(precision: Delivered, ms: float | None, holds: bool = True) -> Trial:
    return Trial(precision, None, ms=ms, holds=holds)


@pytest.mark.parametrize(
    ("fp16", "int8", "expected"),
    [
        ((5.0, True), (3.0, True), "int8"),
        ((5.0, True), (3.0, False), "fp16"),
        ((9.9, True), (12.0, True), "fp32"),  # 1 % is noise, and int8 is slower here
        ((5.0, False), (None, False), "fp32"),
        ((2.0, True), (3.0, True), "fp16"),
    ],
)
def test_the_fastest_that_holds_is_taken(fp16, int8, expected):
    trials = [trial("fp32", 10.0), trial("fp16", *fp16), trial("int8", *int8)]
    assert fastest(trials).precision == expected


# -- the choice, measured


def test_without_a_budget_every_node_that_can_is_in_int8(planner, graph, net, names):
    found = planner("int8")(graph, net)
    assert found.precision == "int8"
    assert int8_nodes(found.model) == list(names)
    assert not found.record["missed"]
    assert found.record["rise"]["n_samples"] == SAMPLES


def test_the_rise_is_the_one_that_the_metric_finds_in_the_images(
    planner, graph, net, names, statistics
):
    found = planner("int8")(graph, net)
    latents = latents_of(interface_of(net), SAMPLES, SEED + JUDGING, "held_out")
    assert found.record["seed"] == SEED + JUDGING

    def features(model: onnx.ModelProto) -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString())
        [images] = session.run(None, {"latents": latents.numpy()})
        return PixelFeatures()(to_uint8(torch.from_numpy(images)))

    paired = PairedFid(FrechetReference(statistics), features(graph))
    expected = paired.compare(features(found.model))
    rise = found.record["rise"]
    assert rise["fid"] == pytest.approx(expected.fid, rel=1e-3)
    assert rise["delta_fid"] == pytest.approx(expected.delta, rel=1e-3)
    assert rise["ci_low"] == pytest.approx(expected.ci_low, rel=1e-3)
    assert rise["ci_high"] == pytest.approx(expected.ci_high, rel=1e-3)


def test_the_node_that_would_lose_the_images_is_left_out(planner, graph, net, names):
    _, fragile, sturdy = names
    every = planner("int8")(graph, net).record["rise"]["delta_fid"]
    budget = 0.1 * every
    found = planner("int8", f"{budget:.6g}")(graph, net)
    assert found.precision == "int8"
    assert sturdy in int8_nodes(found.model)
    assert fragile not in int8_nodes(found.model)
    assert found.record["higher_precision"][fragile] == "left out by the plan"
    assert found.record["rise"]["ci_high"] <= budget


def test_a_budget_of_nothing_leaves_float32_and_says_that_int8_was_missed(planner, graph, net):
    found = planner("int8", "0")(graph, net)
    assert found.precision == "fp32"
    assert found.model.SerializeToString() == graph.SerializeToString()
    assert found.record["missed"]
    assert found.record["rise"] is None
    tried = found.record["tried"][-1]
    assert tried["rise"]["ci_high"] > 0
    assert not tried["holds"]
    [line] = [line for line in conversion_lines(found.record) if "not delivered" in line]
    assert line.startswith("int8 was not delivered: its rise is above the budget (budget 0: 0)")


def test_a_precision_whose_rise_is_above_the_budget_is_refused_fp16_too(planner, graph, net):
    rise = planner("fp16")(graph, net).record["rise"]
    enough, little = rise["ci_high"] + 1e-6, rise["ci_high"] - 1e-6
    assert planner("fp16", f"{enough:.9f}")(graph, net).precision == "fp16"
    refused = planner("fp16", f"{max(little, 0):.9f}")(graph, net)
    assert (refused.precision, refused.record["missed"]) == ("fp32", True)


@pytest.mark.parametrize("budget", ["0", "0.5%", "10%", "1000%"])
def test_auto_never_exceeds_the_budget_and_is_never_slower_than_float32(
    planner, graph, net, measuring, budget
):
    found = planner("auto", budget)(graph, net)
    record = found.record
    assert not record["missed"]
    allowed = Budget.parse(budget).absolute(measuring.of(graph, net).dense_value)
    assert record["allowed"]["rise"] == pytest.approx(allowed)
    times = {row["precision"]: row["milliseconds"] for row in record["tried"]}
    assert set(times) == {"fp32", "fp16", "int8"}
    if found.precision == "fp32":
        assert record["rise"] is None
    else:
        assert record["rise"]["ci_high"] <= allowed
        assert times[found.precision] < times["fp32"]


def test_ranks_and_precision_share_a_budget_over_the_dense_generator(
    planner, graph, net, other, measuring
):
    features = extract_features(other, latents_of(interface_of(net), 400, 99), PixelFeatures())
    reference = Reference("the dense net", FrechetReference(statistics_of(features)), dense=True)
    setting = dataclasses.replace(measuring.setting, reference=reference)
    of_dense = dataclasses.replace(measuring, setting=setting, dense=other)
    generous, none = Budgets(Budget.parse("1e9"), Budget.parse("1e9")), Budget.parse("0")
    found = planner("fp16", measuring=of_dense, budgets=generous)(graph, net)
    ranks, both = found.record["rise"], found.record["rise_over_dense"]
    assert both["delta_fid"] > 10 * abs(ranks["delta_fid"])  # half precision adds next to nothing
    refused = planner(
        "fp16", measuring=of_dense, budgets=dataclasses.replace(generous, total=none)
    )(graph, net)
    assert (refused.precision, refused.record["missed"]) == ("fp32", True)


def test_images_that_are_not_finite_are_no_candidate(planner, graph, net):
    broken = onnx.ModelProto()
    broken.CopyFrom(graph)
    for tensor in broken.graph.initializer:
        if "to_rgb.weight" in tensor.name:
            values = onnx.numpy_helper.to_array(tensor) * 1e7  # beyond float16
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    found = planner("auto", "1e9")(broken, net)
    [fp16] = [row for row in found.record["tried"] if row["precision"] == "fp16"]
    assert not fp16["holds"]
    assert "float16 ends at" in fp16["reason"]
    with pytest.raises(ExportError, match="float16 ends at"):
        planner("fp16")(broken, net)


def test_a_net_of_thin_layers_has_no_int8(planner, upsampler):
    thin = build_model(upsampler)
    found = planner("int8", "1000%")(thin, upsampler)
    assert (found.precision, found.record["missed"]) == ("fp32", True)
    assert "multiples of 32" in conversion_lines(found.record)[-1]


def test_a_budget_that_nothing_can_measure_is_refused(measuring):
    within = Budgets(Budget.parse("5%"))
    with pytest.raises(InvalidValueError, match=r"quality_budget cannot be held.*no features"):
        PrecisionPlanner("int8", None, "no features", within)
    with pytest.raises(InvalidValueError, match="precision auto needs a quality budget"):
        PrecisionPlanner("auto", measuring)
    with pytest.raises(InvalidValueError, match="total_budget needs the dense generator"):
        PrecisionPlanner("int8", measuring, "", Budgets(None, Budget.parse("5%")))


@pytest.mark.parametrize(
    ("rise", "total", "holds"),
    [
        (None, None, True),
        (2.0, None, True),
        (1.0, None, False),
        (2.0, 4.0, True),
        (2.0, 3.0, False),
    ],
)
def test_both_budgets_hold_for_the_upper_ends(rise, total, holds):
    def score(high: float) -> Score:
        return Score(metric="fid", value=9.0, rise=high - 1, ci_low=high - 2, ci_high=high,
                     n_images=9, features="f", measured=True)  # fmt: skip

    assert Allowed(rise, total).holds(Verdict(score(1.5), score(3.5), 0)) is holds


# -- in a bundle


@pytest.fixture(scope="module")
def bundle(net, other, graph, planner, tmp_path_factory) -> tuple[Manifest, object]:
    budget = 0.1 * planner("int8")(graph, net).record["rise"]["delta_fid"]
    out = tmp_path_factory.mktemp("int8") / "bundle"
    settings = BundleSettings(samples=8, engines=())
    source = BundleSource(net, other)
    convert = planner("int8", f"{budget:.6g}", rest="fp16")
    return write_bundle(source, out, settings, convert=convert), out


def test_a_bundle_records_how_its_precision_came_about(bundle):
    manifest, out = bundle
    assert verify(out) == manifest
    record = manifest.conversion
    assert (manifest.precision, record["version"], record["rest"]) == ("int8", 1, "fp16")
    assert len(record["int8_nodes"]) == 2
    assert record["runtime"].startswith("onnxruntime ")
    assert record["runtime"].endswith("CPUExecutionProvider, 1 thread, batch 2")
    printed = summary(out, ())
    assert "int8 (2 nodes): ΔFD " in printed
    assert f"over float32, {SAMPLES} images" in printed


def test_images_that_int8_destroyed_are_refused_without_a_budget_too(net, planner, tmp_path):
    settings = BundleSettings(samples=8, engines=())
    with pytest.raises(ExportError, match=r"at int8; with a quality budget, nodes that do this"):
        write_bundle(BundleSource(net), tmp_path / "b", settings, convert=planner("int8"))
    assert not (tmp_path / "b").exists()


def test_the_dense_generator_beside_it_differs_in_ranks_alone(bundle):
    _, out = bundle
    assert verify(out / "dense").precision == "fp16"  # as the rest of the int8 graph


def test_edge_bench_times_an_int8_bundle(bundle, tmp_path, capfd):
    _, out = bundle
    few = ["--runs", "3", "--duration", "0.01", "--warmup", "1"]
    assert time_bundles([str(out), *few, "--out", str(tmp_path)]) == 0


def test_a_manifest_without_a_conversion_is_as_before(net, tmp_path):
    manifest = write_bundle(
        BundleSource(net), tmp_path / "b", BundleSettings(samples=2, engines=())
    )
    assert "conversion" not in manifest.to_dict()
    assert math.isfinite(manifest.parity["max_abs"])
