from __future__ import annotations

import pytest
import torch
from tiny import lively_generator
from torch import Tensor, nn

from ard.assembly.batchnorm import (
    batch_moments,
    correct_batchnorm,
    corrected_with_images,
)
from ard.assembly.surgery import apply_plan
from ard.plan import Factorization, RankPlan
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latent_bank, latents_of
from nas_gan.networks.models import build_model


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


class Normalised(nn.Module):
    """`gain * z + offset`, normalised, twice in a row if asked."""

    def __init__(self, gain: float, offset: float, n_norms: int = 1) -> None:
        super().__init__()
        self.latent_dim = 2
        self.scale = nn.Linear(2, 2)
        with torch.no_grad():
            self.scale.weight.copy_(gain * torch.eye(2))
            self.scale.bias.fill_(offset)
        self.norms = nn.Sequential(*(nn.BatchNorm1d(2, eps=1e-12) for _ in range(n_norms)))
        for norm in self.norms:
            assert isinstance(norm, nn.BatchNorm1d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(torch.tensor([0.5, -1.0]))
            norm.running_var.copy_(torch.tensor([4.0, 0.25]))

    def forward(self, z: Tensor) -> Tensor:
        return self.norms(self.scale(z))


LATENTS = torch.tensor([[0.0, 2.0], [2.0, 4.0], [1.0, 3.0]])  # means 1 and 3, variances 2/3


def statistics(module: nn.Module) -> list[list[float]]:
    return [t.tolist() for n, t in module.state_dict().items() if "running" in n]


def test_a_net_that_was_not_factorized_keeps_its_batch_statistics() -> None:
    net = Normalised(1.0, 0.0).eval()
    assert statistics(correct_batchnorm(net, net, LATENTS)) == statistics(net)


def test_means_move_by_the_difference_and_variances_by_the_ratio() -> None:
    dense, factorized = Normalised(1.0, 0.0).eval(), Normalised(3.0, 10.0).eval()
    corrected = correct_batchnorm(factorized, dense, LATENTS)
    # Inputs 3 z + 10: means 13 and 19 where they were 1 and 3, and nine times the variance.
    assert statistics(corrected) == [
        pytest.approx([0.5 + 12, -1.0 + 16]),
        pytest.approx([36.0, 2.25]),
    ]
    assert statistics(factorized) == statistics(dense)


def test_an_affine_change_in_front_of_one_or_two_norms_is_undone() -> None:
    for n_norms in (1, 2):
        dense, factorized = Normalised(1, 0, n_norms).eval(), Normalised(1, 5, n_norms).eval()
        corrected = correct_batchnorm(factorized, dense, LATENTS)
        torch.testing.assert_close(corrected(LATENTS), dense(LATENTS))


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    dense, factorized = Normalised(1.0, 0.0).eval(), Normalised(3.0, 10.0).eval()
    one = statistics(correct_batchnorm(factorized, dense, LATENTS, batch_size))
    assert one == [
        pytest.approx(row) for row in statistics(correct_batchnorm(factorized, dense, LATENTS))
    ]


def test_a_feature_map_counts_position_by_position() -> None:
    def net(gain: float) -> nn.Module:
        conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(conv.weight, gain)
        return nn.Sequential(conv, nn.BatchNorm2d(1)).eval()

    images = torch.arange(8.0).view(2, 1, 2, 2)  # mean 3.5, and its double's is 7
    corrected = correct_batchnorm(net(2.0), net(1.0), images)
    assert statistics(corrected) == [[pytest.approx(3.5)], [pytest.approx(4.0)]]


def test_a_net_without_batch_normalisation_is_copied() -> None:
    net = nn.Linear(2, 2)
    copied = correct_batchnorm(net, net, LATENTS)
    assert copied is not net
    assert same(copied, net)


def test_moments_of_the_dense_net_taken_once_give_the_same_correction() -> None:
    dense = lively_generator()
    factorized = apply_plan(dense, RankPlan({"l1": Factorization("svd", (3,))}))
    latents = latent_bank(8, dense.latent_dim, seed=1)
    moments = batch_moments(dense, latents)
    given = correct_batchnorm(factorized, dense, latents, dense_moments=moments)
    assert same(given, correct_batchnorm(factorized, dense, latents))


def test_norms_in_a_row_are_corrected_in_one_pass_as_one_by_one() -> None:
    dense, factorized = Normalised(1.0, 0.0, 3).eval(), Normalised(3.0, 10.0, 3).eval()
    passes: list[int] = []

    class Counted(nn.Module):
        def __init__(self, net: Normalised) -> None:
            super().__init__()
            self.net = net

        def forward(self, z: Tensor) -> Tensor:
            passes.append(len(z))
            return self.net(z)

    counted = Counted(factorized)
    moments = {f"net.{n}": m for n, m in batch_moments(dense, LATENTS).items()}
    at_once = correct_batchnorm(counted, counted, LATENTS, dense_moments=moments)
    assert passes == [3]
    # In batches of two rows, each norm has to wait for the second batch.
    one_by_one = correct_batchnorm(factorized, dense, LATENTS, batch_size=2)
    assert statistics(at_once) == [pytest.approx(row, rel=1e-5) for row in statistics(one_by_one)]


def test_a_channel_that_is_constant_keeps_its_statistics() -> None:
    net = Normalised(0.0, 1.0).eval()
    assert statistics(correct_batchnorm(net, net, LATENTS)) == statistics(net)


def test_conditional_norms_see_the_variance_that_they_see_in_the_dense_net() -> None:
    rng = torch.Generator().manual_seed(0)
    dense = build_model({"kind": "mmd-nas", "gf_dim": 8, "n_classes": 3}, rng=rng).eval()
    latents = latents_of(interface_of(dense), 24, seed=0)
    small = {name: Factorization("svd", (3,)) for name in ("l1", "l2")}
    factorized = apply_plan(dense, RankPlan(small))
    corrected = correct_batchnorm(factorized, dense, latents)
    seen = [variances_behind_norms(net, latents) for net in (dense, factorized, corrected)]
    assert list(seen[0]) == [*(f"norms.{n}.norm" for n in range(3)), "to_rgb.0.norm"]
    for name, variance in seen[0].items():
        torch.testing.assert_close(seen[2][name], variance, rtol=1e-3, atol=0)
    assert (seen[1]["norms.0.norm"] / seen[0]["norms.0.norm"] - 1).abs().max() > 0.1


def variances_behind_norms(net: nn.Module, latents: Tensor) -> dict[str, Tensor]:
    """Variances `(c,)` of what leaves each batch norm, over all classes, by its name."""
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        found[name] = output.double().var(dim=(0, 2, 3), correction=0)

    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        net(latents)
    for hook in hooks:
        hook.remove()
    return found


def test_the_images_of_one_pass_are_those_of_the_corrected_net() -> None:
    dense, factorized = Normalised(1.0, 0.0, 2).eval(), Normalised(3.0, 10.0, 2).eval()
    moments = batch_moments(dense, LATENTS)
    corrected, images = corrected_with_images(factorized, moments, LATENTS, 3)
    assert images is not None
    torch.testing.assert_close(images, corrected(LATENTS))
    assert not torch.allclose(images, factorized(LATENTS))
    assert same(corrected, correct_batchnorm(factorized, dense, LATENTS))


def test_there_are_no_images_where_one_pass_does_not_do() -> None:
    dense = Normalised(1.0, 0.0).eval()
    moments = batch_moments(dense, LATENTS)
    assert corrected_with_images(dense, moments, LATENTS, batch_size=2)[1] is None
    assert corrected_with_images(dense, {}, LATENTS, batch_size=3)[1] is None
    twice = nn.Sequential(dense, dense)
    assert corrected_with_images(twice, batch_moments(twice, LATENTS), LATENTS, 3)[1] is None
