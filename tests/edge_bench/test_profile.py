from __future__ import annotations

import json
import sys

import pytest

from edge_bench.bundle import load_bundle
from edge_bench.engine_profile import engine_shares, read_inspector
from edge_bench.errors import RunnerError
from edge_bench.layer_shares import shares, table
from edge_bench.profile import main, profile
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
    generator = Generator(GeneratorConfig(gf_dim=8, n_classes=0)).eval()
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


def test_an_engine_is_profiled_in_tensorrt_and_a_machine_without_it_says_so(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    (tmp_path / "model.engine").write_bytes(b"engine")
    assert main([str(tmp_path / "model.engine")]) == 1
    assert "tensorrt package is not installed" in capsys.readouterr().err
    assert main([str(tmp_path / "model.engine"), "--runner", "onnxruntime"]) == 1
    assert "give the bundle" in capsys.readouterr().err


def test_a_bundle_without_an_engine_cannot_be_profiled_in_tensorrt(bundle, capsys):
    assert main([str(bundle[0]), "--runner", "tensorrt"]) == 1
    assert "build it on this device" in capsys.readouterr().err


# -- TensorRT's inspector, in the form of each version; the keys are those of NVIDIA's documentation

TEN = {
    "Layers": [
        {
            "Name": "__myl_ConvAdd_myl0_0",
            "LayerType": "kgen",
            "Inputs": [{"Name": "z", "Dimensions": [1, 8], "Format/Datatype": "Half"}],
            "Outputs": [{"Name": "h", "Format/Datatype": "Row major linear FP16 format"}],
            "StreamId": 0,
            "Metadata": "[ONNX Layer: c1/Conv]\x1e[ONNX Layer: c1/Add]\x1e[ONNX Layer: log_2]",
        },
        {
            "Name": "c2/Conv + c3/Conv",
            "LayerType": "CaskConvolution",
            "Outputs": [{"Name": "o", "Format/Datatype": "Thirty-two wide Int8 format"}],
            "Metadata": "",
        },
        {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Outputs": [], "Metadata": ""},
    ],
    "Bindings": ["z", "images"],
}
ELEVEN = {
    "Layers": [
        {
            "Name": "__myl_ConvAdd_myl0_0",
            "LayerType": "kgen",
            "Inputs": [{"Name": "z", "Format": "Row major linear", "DataType": "Half"}],
            "Outputs": [{"Name": "h", "Format": "Row major linear (kLINEAR)", "DataType": "Half"}],
            "Metadata": "[ONNX Layer: c1/Conv]\x1e[ONNX Layer: c1/Add]\x1e[ONNX Layer: log_2]",
        },
        {
            "Name": "c2/Conv + c3/Conv",
            "LayerType": "CaskConvolution",
            "Outputs": [{"Name": "o", "Format": "kCHW32", "Datatype": "Int8"}],
        },
        {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Outputs": []},
    ],
    "I/O Tensors": [{"Name": "z", "IOMode": "Input", "DataType": "Float", "Dimensions": [1, 8]}],
}


@pytest.mark.parametrize("told", [TEN, ELEVEN], ids=["10", "11"])
def test_the_layers_of_an_engine_are_named_after_the_nodes_that_they_compute(told):
    layers = read_inspector(json.dumps(told))
    assert [layer.nodes for layer in layers[:2]] == [
        ("c1/Conv", "c1/Add", "log_2"), ("c2/Conv", "c3/Conv"),
    ]  # fmt: skip
    assert [layer.output_type for layer in layers] == ["FP16", "INT8", ""]
    # Two runs, in milliseconds.
    times = [("__myl_ConvAdd_myl0_0", 0.03), ("c2/Conv + c3/Conv", 0.01), ("Reformatting CopyNode",
             0.005), ("unheard of", 0.001)] * 2  # fmt: skip
    rows = engine_shares(times, layers, runs=2)
    assert [(row.layer, row.operator) for row in rows] == [
        ("c1", "Conv + Add (FP16)"),
        ("c2 + c3", "Conv + Conv (INT8)"),
        ("", "Reformat"),
        ("", "unheard of"),
    ]
    assert [row.mean_us for row in rows] == pytest.approx([30.0, 10.0, 5.0, 1.0])
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_an_engine_that_holds_names_only_is_joined_by_them():
    layers = read_inspector(json.dumps({"Layers": ["l1/Gemm + l1/Relu", "copy"]}))
    rows = engine_shares([("l1/Gemm + l1/Relu", 0.2), ("copy", 0.1)], layers, runs=1)
    assert [(row.layer, row.operator) for row in rows] == [("l1", "Gemm + Relu"), ("", "copy")]
    assert engine_shares([("l1/Gemm", 0.2)], (), runs=1)[0].layer == "l1"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": 3}', '{"Layers": [{}]}', "\x00"])
def test_another_form_of_the_inspector_is_one_line(text):
    with pytest.raises(RunnerError, match="form that is not known") as caught:
        read_inspector(text)
    assert "\n" not in str(caught.value)
