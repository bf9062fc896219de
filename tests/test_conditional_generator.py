"""Conditional generators from their checkpoint, or their training, to the device by commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ard.compress import CompressConfig
from ard.compress import main as compress
from export.__main__ import Config as ExportConfig
from export.__main__ import main as export
from export.manifest import TensorSpec, verify
from nas_gan import cli
from nas_gan.checkpoint import (
    Checkpoint,
    build_generator,
    build_saved_discriminator,
    load_checkpoint,
    save_checkpoint,
)
from nas_gan.networks.conditional import with_labels
from nas_gan.networks.interface import GeneratorInterface, interface_of
from nas_gan.networks.models import build_model

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxsim", reason="onnxsim is not installed")
pytestmark = pytest.mark.onnx

COMPRESSED = "compressed.pt"
LATENT_DIM, N_CLASSES = 8, 4
ARCHITECTURE = {
    "kind": "dense-cgan", "gf_dim": 16, "image_size": 8, "latent_dim": LATENT_DIM,
    "n_classes": N_CLASSES,
}  # fmt: skip
QUICK = [
    *("--fid-budget", "300%", "--methods", "svd", "--fractions", "0.5", "--no-bundle"),
    *("--samples", "32", "--sweep-samples", "16", "--recover-steps", "2", "--max-trials", "1"),
    *("--features", "efficientnet-lite0", "--anchors", "2", "--threads", "1"),
]


@dataclass(frozen=True)
class Delivered:
    """What the commands made of one checkpoint."""

    dense: Path
    run_dir: Path
    bundle: Path


def command(main: Any, config: type[object], *arguments: str | Path) -> int:
    return cli.run(main, config, prog="test", description="", args=[str(a) for a in arguments])


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    folder = tmp_path_factory.mktemp("conditional")
    generator = build_model(ARCHITECTURE, rng=torch.Generator().manual_seed(0))
    with torch.no_grad():  # what is drawn for training is too small for images to differ
        for parameter in generator.parameters():
            parameter.mul_(2.0)
    dense, run_dir = folder / "ckpt.pt", folder / "run"
    save_checkpoint(Checkpoint(ARCHITECTURE, generator.state_dict()), dense)
    deliver(dense, write_reference(folder), run_dir)
    return Delivered(dense, run_dir, folder / "bundle")


def write_reference(folder: Path) -> Path:
    """Statistics of images that nobody drew."""
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((1280, 16))  # of low rank, which makes a score cheap
    path = folder / "real.npz"
    np.savez(path, mu=rng.uniform(0, 0.2, 1280), sigma=factor @ factor.T, n=17)
    return path


def deliver(dense: Path, reference: Path, run_dir: Path) -> None:
    """Compress a checkpoint and write its bundle beside the run directory."""
    threads = torch.get_num_threads()
    given = ("--reference", reference, "--run-dir", run_dir)
    assert command(compress, CompressConfig, dense, *given, *QUICK) == 0
    torch.set_num_threads(threads)
    out = ("--out", run_dir.parent / "bundle", "--tensorrt-rtx", "off", "--samples", "8")
    assert command(export, ExportConfig, run_dir, *out) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    """A searched architecture with classes, trained for a few updates and then delivered."""
    folder = tmp_path_factory.mktemp("searched")
    tiny = [
        *("--config", "fashion_mnist_conditional", "--dataset", "synthetic", "--gf-dim", "8"),
        *("--df-dim", "8", "--image-size", "16", "--image-channels", "1", "--batch-size", "20"),
        *("--steps", "60", "--eval-every", "0", "--n-critic", "1", "--g-lr", "0.005"),
        *("--precision", "fp32", "--ema-decay", "0", "--threads", "1"),
    ]  # large steps, after which classes differ
    run_dir = folder / "training"
    done = in_a_process("nas_gan.train", *tiny, "--run-dir", run_dir)
    assert done.returncode == 0, done.stderr
    deliver(run_dir / "ckpt.pt", write_reference(folder), folder / "run")
    return Delivered(run_dir / "ckpt.pt", folder / "run", folder / "bundle")


@pytest.mark.parametrize("network", ["delivered", "trained"])
@pytest.mark.parametrize("side", ["compressed", "dense"])
def test_onnx_runtime_draws_the_images_of_torch_for_every_class(
    network: str, side: str, request: pytest.FixtureRequest
) -> None:
    delivered: Delivered = request.getfixturevalue(network)
    checkpoint, model = {
        "compressed": (delivered.run_dir / "compressed.pt", delivered.bundle / "model.onnx"),
        "dense": (delivered.dense, delivered.bundle / "dense" / "dense.onnx"),
    }[side]
    generator = build_generator(load_checkpoint(checkpoint)).eval()
    interface = interface_of(generator)
    n_classes, latent_dim = interface.n_classes, interface.latent_dim
    noise = torch.randn(1, latent_dim, generator=torch.Generator().manual_seed(1))
    latents, labels = noise.expand(n_classes, -1).contiguous(), torch.arange(n_classes)
    with torch.no_grad():
        expected = generator(with_labels(latents, labels, n_classes)).numpy()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = {"latents": latents.numpy(), "labels": labels.numpy()}
    [found] = session.run(["images"], feed)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # On the same noise only the class tells images apart.
    assert all(np.abs(found[k] - found[0]).max() > 0.05 for k in range(1, n_classes))


def test_the_compressed_model_is_smaller_and_its_manifest_names_both_inputs(
    delivered: Delivered,
) -> None:
    manifest = verify(delivered.bundle)
    latents = TensorSpec("latents", "float32", ("batch", LATENT_DIM))
    assert manifest.inputs == (latents, TensorSpec("labels", "int64", ("batch",)))
    assert manifest.n_classes == N_CLASSES
    dense = verify(delivered.bundle / "dense")
    assert (dense.inputs, dense.n_classes) == (manifest.inputs, N_CLASSES)
    assert manifest.params < dense.params


def test_the_ten_images_of_the_deployment_page_are_drawn(delivered: Delivered) -> None:
    page = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code += "assert images.shape == (10, 1, 8, 8)"
    subprocess.run([sys.executable, "-c", code], cwd=delivered.bundle, check=True)


def test_it_is_timed_against_the_dense_one(delivered: Delivered, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "edge_bench", str(delivered.bundle), "--batch", "1", "6"]
    quick = ["--runs", "10", "--warmup", "2", "--duration", "0", "--out", str(tmp_path)]
    done = subprocess.run([*line, *quick], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    rows = [(row["bundle"], row["batch"]) for row in report["rows"]]
    assert rows == [("dense", 1), ("bundle", 1), ("dense", 6), ("bundle", 6)]
    assert {bundle["n_classes"] for bundle in report["bundles"]} == {N_CLASSES}


def in_a_process(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_its_layers_are_written_for_timing(delivered: Delivered, tmp_path: Path) -> None:
    out = tmp_path / "layers"
    done = in_a_process("ard.latency", delivered.dense, "--out", out, "--no-measure")
    assert done.returncode == 0, done.stderr
    assert (out / "layers.json").is_file()


@pytest.mark.parametrize("module", ["ard.compress", "ard.sweep"])
def test_it_is_compressed_against_its_own_images(
    module: str, delivered: Delivered, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    options = ["--samples", "32", "--sweep-samples", "16", "--anchors", "2", "--threads", "1"]
    options += ["--features", "efficientnet-lite0", "--methods", "svd", "--fractions", "0.3"]
    if module == "ard.compress":
        options += ["--fid-budget", "1e6", "--recover-steps", "2", "--max-trials", "1"]
        options += ["--no-bundle"]
    done = in_a_process(
        module, delivered.dense, "--reference", "dense", "--run-dir", run_dir, *options
    )
    assert done.returncode == 0, done.stderr
    assert (run_dir / "sensitivity.csv").is_file()


def test_the_trained_checkpoint_describes_both_networks_as_data(trained: Delivered) -> None:
    checkpoint = load_checkpoint(trained.dense)
    assert checkpoint.interface == GeneratorInterface(120, 10, (1, 16, 16))
    described = (checkpoint.architecture, checkpoint.discriminator_config)
    assert [d and (d["kind"], d["n_classes"]) for d in described] == [("mmd-nas", 10)] * 2
    judge = build_saved_discriminator(checkpoint)
    assert judge is not None
    assert judge(torch.zeros(10, 1, 16, 16), torch.eye(10)).unique(dim=0).shape == (10, 16)


def test_the_trained_net_lost_parameters_and_kept_its_tables_of_classes(trained: Delivered) -> None:
    dense, small = (
        load_checkpoint(path).generator for path in (trained.dense, trained.run_dir / COMPRESSED)
    )
    assert sum(t.numel() for t in small.values()) < sum(t.numel() for t in dense.values())
    tables = {name: t.shape for name, t in dense.items() if name.endswith((".gain", ".bias")) and
              t.ndim == 2}  # fmt: skip
    assert len(tables) == 2 * 4  # before each cell and before the image
    assert {name: small[name].shape for name in tables} == tables
    plan = json.loads((trained.run_dir / "plan.json").read_text())
    assert not any("norm" in layer for layer in plan["layers"])


def test_each_row_of_a_picture_of_classes_is_another_class(
    trained: Delivered, tmp_path: Path
) -> None:
    out = ("--per-class", "--columns", "2", "--out", tmp_path / "classes.png")
    assert in_a_process("nas_gan.sample", trained.run_dir / COMPRESSED, *out).returncode == 0
    pixels = np.asarray(Image.open(tmp_path / "classes.png").convert("L"))
    height = (pixels.shape[0] - 2) // 10  # of a row with its border
    rows = [pixels[2 + height * k : height * (k + 1), 2:18] for k in range(10)]
    assert all((rows[k] != rows[0]).any() for k in range(1, 10))


def test_the_trained_net_is_evaluated(trained: Delivered, tmp_path: Path) -> None:
    reference = trained.dense.parents[1] / "real.npz"
    options: list[str | Path] = ["--reference", reference, "--samples", "16"]
    options += ["--features", "efficientnet-lite0", "--out", tmp_path / "found.json"]
    done = in_a_process("nas_gan.evaluate", trained.dense, *options)
    assert done.returncode == 0, done.stderr
    assert "nan" not in (tmp_path / "found.json").read_text().lower()
