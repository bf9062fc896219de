"""Standing statistics: batch statistics measured on the images that a generator draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_gan.networks.standing import BATCH, measure_standing_statistics_


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
