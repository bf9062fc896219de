"""A bundle with features: the device measures what the toolkit measures, with numpy alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback import SSHD, bare_python, serving

from edge_bench.__main__ import main as bench
from export.__main__ import Config, main
from export.features import FACTOR, MEAN, features_for
from export.manifest import verify
from export.measuring import PrecisionOptions, measuring_config
from export.parity import onnx_images
from nas_gan.cli import run
from nas_gan.errors import NasGanError
from nas_gan.generators import GeneratorOptions, open_generator
from nas_gan.metrics.features import EfficientNetLite0
from nas_gan.metrics.frechet import FrechetReference, PairedFid
from nas_gan.metrics.protocol import to_uint8
from nas_gan.metrics.reference import load_statistics
from nas_gan.progress import no_progress

QUICK = ("--runs", "2", "--duration", "0", "--warmup", "0", "--batch", "16", "--repeats", "1")


def command(*arguments: object) -> int:
    texts = list(map(str, arguments))
    return run(main, Config, prog="export", description=None, args=texts)


@pytest.fixture
def bundle(run_dir, tmp_path) -> Path:
    out = tmp_path / "bundle"
    few = ("--tensorrt-rtx", "off", "--samples", "2", "--no-rewrites")
    assert command(run_dir, "--out", out, "--with-features", *few) == 0
    return out


def images_of(graph: Path, latents: np.ndarray) -> torch.Tensor:
    pixels = to_uint8(torch.from_numpy(onnx_images(graph, {"latents": latents})))
    return pixels.expand(-1, 3, -1, -1)


def test_the_device_measures_what_the_toolkit_measures(bundle, statistics, tmp_path):
    found = verify(bundle).quality
    assert found is not None
    assert found["samples"] == 48
    mean, factor = np.load(bundle / MEAN), np.load(bundle / FACTOR)
    known = load_statistics(statistics)
    np.testing.assert_allclose(mean, known.mean)
    np.testing.assert_allclose(factor @ factor.T, known.covariance, atol=1e-6)

    assert bench([str(bundle), *QUICK, "--out", str(tmp_path)]) == 0
    dense, compressed = json.loads((tmp_path / "bench.json").read_text())["quality"]

    latents = np.load(bundle / "quality_latents.npy")
    extract = EfficientNetLite0()
    before, after = (
        extract(images_of(graph, latents))
        for graph in (bundle / "dense/dense.onnx", bundle / "model.onnx")
    )
    expected = PairedFid(FrechetReference(known), before).compare(after)
    assert dense["distance"] == pytest.approx(expected.fid_dense, rel=1e-4)
    assert dense["rise"] is None
    rise = compressed["rise"]
    found_rise = [rise[key] for key in ("value", "low", "high")]
    wanted = [expected.delta, expected.ci_low, expected.ci_high]
    np.testing.assert_allclose(found_rise, wanted, rtol=1e-3, atol=1e-3 * expected.fid_dense)
    assert (compressed["images"], compressed["features"]) == (48, "efficientnet-lite0@96")


def test_what_is_not_wanted_is_not_measured(bundle, tmp_path):
    assert bench([str(bundle), *QUICK, "--no-score", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "bench.json").read_text())["quality"] == []


@pytest.mark.skipif(SSHD is None, reason="no sshd: apt-get install openssh-server")
def test_quality_is_measured_on_a_device_with_numpy_and_onnxruntime_only(bundle, tmp_path):
    with serving(tmp_path, bare_python(tmp_path / "python")) as device:
        out = tmp_path / "here"
        assert bench([str(bundle), *QUICK, "--out", str(out), *device.arguments]) == 0
        assert list(device.home.iterdir()) == []
    assert len(json.loads((out / "bench.json").read_text())["quality"]) == 2


def test_the_latents_are_no_part_of_the_bundle_or_of_a_search(bundle):
    own, quality = (np.load(bundle / name) for name in ("latents.npy", "quality_latents.npy"))
    assert own.shape[1:] == quality.shape[1:]
    assert not np.isin(own[:, 0], quality[:, 0]).any()


@pytest.mark.parametrize("name", ["features", "mean", "factor", "inputs"])
def test_a_changed_file_is_refused(bundle, name, capfd, tmp_path):
    quality = json.loads((bundle / "manifest.json").read_text())["quality"]
    file = quality[name][0] if name == "inputs" else quality[name]
    content = bytearray((bundle / file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / file).write_bytes(content)
    assert bench([str(bundle), *QUICK, "--out", str(tmp_path)]) == 1
    assert f"{file}: sha256 is" in capfd.readouterr().err


def test_another_metric_is_one_line(checkpoint, run_dir):
    opened = open_generator(checkpoint, GeneratorOptions())
    config = measuring_config(PrecisionOptions(metric="kid"), run_dir, 0)
    with pytest.raises(NasGanError, match="with_features carries the Fréchet distance"):
        features_for(opened, config, images=None, run_dir=None, progress=no_progress)
