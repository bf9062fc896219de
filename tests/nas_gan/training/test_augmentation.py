import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.training.augmentation import Augmentation, cut_out, recoloured, translated
from nas_gan.training.config import TrainConfig

ALL = ("color", "translation", "cutout")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def numbered(n=64, height=16, width=8):
    """Images whose pixels are all different, from 1 on."""
    pixels = torch.arange(1.0, 1 + height * width).view(1, 1, height, width)
    return pixels.expand(n, 3, -1, -1)


def test_a_translation_moves_each_image_by_an_eighth_at_most_and_fills_with_zeros():
    images = numbered()
    shifts = set()
    for moved, image in zip(translated(images), images, strict=True):
        [(y, x)] = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-1, 2)
            if torch.equal(moved, _shift(image, y, x))
        ]
        shifts.add((y, x))
    assert {y for y, _ in shifts} == {-2, -1, 0, 1, 2}
    assert {x for _, x in shifts} == {-1, 0, 1}


def _shift(image, y, x):
    out = torch.zeros_like(image)
    _, height, width = image.shape
    rows = slice(max(0, y), min(height, height + y)), slice(max(0, -y), min(height, height - y))
    columns = slice(max(0, x), min(width, width + x)), slice(max(0, -x), min(width, width - x))
    out[:, rows[0], columns[0]] = image[:, rows[1], columns[1]]
    return out


def test_a_hole_is_half_a_side_and_anywhere():
    holes = cut_out(torch.ones(500, 3, 16, 8))[:, 0] == 0
    rows, columns = holes.any(dim=2).sum(dim=1), holes.any(dim=1).sum(dim=1)
    assert (int(rows.max()), int(columns.max())) == (8, 4)
    assert torch.equal(holes.sum(dim=(1, 2)), rows * columns)  # a rectangle
    assert holes.any(dim=0).all()
    assert rows.min() < 8  # at the border some of it is outside


def test_colours_keep_what_they_should():
    grey = torch.full((200, 3, 4, 4), 0.25)
    seen = recoloured(grey)
    # A flat grey image only has its brightness changed, by at most a half.
    torch.testing.assert_close(seen, seen[:, :1, :1, :1].expand_as(seen))
    change = seen[:, 0, 0, 0] - 0.25
    assert -0.5 <= change.min() < -0.4
    assert 0.4 < change.max() <= 0.5
    # Deviations from the mean of an image grow by 2 * 1.5 at most, and their order stays.
    images = torch.rand(200, 3, 4, 4)
    deviation = (recoloured(images) - recoloured(images).mean()).abs().amax()
    assert deviation < 0.5 + 3


def test_the_gradient_goes_through_every_change():
    images = torch.rand(8, 3, 16, 16, requires_grad=True)
    Augmentation(ALL)(images).square().sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).any(dim=(1, 2, 3)).all()


def test_changes_are_drawn_from_the_global_generator_alone():
    images = torch.rand(8, 3, 16, 16)
    state = torch.get_rng_state()
    first = Augmentation(ALL)(images)
    assert not torch.equal(first, Augmentation(ALL)(images))
    torch.set_rng_state(state)
    assert torch.equal(first, Augmentation(ALL)(images))
    assert Augmentation(())(images) is images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("colour",), "change of diffaugment 'colour' is not known; did you mean color"),
        (("color", "color"), "^diffaugment names a change twice"),
        (("color,cut",), "'cut' is not known; did you mean cutout"),
    ],
)
def test_a_change_that_is_none_is_refused(changes, message):
    with pytest.raises(InvalidValueError, match=message):
        TrainConfig(diffaugment=changes)


def test_changes_are_written_with_commas_or_as_a_list():
    assert TrainConfig(diffaugment=("color,translation,cutout",)).diffaugment == ALL
