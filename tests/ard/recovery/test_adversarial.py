from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from tiny import takes
from torch import Tensor, nn

from ard.recovery.adversarial import KERNEL_SHARE, FineTuning, fine_tune
from nas_gan.errors import InvalidValueError
from nas_gan.training.draws import Batch, StepLatents

QUICK = FineTuning(n_steps=8, batch_size=6, lr=5e-3, n_checks=4)
PROBE = StepLatents(99, 16, takes(4))(0)


class Painter(nn.Module):
    """`(n, 4 + n_classes)` latents to `(n, 3, 4, 4)` images."""

    def __init__(self, n_classes: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4 + n_classes, 16), nn.ReLU(), nn.Linear(16, 48))
        fill_(self)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layers(z)).view(-1, 3, 4, 4)


class Judge(nn.Module):
    """Images, and their one-hot labels where there are any, to `(n, 4)` scores."""

    def __init__(self, n_classes: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(48 + n_classes, 4)
        fill_(self)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        flat = x.flatten(1)
        return self.linear(flat if labels is None else torch.cat([flat, labels], dim=1))


def fill_(net: nn.Module) -> None:
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=rng))
    net.eval().requires_grad_(False)


def real(index: int) -> Tensor:
    rng = torch.Generator().manual_seed(index)
    return torch.randn(6, 3, 4, 4, generator=rng).tanh()


def draws(settings: FineTuning, n_classes: int = 0) -> StepLatents:
    return StepLatents(settings.seed, settings.batch_size, takes(4, n_classes))


def brightness(network: nn.Module) -> float:
    with torch.no_grad():
        return float(network(PROBE).mean())


def fine_tuned(
    student: nn.Module, judge: nn.Module, settings: FineTuning = QUICK, sign: float = 1.0
) -> nn.Module:
    return fine_tune(
        student,
        judge,
        settings,
        real=real,
        latents=draws(settings),
        score=lambda network: sign * brightness(network),
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_result_never_scores_worse_than_the_start_whatever_the_score() -> None:
    start = Painter()
    ends = [brightness(fine_tuned(start, Judge(), sign=sign)) for sign in (1.0, -1.0)]
    # Whichever way training went, it was kept by one score and undone by the other.
    assert ends[0] <= brightness(start) <= ends[1]
    assert ends[0] < ends[1]


def test_a_score_that_only_training_hurts_keeps_the_start() -> None:
    start = Painter()
    distance = lambda net: sum(  # noqa: E731
        float((a - b).abs().sum())
        for a, b in zip(net.parameters(), start.parameters(), strict=True)
    )
    new = fine_tune(start, Judge(), QUICK, real=real, latents=draws(QUICK), score=distance)
    assert same(new, start)
    assert new is not start


def test_student_and_discriminator_keep_their_weights_and_modes() -> None:
    student, judge = Painter(), Judge()
    before = copy.deepcopy(student), copy.deepcopy(judge)
    new = fine_tuned(student, judge, sign=-1.0 if brightness(student) > 0 else 1.0)
    assert same(student, before[0])
    assert same(judge, before[1])
    assert not student.training
    assert not judge.training
    assert not any(p.requires_grad for net in (student, judge) for p in net.parameters())
    assert not any(p.requires_grad for p in new.parameters())
    assert not new.training


def test_without_updates_the_result_is_an_equal_copy() -> None:
    student = Painter()
    new = fine_tuned(student, Judge(), FineTuning(n_steps=0))
    assert new is not student
    assert same(new, student)


def test_progress_and_checks_cover_every_update() -> None:
    told: list[int] = []
    scores: list[float] = []

    def score(network: nn.Module) -> float:
        scores.append(brightness(network))
        return scores[-1]

    fine_tune(
        Painter(),
        Judge(),
        QUICK,
        real=real,
        latents=draws(QUICK),
        score=score,
        on_update=told.append,
    )
    assert told == [1] * QUICK.n_steps
    assert len(scores) == 1 + QUICK.n_checks  # the start, and each check


def test_kernels_learn_at_a_tenth_of_the_rate_of_biases() -> None:
    # The first step of Adam is as long as the rate, whatever the gradient.
    start = Painter()

    def moved(network: nn.Module) -> dict[bool, float]:
        longest = {True: 0.0, False: 0.0}
        for new, old in zip(network.parameters(), start.parameters(), strict=True):
            distance = float((new - old).abs().max())
            longest[old.ndim < 2] = max(longest[old.ndim < 2], distance)
        return longest

    new = fine_tune(
        start,
        Judge(),
        FineTuning(1, 6, lr=1e-2, n_checks=1),
        real=real,
        latents=draws(FineTuning(1, 6)),
        score=lambda network: -sum(moved(network).values()),
    )
    assert moved(new)[True] == pytest.approx(moved(new)[False] / KERNEL_SHARE, rel=0.01)
    assert moved(new)[True] > 0


def test_the_loss_is_chosen_by_its_name() -> None:
    def away(network: nn.Module) -> float:
        pairs = zip(network.parameters(), Painter().parameters(), strict=True)
        return -sum(float((new - old).abs().sum()) for new, old in pairs)

    def run(loss: str) -> nn.Module:
        settings = replace(QUICK, loss=loss)
        return fine_tune(
            Painter(), Judge(), settings, real=real, latents=draws(settings), score=away
        )

    assert not same(run("hinge"), run("least_squares"))
    with pytest.raises(InvalidValueError, match="did you mean 'hinge'"):
        run("hinges")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    def run(seed: int) -> nn.Module:
        return fine_tuned(Painter(), Judge(), FineTuning(4, 6, 5e-3, n_checks=4, seed=seed))

    assert same(run(3), run(3))
    # One of two scores, opposite to one another, keeps what training did.
    assert not all(
        same(a, b)
        for a, b in (
            (run(3), run(4)),
            tuple(
                fine_tuned(Painter(), Judge(), FineTuning(4, 6, 5e-3, seed=s), -1.0) for s in (3, 4)
            ),
        )
    )


def test_a_run_that_diverges_ends_with_a_finite_net() -> None:
    new = fine_tuned(Painter(), Judge(), FineTuning(6, 6, lr=1e30, n_checks=6))
    assert math.isfinite(brightness(new))
    assert brightness(new) <= brightness(Painter())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_conditional_generator_is_judged_with_its_labels(n_classes: int) -> None:
    student, judge = Painter(n_classes), Judge(n_classes)
    labelled = StepLatents(5, 6, takes(4, n_classes))
    asked: list[int] = []

    def pairs(index: int) -> Batch:
        asked.append(index)
        return real(index), labelled(index)[:, -n_classes:]

    def score(network: nn.Module) -> float:
        with torch.no_grad():
            return -float((network(labelled(77)) - student(labelled(77))).abs().mean())

    new = fine_tune(student, judge, QUICK, real=pairs, latents=draws(QUICK, n_classes), score=score)
    assert asked == list(range(QUICK.n_steps))
    assert not same(new, student)
