import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.pictures.interpolation import closed_walk, slerp


def test_between_two_axes_the_walk_is_on_the_circle():
    x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    third = slerp(x, y, 1 / 3)  # 30 degrees
    torch.testing.assert_close(third, torch.tensor([[3.0**0.5, 1.0]]))


def test_the_ends_are_the_latents_themselves(rng):
    a, b = torch.randn(2, 4, 16, generator=rng)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)


def test_latents_without_a_great_circle_are_joined_by_a_line():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])  # parallel, opposite, from nothing
    expected = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    found = slerp(a, b, 0.5)
    torch.testing.assert_close(found[:2], expected[:2])
    assert found.isfinite().all()


def test_a_closed_walk_meets_every_stop_in_turn_and_none_twice(rng):
    stops = torch.randn(3, 2, 8, generator=rng)
    walk = closed_walk(stops, 12)
    assert walk.shape == (12, 2, 8)
    torch.testing.assert_close(walk[::4], stops)
    assert not torch.allclose(walk[-1], walk[0])


@pytest.mark.parametrize(("stops", "frames"), [(1, 5), (4, 3)])
def test_too_few_stops_or_frames_are_refused(stops, frames):
    with pytest.raises(InvalidValueError, match="at least"):
        closed_walk(torch.zeros(stops, 1, 2), frames)
