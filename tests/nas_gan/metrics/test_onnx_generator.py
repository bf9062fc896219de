from __future__ import annotations

import pytest
import torch
from tiny import PixelFeatures, lively_generator
from torch import Tensor, nn

from nas_gan.metrics import sampling
from nas_gan.metrics.onnx_generator import TOLERANCE, WORTHWHILE, onnx_images
from nas_gan.metrics.sampling import extract_features, generate_uint8
from nas_gan.networks.latents import latent_bank


class Noisy(nn.Module):
    """Draws noise of its own."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z[:, :, None, None] + 0.1 * torch.randn(len(z), z.shape[1], 4, 4))


class Peculiar(nn.Module):
    """Another branch for other latents than the exporter sees."""

    def forward(self, z: Tensor) -> Tensor:
        x = z[:, :3, None, None].expand(-1, 3, 4, 4)
        return x * 0.5 if len(z) > 4 else x * 0.25


def test_images_are_those_of_torch_and_nearly_all_bytes_are_equal():
    net = lively_generator()
    latents = latent_bank(40, net.latent_dim, seed=3)
    draw = onnx_images(net, latents, threads=1)
    assert draw is not None
    with torch.no_grad():
        assert torch.allclose(draw(latents), net(latents), rtol=0, atol=TOLERANCE)
    fast, plain = (
        torch.cat(list(generate_uint8(net, latents, draw=d))).int() for d in (draw, None)
    )
    apart = (fast - plain).abs()
    assert apart.max() <= 1
    # A byte changes if its value is within the tolerance of a half: 2 * 1e-4 of a step of 2 / 255.
    assert (apart > 0).float().mean() <= 2 * TOLERANCE * 255 / 2


@pytest.mark.parametrize("net", [Noisy(), Peculiar()])
def test_a_generator_that_the_graph_does_not_hold_stays_in_torch(net):
    assert onnx_images(net, latent_bank(12, 3, seed=0), threads=1) is None


@pytest.mark.parametrize(("n", "exported"), [(WORTHWHILE - 1, 0), (WORTHWHILE, 1)])
def test_only_many_images_are_worth_a_graph(n, exported, monkeypatch):
    asked: list[int] = []

    def counted(net: nn.Module, latents: Tensor) -> None:
        asked.append(len(latents))

    monkeypatch.setattr(sampling, "onnx_images", counted)
    net = nn.Sequential(nn.Linear(2, 48), nn.Tanh(), nn.Unflatten(1, (3, 4, 4)))
    extract_features(net, torch.zeros(n, 2), PixelFeatures())
    assert len(asked) == exported
