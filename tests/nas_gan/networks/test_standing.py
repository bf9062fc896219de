"""Standing statistics: batch statistics measured on the images that a generator draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_gan.networks.standing import BATCH, measure_standing_statistics_, with_standing_statistics


class Normalised(nn.Module):
    """A batch norm of its inputs, `(n, 2, 1, 1)`, and one of twice the result plus one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(2, momentum=0.3), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(2 * self.first(x) + 1)


def test_the_statistics_are_those_of_the_latents_and_nothing_else_changes() -> None:
    network = Normalised()
    network.first.running_mean = torch.full((2,), 7.0)
    with torch.no_grad():
        network.first.weight.fill_(3)
    x = torch.randn(BATCH, 2, 1, 1, generator=torch.Generator().manual_seed(0)) * 5 + 2
    measure_standing_statistics_(network, x)
    rows = x.flatten(1)
    torch.testing.assert_close(network.first.running_mean, rows.mean(0))
    torch.testing.assert_close(network.first.running_var, rows.var(0))
    # The first norm returns mean 0 and deviation 3, so what enters the second has mean 1.
    torch.testing.assert_close(network.second.running_mean, torch.ones(2))
    assert (network.first.momentum, network.second.momentum) == (0.3, 0.1)
    assert not any(module.training for module in network.modules())
    assert (network.first.weight == 3).all()


def test_every_batch_counts_alike() -> None:
    network = nn.Sequential(nn.BatchNorm1d(1))
    x = torch.cat([torch.randn(BATCH, 1), torch.randn(BATCH, 1) + 10])
    measure_standing_statistics_(network, x)
    means = [part.mean() for part in x.split(BATCH)]
    torch.testing.assert_close(network[0].running_mean, torch.stack(means).mean().view(1))


def test_norms_measure_what_enters_them() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).eval()
    x = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0)) + 3
    found = with_standing_statistics(network, x)
    with torch.no_grad():
        entering = network[0](x)
    torch.testing.assert_close(found[1].running_mean, entering.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(found[1].running_var, entering.var(dim=(0, 2, 3)))
    assert torch.equal(network[1].get_buffer("running_mean"), torch.zeros(3))
    assert found[1].momentum == network[1].momentum
    assert not any(module.training for module in found.modules())


def test_new_statistics_are_those_of_the_latents_and_the_network_stays() -> None:
    net = nn.Sequential(nn.Unflatten(1, (1, 1, 1)), nn.BatchNorm2d(1)).eval()
    latents = torch.linspace(3, 5, 256)[:, None]
    changed = with_standing_statistics(net, latents)
    # The mean over batches of one size is that of all.
    assert changed.get_buffer("1.running_mean").item() == pytest.approx(4.0, abs=1e-5)
    assert net.get_buffer("1.running_mean").item() == 0.0
    assert not changed.training
