"""Runtimes besides TensorRT: real OpenVINO and ncnn draw what ONNX Runtime draws."""

from __future__ import annotations

from pathlib import Path

import ncnn
import numpy as np
import openvino
import pytest
import torch

from export.bundle import BundleSettings, BundleSource, write_bundle
from export.engines import EngineChoice
from export.errors import ExportError, MissingPackageError
from export.manifest import read_manifest, verify
from export.parity import onnx_images
from export.summary import summary
from export.targets import BUILDERS, Targets
from export.to_ncnn import FLOAT32
from export.to_onnx import GraphSettings
from nas_gan.networks.searched import Generator, GeneratorConfig


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(gf_dim=8, n_classes=0)).eval()


@pytest.fixture(scope="module")
def bundle(generator, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "b"
    targets = Targets.of(("openvino", "ncnn", "jetson-orin"))
    settings = BundleSettings(samples=6, engines=targets.engines, boards=targets.boards)
    write_bundle(BundleSource(generator), out, settings)
    return out


def test_what_was_built_is_in_the_manifest_with_its_hash(bundle):
    manifest = verify(bundle)
    assert [engine.target for engine in manifest.engines] == ["openvino", "ncnn"]
    assert {engine.compute_capability for engine in manifest.engines} == {"any"}
    for suffix in ("openvino.xml", "openvino.bin", "ncnn.param", "ncnn.bin"):
        assert f"model.{suffix}" in manifest.files
    assert "`model.ncnn.param`: for ncnn, by pnnx" in (bundle / "README.md").read_text()
    assert "openvino, ncnn" in summary(bundle, ())


def test_openvino_draws_the_images_of_the_graph(bundle):
    latents = np.load(bundle / "latents.npy")
    expected = onnx_images(bundle / "model.onnx", {"latents": latents})
    network = openvino.Core().compile_model(
        bundle / "model.openvino.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(network({"latents": latents})[0], expected, atol=1e-4)
    one = network({"latents": latents[:1]})[0]  # the batch stays free
    np.testing.assert_allclose(one, expected[:1], atol=1e-4)


def test_ncnn_draws_the_images_of_the_graph(bundle):
    latents = np.load(bundle / "latents.npy")
    expected = onnx_images(bundle / "model.onnx", {"latents": latents})
    network = ncnn.Net()
    for option in FLOAT32:
        setattr(network.opt, option, False)
    network.load_param(str(bundle / "model.ncnn.param"))
    network.load_model(str(bundle / "model.ncnn.bin"))
    for row, image in zip(latents, expected, strict=True):
        extractor = network.create_extractor()
        extractor.input("in0", ncnn.Mat(row).clone())
        np.testing.assert_allclose(np.array(extractor.extract("out0")[1]), image, atol=1e-3)


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_images_that_differ_are_refused_and_leave_nothing(generator, tmp_path, monkeypatch, name):
    monkeypatch.setattr("export.bundle.onnx_images", lambda *args: onnx_images(*args) + 0.1)
    settings = BundleSettings(samples=2, engines=(EngineChoice(BUILDERS[name], "require"),))
    with pytest.raises(ExportError, match=r"images differ by 0\.1 "):
        write_bundle(BundleSource(generator), tmp_path / "b", settings)
    assert not (tmp_path / "b").exists()


def test_a_conditional_network_is_no_network_of_ncnn(conditional, tmp_path):
    settings = BundleSettings(samples=2, engines=(EngineChoice(BUILDERS["ncnn"]),))
    write_bundle(BundleSource(conditional), tmp_path / "b", settings)
    [entry] = read_manifest(tmp_path / "b").not_built
    assert (entry.target, "one input" in entry.reason) == ("ncnn", True)


def test_ncnn_takes_a_float32_graph(generator, tmp_path):
    ncnn_only = (EngineChoice(BUILDERS["ncnn"], "require"),)
    settings = BundleSettings(graph=GraphSettings("fp16"), samples=2, engines=ncnn_only)
    with pytest.raises(ExportError, match="ncnn takes a float32 graph"):
        write_bundle(BundleSource(generator), tmp_path / "b", settings)


def test_named_targets_are_required_and_switch_the_others_off():
    def choices(targets: Targets) -> dict[str, str]:
        return {entry.target.name: entry.choice for entry in targets.engines}

    assert choices(Targets.of(())) == {"tensorrt-rtx": "auto"}
    assert choices(Targets.of(("onnx",))) == {"tensorrt-rtx": "auto"} | {"tensorrt-rtx": "off"}
    assert choices(Targets.of(("rtx",))) == {"tensorrt-rtx": "require"}
    both = choices(Targets.of(("openvino",), "require"))
    assert both == {"tensorrt-rtx": "require", "openvino": "require"}
    assert Targets.of(("jetson-thor", "jetson-orin")).boards == ("jetson-orin", "jetson-thor")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_torch_tensorrt_without_a_gpu_is_one_line_before_anything_is_exported():
    with pytest.raises(MissingPackageError, match="torch-tensorrt engines cannot be built here"):
        Targets.of((), via="torch-tensorrt").check()
