import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import takes
from torch import nn

from nas_gan.errors import InvalidValueError
from nas_gan.losses import (
    LOSSES,
    GaussianKernel,
    GradientPenalty,
    GradientScaling,
    HingeLoss,
    ImageNoise,
    Parts,
    WassersteinLoss,
    WeightClipping,
    make_loss,
)
from nas_gan.training.averaging import ExponentialMovingAverage
from nas_gan.training.distillation import DistillationStep
from nas_gan.training.draws import StepLatents
from nas_gan.training.learner import Learner
from nas_gan.training.optimizers import make_optimizer, make_scheduler
from nas_gan.training.schedule import Schedule
from nas_gan.training.skipping import DynamicSkipping
from nas_gan.training.steps import AdversarialStep, Batches, Compute, Logged
from nas_gan.training.upper_bound import UpperBoundSchedule


class Spread(nn.Module):
    """Scores that depend on one weight; remembers what it was asked to score."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2, bias=False)
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        return self.linear(images.flatten(1))


class Steep(nn.Module):
    """The score of an image is the sum of its pixels times 1e20, which float32 can still hold."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((12, 1), 1e20))

    def forward(self, images):
        return images.flatten(1) @ self.weight


# Which part of a step a setting of `make_step` belongs to.
PARTS = {
    Batches: ("real", "latents", "g_latents"),
    Schedule: ("n_critic", "d_every", "d_skipping"),
    Compute: ("bf16", "compile_backend"),
    Logged: ("gradients", "health"),
}


def make_step(
    loss="latest", generator=None, discriminator=None, dtype=torch.float32, clips=(None, None),
    schedulers=(None, None), **changes,
):  # fmt: skip
    torch.manual_seed(0)
    generator = generator or nn.Sequential(
        nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Unflatten(1, (3, 2, 2))
    )
    discriminator = discriminator or Spread()
    real = torch.randn(100, 6, 3, 2, 2)
    settings: dict[str, Any] = {
        "real": lambda index: real[index],
        "latents": StepLatents(0, 6, takes(4)),
        **changes,
    }
    batches, schedule, compute, logged = (
        {name: settings.pop(name) for name in names if name in settings} for names in PARTS.values()
    )
    assert not settings

    def learner(network, clip, make):
        optimizer = torch.optim.Adam(network.to(dtype).parameters(), 0.01)
        return Learner(network, optimizer, make and make(optimizer), clip)

    g, d = map(learner, (generator, discriminator), clips, schedulers)
    return AdversarialStep(
        g,
        d,
        make_loss(loss) if isinstance(loss, str) else loss,
        average=ExponentialMovingAverage(generator, 0.9),
        upper_bound=UpperBoundSchedule("geometric", end=16),
        batches=Batches(**batches),
        schedule=Schedule(n_steps=8, updates_per_epoch=10, **schedule),
        compute=Compute(**compute),
        logged=Logged(**logged),
    )


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def moved(before, module):
    return any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_latents_depend_on_seed_and_index_alone():
    torch.manual_seed(1)
    first = StepLatents(5, 3, takes(4))(7)
    torch.manual_seed(2)
    assert torch.equal(StepLatents(5, 3, takes(4))(7), first)
    others = [
        StepLatents(5, 3, takes(4))(8),
        StepLatents(6, 3, takes(4))(7),
        StepLatents(7, 3, takes(4))(5),
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_latents_are_standard_normal():
    z = StepLatents(0, 10_000, takes(10))(0)
    assert z.dtype == torch.float32
    # 100,000 draws: the mean is within 5 standard errors of 0, the variance of 1.
    assert abs(z.mean().item()) < 5 * 1e5**-0.5
    assert abs(z.var().item() - 1) < 5 * (2 / 1e5) ** 0.5


def test_the_generator_moves_on_every_nth_update_only():
    step = make_step(n_critic=3)
    for index in range(6):
        g, average = weights(step.generator), weights(step.average.average)
        d = weights(step.discriminator)
        scalars = step(index)
        turn = index in (2, 5)
        assert moved(d, step.discriminator)
        assert moved(g, step.generator) == moved(average, step.average.average) == turn
        assert ("loss/g" in scalars) == turn


def test_the_generators_update_leaves_no_trace_on_the_discriminator():
    step = make_step()
    step(0)
    assert all(p.requires_grad for p in step.discriminator.parameters())
    with_update = weights(step.discriminator)
    other = make_step(n_critic=2)
    other(0)
    assert not moved(with_update, other.discriminator)


def test_real_and_fake_images_are_scored_together():
    step = make_step()
    step(0)
    assert step.discriminator.batches == [12, 6, 6]


def test_the_losses_are_those_of_the_scores():
    step = make_step()
    step.generator.train()
    with torch.no_grad():
        real, fake = step.batches.real(0), step.generator(step.batches.latents(0))
        expected = step.loss.discriminator(step.discriminator(real), step.discriminator(fake))
    assert step(0)["loss/d"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_bound_follows_the_progress():
    step = make_step()
    assert [step(index)["upper_bound"] for index in (0, 4)] == pytest.approx([4, 8])


def test_a_step_goes_on_exactly_from_its_state():
    whole, first = make_step(), make_step()
    expected = [whole(index) for index in range(6)]
    for index in range(3):
        first(index)
    second = make_step()
    for parameter in second.generator.parameters():
        nn.init.zeros_(parameter)
    second.load_state_dict(first.state_dict())
    assert [second(index) for index in range(3, 6)] == expected[3:]
    assert not moved(weights(whole.average.average), second.average.average)


def test_bfloat16_changes_the_losses_little():
    exact, rounded = make_step()(0), make_step(bf16=True)(0)
    # bfloat16 keeps 8 bits; the kernels themselves are float32.
    assert rounded["loss/d"] == pytest.approx(exact["loss/d"], abs=0.02)
    assert rounded["loss/d"] != exact["loss/d"]


@pytest.mark.parametrize("loss", ["wasserstein", "rep_gp"])
def test_a_penalty_between_real_and_fake_images_takes_bfloat16(loss):
    exact, rounded = make_step(loss=loss)(0), make_step(loss=loss, bf16=True)(0)
    # bfloat16 keeps 8 bits of scores and of their gradients.
    assert rounded["loss/d"] == pytest.approx(exact["loss/d"], rel=0.02, abs=0.02)


@pytest.mark.parametrize("name", LOSSES)
def test_double_precision_has_the_losses_of_single_precision(name):
    single, double = (make_step(loss=name, dtype=t) for t in (torch.float32, torch.float64))
    for index in range(2):
        scalars = []
        for step in (single, double):
            torch.manual_seed(index)  # where a penalty looks at points between images
            scalars.append(step(index))
        # float32 rounds to 6e-8; distances and roots of them lose a little more.
        assert scalars[1] == pytest.approx(scalars[0], rel=1e-3, abs=1e-5)
    assert all(p.dtype == torch.float64 for p in double.discriminator.parameters())


def test_a_loss_too_large_for_float32_is_finite_in_double_precision():
    single, double = (
        make_step(loss="least_squares", discriminator=Steep(), dtype=t)
        for t in (torch.float32, torch.float64)
    )
    real = double.batches.real(0).double().flatten(1).sum(dim=1)
    fake = double.generator.train()(double.batches.latents(0).double()).flatten(1).sum(dim=1)
    # Scores of 1e20 times a sum; labels 1 and 0 are nothing beside them.
    expected = 1e40 * (real.square().mean() + fake.square().mean()) / 2
    assert single(0)["loss/d"] == math.inf
    assert double(0)["loss/d"] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_and_goes_on_from_its_state(name):
    settings = dict(
        loss=name,
        clips=(None, 5.0),
        schedulers=(
            lambda o: make_scheduler("linear_decay", o, n_updates=8),
            lambda o: make_scheduler("StepLR", o, n_updates=8, step_size=2),
        ),
    )
    whole = make_step(**settings)
    expected = [whole(index) for index in range(4)]
    assert all(math.isfinite(value) for scalars in expected for value in scalars.values())
    first = make_step(**settings)
    for index in range(2):
        first(index)
    state = first.state_dict()
    second = make_step(**settings)
    second.load_state_dict(state)
    assert [second(index) for index in (2, 3)] == expected[2:]
    assert not moved(weights(whole.average.average), second.average.average)


def linear_critic(weight):
    """A critic whose gradient is its weight at every image."""
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), 1, bias=False))
    discriminator.get_parameter("1.weight").data[0] = torch.tensor(weight)
    return discriminator


@pytest.mark.parametrize("at", ["interpolated", "real", "fake"])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_gradient_penalty_of_a_linear_critic_by_hand(at, target, rng):
    critic = linear_critic([3.0, 4.0])
    images = torch.randn(5, 2, 1, 1, generator=rng)
    penalty = GradientPenalty(10.0, at=at, target=target)
    value = penalty(critic, images, images + 1, critic(images), critic(images + 1))
    assert value.item() == pytest.approx(10 * (5 - target) ** 2, rel=1e-5)
    value.backward()
    # d(10 (|w| - t)^2) / dw = 20 (|w| - t) w / |w|
    expected = 20 * (5 - target) * torch.tensor([[3.0, 4.0]]) / 5
    torch.testing.assert_close(critic[1].weight.grad, expected)


def test_a_witness_penalty_is_that_of_the_mean_kernels(rng):
    # One real score r, one fake one f: the witness at s is k(s, r) - k(s, f), its slope known.
    critic = linear_critic([2.0])
    real, fake = torch.tensor([[[[0.3]]]]), torch.tensor([[[[0.9]]]])
    r, f = critic(real), critic(fake)
    kernel = GaussianKernel()
    value = GradientPenalty(1.0, kernel, at="real")(critic, real, fake, r, f)
    gap = 2 * (0.9 - 0.3)
    slope = 2 * abs(-gap * math.exp(-(gap**2) / 2))  # by the scores, times ds/dx = 2
    assert value.item() == pytest.approx((slope - 1) ** 2, rel=1e-5)


def test_a_vanishing_gradient_has_a_penalty_with_a_finite_slope(rng):
    critic = linear_critic([0.0, 0.0])
    images = torch.randn(3, 2, 1, 1, generator=rng)
    value = GradientPenalty(1.0)(critic, images, images, critic(images), critic(images))
    value.backward()
    assert value.item() == pytest.approx(1, rel=1e-5)
    assert critic[1].weight.grad.isfinite().all()


def test_gradient_scaling_of_a_linear_critic_by_hand(rng):
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    discriminator[1].weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    images = torch.randn(5, 2, 1, 1, generator=rng)
    scaling = GradientScaling(0.1, offset=1.0)
    squared = scaling.squared_jacobian(discriminator, images, images)
    assert squared.item() == pytest.approx(30)  # 1 + 4 + 9 + 16
    assert scaling.scaled(torch.tensor(9.0), squared).item() == pytest.approx(8 / 4)


def test_the_step_adds_the_penalty_to_the_loss():
    plain = make_step(loss=HingeLoss())(0)["loss/d"]
    step = make_step(loss=HingeLoss(parts=Parts(penalty=GradientPenalty(10.0, target=0.0))))
    weight = step.discriminator.linear.weight.detach().mean(dim=0)
    expected = plain + 10 * weight.square().sum().item()
    assert step(0)["loss/d"] == pytest.approx(expected, rel=1e-5)


def test_the_step_scales_the_loss():
    plain = make_step(loss="rmb")(0)["loss/d"]
    step = make_step(loss="rmb_ds")
    squared = step.discriminator.linear.weight.detach().square().sum().item()
    assert step(0)["loss/d"] == pytest.approx(plain / (0.1 * squared + 1), rel=1e-5)


def test_a_clipped_critic_stays_in_its_bounds():
    loss = WassersteinLoss(parts=Parts(clipping=WeightClipping(0.02)))
    step = make_step(loss=loss)
    step(0)
    assert step.discriminator.linear.weight.abs().max() <= 0.02


def test_image_noise_falls_to_nothing():
    noise = ImageNoise(0.5, updates=4)
    assert [noise.std_at(index) for index in (0, 1, 2, 4, 9)] == [0.5, 0.375, 0.25, 0, 0]
    assert ImageNoise(0.5).std_at(10**6) == 0.5
    images = torch.zeros(10_000)
    # 10,000 draws: the standard deviation is within 5 standard errors.
    assert noise.add(images, 2).std().item() == pytest.approx(0.25, abs=5 * 0.25 / 2e4**0.5)
    assert noise.add(images, 4) is images


def test_the_discriminator_sees_noisy_images():
    quiet = make_step(loss=HingeLoss())(0)["loss/d"]
    noisy = make_step(loss=HingeLoss(parts=Parts(noise=ImageNoise(0.5, 4))))
    assert noisy(0)["loss/d"] != quiet
    assert noisy.loss.parts.noise.std_at(4) == 0


@pytest.mark.parametrize("name", "gd")
def test_a_gradient_longer_than_the_limit_is_scaled_down_to_it(name):
    free = make_step(gradients=True)
    norm = free(0)[f"gradient/{name}"]
    rate = 0.5
    step = make_step(clips=[norm / 4 if name == role else None for role in "gd"], gradients=True)
    network = step.generator if name == "g" else step.discriminator
    optimizer = make_optimizer("SGD", network.parameters(), rate)
    setattr(step, name, replace(getattr(step, name), optimizer=optimizer))
    before = weights(network)
    assert step(0)[f"gradient/{name}"] == pytest.approx(norm, rel=1e-4)
    change = sum((a - b).square().sum() for a, b in zip(before, weights(network), strict=True))
    assert change.sqrt().item() == pytest.approx(rate * norm / 4, rel=1e-3)


def test_a_generous_limit_changes_nothing():
    assert [make_step(clips=(1e6, 1e6))(0)] == [make_step()(0)]


def test_options_that_only_look_change_nothing():
    plain, looking = make_step(), make_step(gradients=True, health=True)
    for index in range(3):
        expected, found = plain(index), looking(index)
        assert expected.items() <= found.items()
    assert {"gradient/g", "gradient/d", "kernel/real", "kernel/cross"} <= set(found)


def test_schedulers_move_with_the_updates_of_their_optimizer():
    step = make_step(
        n_critic=2,
        schedulers=(
            lambda o: make_scheduler("linear_decay", o, n_updates=4),
            lambda o: make_scheduler("linear_decay", o, n_updates=8),
        ),
    )
    for index in range(8):
        scalars = step(index)
        assert scalars["lr/d"] == pytest.approx(0.01 * (1 - index / 8))
        if index % 2:
            assert scalars["lr/g"] == pytest.approx(0.01 * (1 - (index // 2) / 4))


def test_the_discriminator_can_be_the_one_to_wait():
    step = make_step(d_every=2)
    before = weights(step.discriminator)
    assert "loss/d" not in step(0)
    assert not moved(before, step.discriminator)
    assert "loss/d" in step(1)
    assert moved(before, step.discriminator)


def test_the_generator_can_have_a_larger_batch_than_the_discriminator():
    step = make_step(n_critic=2, loss="hinge", g_latents=StepLatents(9, 15, takes(4)))
    step(0)
    assert step.discriminator.batches == [12]
    step.discriminator.batches.clear()
    step(1)
    assert step.discriminator.batches == [12, 6, 15]


def test_the_larger_batch_is_what_the_generators_loss_is_of():
    step = make_step(loss="hinge", g_latents=StepLatents(9, 15, takes(4)))
    frozen = torch.optim.SGD(step.discriminator.parameters(), 0.0)
    step.d = replace(step.d, optimizer=frozen)
    with torch.no_grad():
        expected = -step.discriminator(step.generator.train()(step.batches.g_latents(0))).mean()
    assert step(0)["loss/g"] == pytest.approx(expected.item(), rel=1e-4)


def test_left_out_updates_leave_the_discriminator_alone_and_are_counted():
    skipping = DynamicSkipping(2, seed=0)
    step = make_step(d_skipping=skipping)
    skipping.average = 1e9  # none that may be left out is made
    for index, count in enumerate((0, 0, 1, 2)):
        before = weights(step.discriminator), weights(step.generator)
        scalars = step(index)
        assert scalars["d_skipped"] == count
        assert ("loss/d" in scalars) == moved(before[0], step.discriminator) == (index < 2)
        assert moved(before[1], step.generator)


def test_skipping_follows_the_generators_loss_and_is_resumed():
    first, second = (make_step(d_skipping=DynamicSkipping(0, seed=0)) for _ in range(2))
    loss = first(0)["loss/g"]
    assert first.schedule.d_skipping.average == pytest.approx(0.01 * loss)
    second.load_state_dict(first.state_dict())
    assert second.schedule.d_skipping.average == first.schedule.d_skipping.average


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_skipping": DynamicSkipping(0, 0), "n_critic": 2}, "goes with n_critic 1 and d_every"),
        ({"clips": (0.0, None)}, "g_clip must be above 0"),
        ({"clips": (None, -1.0)}, "d_clip must be above 0"),
        ({"d_every": 2, "n_critic": 2}, "one of them 1; got 2 and 2"),
        ({"n_critic": 0}, "at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InvalidValueError, match=message):
        make_step(**changes)


# Dynamo looks at an attribute of its inputs that torch warns about, and catches that itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_networks_compute_the_same():
    def make(**changes):
        return make_step(discriminator=nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), **changes)

    # The backend of torch that traces forward and backward, and needs no compiler.
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    compiled = make(compile_backend="aot_eager")
    for index in range(3):
        assert compiled(index) == pytest.approx(plain(index), rel=1e-4)
    assert compiled.state_dict()["generator"].keys() == plain.state_dict()["generator"].keys()


class Conditional(nn.Module):
    """Scores of images and labels; remembers the labels."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12 + 3, 2, bias=False)
        self.labels = []

    def forward(self, images, onehot):
        self.labels.append(onehot)
        return self.linear(torch.cat([images.flatten(1), onehot], dim=1))


LABELS = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])]
WANTED = torch.eye(3)[torch.tensor([2, 2, 1, 1, 0, 0])]


def conditional_step(loss="latest"):
    latents = StepLatents(0, 6, takes(4))
    return make_step(
        loss=loss,
        generator=nn.Sequential(nn.Linear(4 + 3, 12), nn.Unflatten(1, (3, 2, 2))),
        discriminator=Conditional(),
        real=lambda index: (torch.ones(6, 3, 2, 2), LABELS),
        latents=lambda index: torch.cat([latents(index), WANTED], dim=1),
    )


def test_labels_go_with_their_images():
    step = conditional_step()
    step(0)
    both, real, fake = step.discriminator.labels
    assert torch.equal(both, torch.cat([LABELS, WANTED]))
    assert torch.equal(real, LABELS)
    assert torch.equal(fake, WANTED)


def test_a_penalty_knows_the_labels():
    step = conditional_step("wasserstein")
    assert math.isfinite(step(0)["loss/d"])
    assert torch.equal(step.discriminator.labels[1], LABELS)


def test_labels_that_are_not_one_hot_are_refused():
    step = conditional_step()
    unlabelled = replace(step.batches, real=lambda index: (torch.ones(6, 3, 2, 2), torch.zeros(6)))
    step.batches = unlabelled
    with pytest.raises(InvalidValueError, match=r"one-hot \(m, n_classes\); got shape \(6,\)"):
        step(0)


def test_a_discriminator_with_batch_statistics_scores_each_batch_alone():
    discriminator = nn.Sequential(Spread(), nn.BatchNorm1d(2))
    make_step(discriminator=discriminator)(0)
    assert discriminator[0].batches == [6, 6, 6, 6]


def test_what_was_frozen_stays_frozen():
    step = make_step()
    step.discriminator.linear.weight.requires_grad_(False)
    step.discriminator.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(RuntimeError, match="does not require grad"):
        step(0)  # nothing is left to train in this discriminator's scores
    step._update_generator(
        (step.batches.real(0), None), (step.generator(step.batches.latents(0)), None), 0
    )
    assert not step.discriminator.linear.weight.requires_grad
    assert step.discriminator.extra.requires_grad


def test_distillation_brings_the_student_to_its_teacher():
    torch.manual_seed(0)
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    kept = weights(teacher)
    optimizer = torch.optim.Adam(student.parameters(), 0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    step = DistillationStep(
        student,
        teacher,
        optimizer=optimizer,
        scheduler=scheduler,
        latents=StepLatents(0, 16, takes(4)),
    )
    losses = [step(index)["loss/distillation"] for index in range(300)]
    assert losses[-1] < losses[0] / 100
    assert not moved(kept, teacher)


def test_distillation_leaves_batch_statistics_alone():
    student = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    step = DistillationStep(
        student,
        nn.Linear(4, 3),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
        latents=StepLatents(0, 16, takes(4)),
    )
    step(0)
    assert student.get_buffer("1.running_mean").tolist() == [0, 0, 0]
