from typing import Any

import numpy as np
import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.losses import KernelMMD
from nas_gan.pictures.particles import (
    CIRCLES,
    CLOUD,
    COMPARED,
    UNIT_KERNEL,
    circle_world,
    circle_worlds,
    loss_worlds,
    movement,
    scores_world,
)

LOSSES = {
    "attractive": KernelMMD(UNIT_KERNEL),
    "repulsive": KernelMMD(UNIT_KERNEL, cross_weight=0.0),
    "bounded": KernelMMD(UNIT_KERNEL, cross_weight=0.0, bounded=True),
    "mixed": KernelMMD(UNIT_KERNEL, cross_weight=0.5),
}


@pytest.fixture
def sets(rng):
    real, fake = torch.randn(2, 4, 2, generator=rng, dtype=torch.float64)
    return real, fake


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("judged", [True, False])
def test_both_parts_together_are_the_gradient_of_the_loss(loss, judged, sets):
    real, fake = (points.clone().requires_grad_() for points in sets)
    value = (loss.discriminator if judged else loss.generator)(real, fake)
    g_real, g_fake = torch.autograd.grad(value, (real, fake))
    if not judged:
        g_real = torch.zeros_like(g_real)  # the reals stay where they are
    pulls, pushes = movement(loss, *sets, judged=judged)
    torch.testing.assert_close(pulls + pushes, -torch.cat([g_real, g_fake]))


def test_the_parts_point_towards_and_away():
    # One pair on either side: reals at -1 and 1, generated ones between, at -0.1 and 0.1.
    real = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    fake = 0.1 * real
    pulls, pushes = movement(LOSSES["repulsive"], real, fake, judged=True)
    assert pushes[1, 0] > 0  # apart from the other real one
    assert pulls[3, 0] < 0  # towards the other generated one
    assert pulls[:2].abs().max() == pushes[2:].abs().max() == 0
    pulls, pushes = movement(LOSSES["repulsive"], real, fake, judged=False)
    assert pushes[3, 0] > 0  # now they spread
    pulls, pushes = movement(LOSSES["attractive"], real, fake, judged=True)
    assert pulls[1, 0] < 0  # the reals gather as well


def spread(points):
    return np.linalg.norm(points - points.mean(axis=0), axis=1).mean()


def test_an_attractive_discriminator_gathers_the_reals_and_a_repulsive_one_spreads_them():
    options: dict[str, Any] = dict(judged_steps=100, generator_steps=0, every=100)
    start, attracted = scores_world("mmd", **options)
    _, repelled = scores_world("rep", **options)
    assert spread(attracted.real) < spread(start.real) < spread(repelled.real)
    assert spread(repelled.fake) < spread(start.fake)


def test_bounds_leave_generated_particles_that_are_near_each_other_alone():
    start, end = scores_world("rmb", judged_steps=20, generator_steps=0, every=20)
    assert spread(start.fake) < 2 * CLOUD
    np.testing.assert_array_equal(start.fake, end.fake)
    assert spread(end.real) > spread(start.real)


def test_the_generator_moves_its_own_particles_alone():
    frames = scores_world("rep", judged_steps=10, generator_steps=10, every=5)
    assert [frame.step for frame in frames] == [0, 5, 10, 15, 20]
    assert [frame.judged for frame in frames] == [True, True, False, False, False]
    np.testing.assert_array_equal(frames[2].real, frames[-1].real)
    assert not np.array_equal(frames[2].fake, frames[-1].fake)


def test_generated_particles_reach_a_near_circle_and_not_a_far_one():
    near, far = (circle_world(radius, steps=150, every=150)[-1].fake for radius in (2.0, 20.0))
    assert abs(np.linalg.norm(near, axis=1).mean() - 2) < 1
    assert np.linalg.norm(far, axis=1).max() < 10


def test_a_growing_circle_grows_evenly_to_its_end():
    frames = circle_world(2.0, 8.0, steps=4, every=2)
    radii = [np.linalg.norm(frame.real, axis=1) for frame in frames]
    np.testing.assert_allclose(radii, np.repeat([[2.0], [5.0], [8.0]], 10, axis=1))


def test_the_seed_decides_where_particles_start():
    first, same, other = (
        scores_world("rep", judged_steps=0, generator_steps=0, seed=seed)[0].real
        for seed in (1, 1, 2**32 + 1)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_loss_without_parts_and_a_circle_without_size_are_refused():
    with pytest.raises(InvalidValueError, match="choose mmd, mgb, rep or rmb"):
        scores_world("hinge")
    with pytest.raises(InvalidValueError, match="radii above 0"):
        circle_world(0.0)


def test_compared_worlds_start_alike_and_have_equally_many_frames():
    worlds = loss_worlds(3, seed=1)
    assert list(worlds) == list(COMPARED)
    assert {len(world) for world in worlds.values()} == {7}  # one before each of 2 * 3, one after
    starts = [world[0] for world in worlds.values()]
    assert all((start.fake == starts[0].fake).all() for start in starts)


def test_circles_have_the_radii_that_they_are_named_after():
    worlds = circle_worlds(2)
    for title, (start, end) in CIRCLES.items():
        radii = [np.linalg.norm(frame.real, axis=1) for frame in worlds[title]]
        np.testing.assert_allclose(radii[0], start)
        np.testing.assert_allclose(radii[-1], end or start)
