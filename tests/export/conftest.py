from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.metrics.features import ExtractorName, make_extractor
from nas_gan.metrics.frechet import statistics_of
from nas_gan.metrics.sampling import extract_features
from nas_gan.networks.latents import latent_bank
from nas_gan.networks.models import build_model
from nas_gan.networks.searched import Generator, GeneratorConfig

if TYPE_CHECKING:
    import onnx


class Upsampler(nn.Module):
    """A generator with every way that the nets have to double a feature map; 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_dim, self.image_shape = 6, (3, 8, 8)
        self.l1, self.l2 = nn.Linear(3, 64), nn.Linear(3, 64)
        self.transposed = nn.ConvTranspose2d(
            4, 4, 3, stride=2, padding=1, output_padding=1, groups=4, bias=False
        )
        self.to_rgb = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        z1, z2 = z.split(3, dim=1)
        x, y = self.l1(z1).view(-1, 4, 4, 4), self.l2(z2).view(-1, 4, 4, 4)
        h = self.transposed(x) + F.interpolate(y, size=(8, 8), mode="nearest")
        h = h + F.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False)
        h = h + F.interpolate(y, size=(8, 8), mode="bicubic", align_corners=False)
        return torch.tanh(self.to_rgb(h))


def seeded(build: type[Upsampler], seed: int) -> Upsampler:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


@pytest.fixture(scope="session")
def upsampler() -> Upsampler:
    return seeded(Upsampler, 0)


@pytest.fixture(scope="session")
def other_upsampler() -> Upsampler:
    return seeded(Upsampler, 1)


@pytest.fixture(scope="session")
def generator() -> Generator:
    """A small published net whose images use the whole range, as those of a trained one do."""
    rng = torch.Generator().manual_seed(0)
    net = Generator(GeneratorConfig(gf_dim=8, n_classes=0))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5, generator=rng)
    for name, parameter in net.named_parameters():
        if name.endswith("beta"):
            nn.init.uniform_(parameter, 0.3, 2.0, generator=rng)
    norm = net.to_rgb[0]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = None  # running statistics become those of the next batch
    with torch.no_grad():
        net.train()(torch.randn(64, net.latent_dim, generator=rng))
    return net.eval()


@pytest.fixture(scope="session")
def conditional() -> nn.Module:
    """A net of five classes with transposed convolutions; 8x8 grey images."""
    architecture = {"kind": "dcgan", "latent_dim": 6, "gf_dim": 8, "image_size": 8,
                    "image_channels": 1, "n_classes": 5}  # fmt: skip
    return build_model(architecture, rng=torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="session")
def conditional_onnx(conditional: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    from export.to_onnx import write_onnx

    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(conditional, path)
    return path


@pytest.fixture(scope="session")
def generator_plain(generator: Generator) -> onnx.ModelProto:
    """The graph of `generator` before any rewrite."""
    pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    from export.to_onnx import build_model

    return build_model(generator, rewrites=())


@pytest.fixture(scope="session")
def generator_onnx(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    from export.to_onnx import write_onnx

    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(generator, path)
    return path


@pytest.fixture(scope="session")
def upsampler_onnx(upsampler: Upsampler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    from export.to_onnx import write_onnx

    path = tmp_path_factory.mktemp("onnx") / "up.onnx"
    write_onnx(upsampler, path)
    return path


# -- a run directory that a conversion is measured as


EXTRACTOR: ExtractorName = "efficientnet-lite0"


@pytest.fixture(scope="module")
def checkpoint(generator, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "ckpt.pt"
    architecture = {"kind": "mmd-nas", **generator.config.to_dict()}
    provenance = {"dataset": "toy"}
    save_checkpoint(Checkpoint(architecture, generator.state_dict(), provenance=provenance), path)
    return path


@pytest.fixture(scope="module")
def statistics(generator, tmp_path_factory) -> Path:
    """Reference statistics of rank 16, which makes a score cheap."""
    latents = latent_bank(17, generator.latent_dim, 99)
    known = statistics_of(extract_features(generator, latents, make_extractor(EXTRACTOR)))
    path = tmp_path_factory.mktemp("statistics") / "reference.npz"
    np.savez(path, mu=known.mean, sigma=100 * known.covariance, n=17)
    return path


@pytest.fixture
def run_dir(checkpoint, generator, statistics, tmp_path) -> Path:
    """A run whose compressed net is the dense one with a weight moved."""
    folder = tmp_path / "run"
    folder.mkdir()
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    state["to_rgb.2.weight"] += 0.02
    architecture = {"kind": "mmd-nas", **generator.config.to_dict()}
    save_checkpoint(Checkpoint(architecture, state), folder / "compressed.pt")
    settings = {
        **{"checkpoint": str(checkpoint), "metric": "fid", "features": EXTRACTOR},
        **{"reference": str(statistics), "samples": 48, "seed": 5, "batch_size": 16},
        **{"inception_weights": None, "data_root": None},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder
