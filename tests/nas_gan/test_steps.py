import pytest
import torch
from torch import nn

from nas_gan.averaging import ExponentialMovingAverage
from nas_gan.losses import make_loss
from nas_gan.steps import AdversarialStep, DistillationStep, StepLatents
from nas_gan.upper_bound import UpperBoundSchedule


class Spread(nn.Module):
    """Scores that depend on one weight; remembers what it was asked to score."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2, bias=False)
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        return self.linear(images.flatten(1))


def make_step(n_critic=1, **changes):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Unflatten(1, (3, 2, 2)))
    discriminator = Spread()
    real = torch.randn(100, 6, 3, 2, 2)
    settings = dict(
        g_optimizer=torch.optim.Adam(generator.parameters(), 0.01),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), 0.01),
        average=ExponentialMovingAverage(generator, 0.9),
        upper_bound=UpperBoundSchedule("geometric", end=16),
        real=lambda index: real[index],
        latents=StepLatents(0, 6, 4),
        updates_per_epoch=10,
        n_steps=8,
        n_critic=n_critic,
    )
    return AdversarialStep(generator, discriminator, make_loss("latest"), **settings | changes)


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def moved(before, module):
    return any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_latents_depend_on_seed_and_index_alone():
    torch.manual_seed(1)
    first = StepLatents(5, 3, 4)(7)
    torch.manual_seed(2)
    assert torch.equal(StepLatents(5, 3, 4)(7), first)
    others = [StepLatents(5, 3, 4)(8), StepLatents(6, 3, 4)(7), StepLatents(7, 3, 4)(5)]
    assert not any(torch.equal(first, other) for other in others)


def test_latents_are_standard_normal():
    z = StepLatents(0, 10_000, 10)(0)
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
        real, fake = step.real(0), step.generator(step.latents(0))
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


def test_distillation_brings_the_student_to_its_teacher():
    torch.manual_seed(0)
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    kept = weights(teacher)
    optimizer = torch.optim.Adam(student.parameters(), 0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    step = DistillationStep(
        student, teacher, optimizer=optimizer, scheduler=scheduler, latents=StepLatents(0, 16, 4)
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
        latents=StepLatents(0, 16, 4),
    )
    step(0)
    assert student[1].running_mean.tolist() == [0, 0, 0]
