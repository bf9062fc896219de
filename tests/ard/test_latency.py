from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from loopback import SSHD, bare_python, serving
from tiny import SmallNet, lively_generator

from ard.costs.alignment import rank_multiple
from ard.costs.cost import cost_of
from ard.costs.latency_table import LatencyTable
from ard.costs.layer_times import (
    LayerTiming,
    measure_on_workers,
    time_layers,
    to_text,
    wanted_choices,
)
from ard.costs.objectives import make_cost
from ard.errors import DeliveryError
from ard.grid import RankGrid
from ard.latency import LatencyConfig, load_parts, main
from ard.layers import LayerProfile, profile_layers
from ard.plan import DENSE, Factorization, RankPlan
from nas_gan.cli import run
from nas_gan.progress import no_progress
from nas_gan.workers.executors import SerialExecutor


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "ckpt.pt"
    torch.save(SmallNet().state_dict(), path)
    return path


def latency(*args: object) -> int:
    texts = ["--model", "tiny:SmallNet", *map(str, args)]
    return run(main, LatencyConfig, prog="latency", description=None, args=texts)


def test_a_table_measured_once_prices_every_plan_of_its_grid(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "layers"
    few = ("--methods", "spatial_svd", "--fractions", 0.5, 0.1)
    assert latency(checkpoint, "--out", out, *few, "--runner", "onnxruntime") == 0
    table = LatencyTable.read(out / "latency.csv")
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "latency.csv")
    layers = load_parts(LatencyConfig(checkpoint, out, model="tiny:SmallNet"))
    wide = [
        layer
        for layer in layers
        if isinstance(layer, LayerProfile) and "spatial_svd" in layer.methods()
    ]
    cost = make_cost("latency", table=table)
    plan = RankPlan({layer.name: layer.rank_grid("spatial_svd", (0.3,))[0] for layer in wide})
    for chosen in (DENSE, plan):
        assert 0 < cost_of(cost, wide, chosen) < 1000
    assert {row.conditions.precision for row in table.rows} == {"fp32"}
    assert all(row.ci_low <= row.milliseconds <= row.ci_high for row in table.rows)


def test_workers_time_every_choice_of_every_layer_and_none_twice(
    checkpoint: Path, tmp_path: Path
) -> None:
    layers = load_parts(LatencyConfig(checkpoint, tmp_path, model="tiny:SmallNet"))[:2]
    grid, table = RankGrid(("spatial_svd", "svd"), (0.5,)), tmp_path / "latency.csv"

    def measure() -> None:
        timing = LayerTiming(runner="onnxruntime")
        measure_on_workers(layers, grid, table, timing, no_progress, SerialExecutor())

    measure()
    rows = LatencyTable.read(table).rows
    wanted = {(str(signature), choice) for signature, choice in wanted_choices(layers, grid)}
    assert {(row.signature, row.choice) for row in rows} == wanted
    before = table.read_text()
    measure()
    assert table.read_text() == before  # times measured again would differ


def test_layers_of_one_signature_are_written_once() -> None:
    layers = profile_layers(lively_generator(), torch.randn(2, 120)).layers
    wanted = wanted_choices(layers, RankGrid(("spatial_svd", "svd"), (0.5,)))
    assert len(set(wanted)) == len(wanted)
    signatures = {signature for layer in layers for signature in layer.signatures}
    assert {str(signature) for signature, _ in wanted} == signatures
    assert len(signatures) < len(layers)


def test_ranks_are_snapped_for_the_precision(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "layers"
    assert latency(checkpoint, "--out", out, "--precision", "fp16", "--no-measure") == 0
    listed = json.loads((out / "layers.json").read_text())
    assert listed["precision"] == "fp16"
    choices = {entry["choice"] for entry in listed["layers"]} - {"dense"}
    ranks = {rank for choice in choices for rank in Factorization.parse(choice).rank}
    assert ranks
    assert all(rank % rank_multiple("fp16") == 0 for rank in ranks)


def test_without_measuring_the_command_for_the_device_is_printed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "layers"
    few = ("--methods", "svd", "--fractions", 0.5, "--no-measure")
    assert latency(checkpoint, "--out", out, *few) == 0
    assert "python -m edge_bench.layers layers" in capsys.readouterr().out
    assert not (out / "latency.csv").exists()


def test_the_summary_counts_the_choices_that_are_not_faster() -> None:
    text = (
        "signature,choice,batch,milliseconds,ci_low,ci_high,runtime,device,threads,precision\n"
        "linear 512x40 bias,dense,1,2,2,2,r,d,1,fp32\n"
        "linear 512x40 bias,svd(4),1,1.5,1,2,r,d,1,fp32\n"
        "linear 512x40 bias,svd(20),1,2.5,1,3,r,d,1,fp32\n"
    )
    layers = profile_layers(torch.nn.Sequential(torch.nn.Linear(40, 512)), torch.ones(2, 40)).layers
    _, _, line = to_text(LatencyTable.from_csv(text), layers).splitlines()
    assert line.startswith("linear 512x40 bias ")
    assert line.split()[3:] == ["1", "1", "2", "1.5", "svd(4)", "1", "of", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fractions", 1.5), "--fractions must lie between 0 and 1"),
        (("--batch", 1, 1), "--batch must be distinct sizes"),
        (("--batch", 0), "--batch must be distinct sizes of at least 1"),
        (("--threads", 0), "--threads must be at least 1"),
        (("--rank-multiple", "odd"), "--rank-multiple 'odd' is neither auto nor"),
    ],
)
def test_a_bad_setting_is_one_line(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[object, ...],
    message: str,
) -> None:
    assert latency(checkpoint, "--out", tmp_path, *arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_message_of_a_failed_measurement_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"python -m edge_bench.layers: .*no layers.json"):
        time_layers(tmp_path, tmp_path / "latency.csv", LayerTiming())


@pytest.mark.skipif(SSHD is None, reason="no sshd: apt-get install openssh-server")
def test_layers_are_timed_on_a_device_which_knows_what_the_table_holds(
    checkpoint: Path, tmp_path: Path
) -> None:
    out, few = tmp_path / "layers", ("--methods", "spatial_svd", "--fractions", 0.5)
    with serving(tmp_path, bare_python(tmp_path / "python")) as device:
        there = (checkpoint, "--out", out, *few, *device.arguments)
        assert latency(*there) == 0
        first = (out / "latency.csv").read_text()
        assert latency(*there) == 0
        assert list(device.home.iterdir()) == []
    assert len(LatencyTable.read(out / "latency.csv").rows) > 0
    assert (out / "latency.csv").read_text() == first  # what is known is not measured again


def test_layers_are_not_timed_on_two_kinds_of_devices(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = ("--executor", "ray", "--gpus-per-worker", 1, "--cpu-workers", 2)
    assert latency(checkpoint, "--out", tmp_path / "layers", *mixed) == 1
    assert "--cpu-workers" in capsys.readouterr().err
    assert not (tmp_path / "layers").exists()
