from __future__ import annotations

import json

import pytest

from edge_bench.bundle import load_bundle
from edge_bench.profile import main, profile, shares, table
from export.bundle import BundleSettings, BundleSource, write_bundle
from nas_gan.networks.searched import Generator, GeneratorConfig


def test_times_are_summed_by_layer_and_else_by_operator():
    events = [
        ("c0/Conv_nchwc", "Conv", 30.0),
        ("c0/Conv_nchwc", "Conv", 10.0),
        ("c0/Conv_2", "Conv", 20.0),
        ("log", "Log", 12.0),
        ("log_2", "Log", 8.0),
        ("l1/Gemm", "Gemm", 20.0),
    ]
    rows = [(r.layer, r.operator, r.mean_us, r.share, r.nodes) for r in shares(events, 2)]
    assert rows == [
        ("c0", "Conv", 30.0, 0.6, 2),
        ("", "Log", 10.0, 0.2, 2),
        ("l1", "Gemm", 10.0, 0.2, 1),
    ]


def test_the_table_ends_with_what_it_leaves_out():
    rows = shares([(f"l{n}/Gemm", "Gemm", 1.0) for n in range(10)], 1)
    lines = table(rows, most=4).splitlines()
    assert len(lines) == 1 + 4 + 2
    assert lines[-2] == "6 more: 60.0%"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    out = tmp_path_factory.mktemp("profile") / "bundle"
    generator = Generator(GeneratorConfig(gf_dim=8)).eval()
    write_bundle(BundleSource(generator), out, BundleSettings(samples=4, engines=()))
    return out, generator


def test_layers_have_the_names_of_the_network(bundle):
    out, generator = bundle
    rows = profile(load_bundle(out), batch=2, runs=3, threads=1)
    modules = {name for name, _ in generator.named_modules()}
    found = {row.layer for row in rows if row.layer}
    assert {"l1", "l2", "l3"} <= found <= modules
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert all(row.mean_us >= 0 for row in rows)
    convolutions = {row.layer for row in rows if row.layer and row.operator.startswith("Conv")}
    assert len(convolutions) >= 10


def test_the_command_writes_what_it_prints(bundle, tmp_path, capsys):
    assert main([str(bundle[0]), "--runs", "2", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "profile.json").read_text())
    first = content["rows"][0]
    assert (first["layer"] or "-") in printed.splitlines()[1]
    assert content["batch"] == 1


def test_an_engine_cannot_be_profiled_and_says_so(tmp_path, capsys):
    (tmp_path / "model.engine").write_bytes(b"engine")
    assert main([str(tmp_path / "model.engine")]) == 1
    assert "give the bundle" in capsys.readouterr().err
