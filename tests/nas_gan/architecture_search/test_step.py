import numpy as np
import pytest
import torch

from nas_gan.architecture_search.amending import amended_gradient
from nas_gan.architecture_search.draws import Draws, Sampling
from nas_gan.architecture_search.relaxation import Relaxation, TemperatureSchedule
from nas_gan.architecture_search.step import (
    ArchitectureStep,
    Optimizers,
    SearchLosses,
    Supernets,
    make_architecture_loss,
)
from nas_gan.architecture_search.supernet import Mixing, SuperDiscriminator, SuperGenerator
from nas_gan.errors import InvalidValueError
from nas_gan.losses import make_loss
from nas_gan.networks.searched import GeneratorConfig
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.schedule import Schedule
from nas_gan.training.skipping import DynamicSkipping

IMAGES = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1


def make_step(
    *, lr=1e-3, arch_lr=1e-2, real=IMAGES, loss="hinge", arch_loss="hinge", amending=0.0,
    bf16=False, **turns,
):  # fmt: skip
    """A step of tiny supernets on 16 px images, without spectral norm to be fast."""
    torch.manual_seed(0)
    generator = SuperGenerator(GeneratorConfig(gf_dim=2, bottom_width=2, latent_dim=6, n_classes=0))
    discriminator = SuperDiscriminator(4)
    sgd = torch.optim.SGD
    return ArchitectureStep(
        Supernets(generator, discriminator, ExponentialMovingAverage(generator, 0.9)),
        optimizers=Optimizers(
            sgd(generator.weights, lr), sgd(discriminator.weights, lr),
            sgd(generator.alphas, arch_lr), sgd(discriminator.alphas, arch_lr),
        ),
        losses=SearchLosses(make_loss(loss), make_architecture_loss(arch_loss), amending),
        sampling=Sampling(Relaxation(), TemperatureSchedule(), seed=1),
        real=lambda index: real,
        schedule=Schedule(n_steps=4, updates_per_epoch=10, **turns),
        bf16=bf16,
    )  # fmt: skip


def values(parameters):
    return [p.detach().clone() for p in parameters]


def same(before, parameters):
    return all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


def test_the_generator_moves_on_every_nth_update_only():
    step = make_step(n_critic=2)
    for index, turn in ((0, False), (1, True)):
        g, d, average = step.generator, step.discriminator, step.average.average
        before = [values(x) for x in (g.alphas, g.weights, average.parameters())]
        d_before = [values(d.alphas), values(d.weights)]
        scalars = step(index)
        after = (g.alphas, g.weights, average.parameters())
        assert [same(b, a) for b, a in zip(before, after, strict=True)] == [not turn] * 3
        assert not any(map(same, d_before, (d.alphas, d.weights)))
        assert ("loss/g" in scalars) == ("loss/g_arch" in scalars) == turn


def test_the_second_half_of_a_batch_moves_architectures_and_the_first_half_weights():
    # Either half of the images is exchanged while what it should move is held fast.
    for lr, arch_lr, exchanged in ((1e-3, 0.0, slice(4, 8)), (0.0, 1e-2, slice(0, 4))):
        other = IMAGES.clone()
        other[exchanged] *= -1
        a, b = (
            make_step(lr=lr, arch_lr=arch_lr, real=real, n_critic=9) for real in (IMAGES, other)
        )
        start = values(a.discriminator.parameters())
        for step in (a, b):
            step(0)
        assert same(values(a.discriminator.parameters()), b.discriminator.parameters())
        assert not same(start, b.discriminator.parameters())


def test_the_losses_are_those_of_the_scores():
    step = make_step(arch_lr=0.0, lr=0.0, n_critic=9, loss="latest")
    g, d = step.generator, step.discriminator
    draws = Draws(np.random.default_rng([1, 3]), Relaxation(), 5 * 0.02**0.75, 6)

    def scores(real):
        fake = g(draws.latents(4), draws.mixing(g))
        return d(torch.cat([real, fake]), draws.mixing(d)).split(4)

    with torch.no_grad():
        real, fake = scores(IMAGES[4:])
        hinge = torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()
        real, fake = scores(IMAGES[:4])
        mmd = make_loss("latest").discriminator(real, fake)
    scalars = step(3)
    assert scalars["loss/d_arch"] == pytest.approx(hinge.item(), rel=1e-5)
    assert scalars["loss/d"] == pytest.approx(mmd.item(), rel=1e-5)
    assert scalars["temperature"] == pytest.approx(5 * 0.02**0.75)


def test_architectures_can_be_searched_by_the_repulsive_loss():
    # The bounded repulsive pair lies in [exp(-4 / 2) - exp(-0.25 / 2), 1]; hinge starts near 2.
    assert -0.7472 <= make_step(arch_loss="mmd", n_critic=9)(0)["loss/d_arch"] <= 1


def test_with_an_amending_coefficient_the_architecture_moves_another_way():
    plain, amended = make_step(lr=0.0), make_step(lr=0.0, amending=1.0)
    for step in (plain, amended):
        assert all(map(np.isfinite, step(0).values()))
    for network in ("generator", "discriminator"):
        ours, theirs = (values(getattr(step, network).alphas) for step in (plain, amended))
        assert not same(ours, theirs)


def test_bfloat16_changes_a_search_little():
    exact, rounded = (make_step(loss="latest", amending=1e-3, bf16=bf16) for bf16 in (False, True))
    for network in (exact.discriminator, rounded.discriminator):
        with torch.no_grad():
            for weight in network.weights:
                weight *= 6  # scores of about 1: the mean of seven operations shrinks its input
    plain, bfloat = exact(0), rounded(0)
    for name in ("loss/d_arch", "loss/d", "loss/g_arch", "loss/g"):
        # bfloat16 keeps 8 bits, of scores whose differences are in the losses.
        assert bfloat[name] == pytest.approx(plain[name], abs=0.05)
    assert bfloat["loss/d"] != plain["loss/d"]
    assert all(p.dtype == torch.float32 for p in rounded.generator.parameters())


def test_the_correction_through_a_whole_supernet_is_that_of_finite_differences():
    d = make_step().discriminator.double()
    with torch.no_grad():
        for weight in d.weights:
            weight *= 6  # scores of about 1: the mean of seven operations shrinks its input
    images, fake = IMAGES[:4].double(), -IMAGES[4:].double()
    alphas, weights = list(d.alphas), d.weights

    def loss(name):
        scores = d(torch.cat([images, fake]), Mixing(*(a.softmax(-1) for a in d.logits())))
        return make_loss(name).discriminator(*scores.split(4))

    def along(direction, wanted):
        """How the training loss's slope changes along a direction: its central difference."""
        size = 1e-6 / sum(part.square().sum() for part in direction).sqrt()
        start, sides = values(weights), []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, old, part in zip(weights, start, direction, strict=True):
                    weight.copy_(old + sign * size * part)
            sides.append(torch.autograd.grad(loss("logistic"), wanted))
        with torch.no_grad():
            for weight, old in zip(weights, start, strict=True):
                weight.copy_(old)
        return [(a - b) / (2 * size) for a, b in zip(*sides, strict=True)]

    v = torch.autograd.grad(loss("hinge"), weights)
    expected = along(along(v, weights), alphas)
    plain = torch.autograd.grad(loss("hinge"), alphas)
    found = amended_gradient(loss("hinge"), loss("logistic"), alphas, weights, 1.0)
    for slope_, amended, correction in zip(plain, found, expected, strict=True):
        scale = correction.abs().max().item()
        assert scale > 1e-3
        # A difference over 1e-6 keeps about ten digits of sixteen.
        torch.testing.assert_close(slope_ - amended, correction, rtol=0, atol=1e-7 * scale)


@pytest.mark.parametrize("n", [2, 5])
def test_a_batch_that_has_no_halves_is_refused(n):
    with pytest.raises(InvalidValueError, match=f"even and at least 4; got {n}"):
        make_step(real=IMAGES[:n])(0)


def test_a_loss_that_needs_more_than_scores_is_refused():
    with pytest.raises(InvalidValueError, match="losses of scores alone; this one also has clip"):
        make_step(loss="wasserstein_clip")


def test_a_negative_amending_coefficient_is_refused():
    with pytest.raises(InvalidValueError, match="amending coefficient"):
        make_step(amending=-0.5)


@pytest.mark.parametrize("turns", [{"d_every": 2}, {"d_skipping": DynamicSkipping(0, 0)}])
def test_a_search_never_leaves_out_its_discriminator(turns):
    with pytest.raises(InvalidValueError, match="updates its discriminator in every step"):
        make_step(**turns)
