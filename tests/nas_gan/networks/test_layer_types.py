import pytest
from torch import nn

from nas_gan.networks.layer_types import (
    LAYER_TYPES,
    Layer,
    convolution_type,
    is_plain,
    layer_type_of,
)


@pytest.mark.parametrize("known", LAYER_TYPES.values(), ids=LAYER_TYPES)
def test_every_type_is_found_by_its_layers(known):
    sizes = (4, 4) if known.n_axes == 0 else (4, 4, 3)
    layer = known.module(*sizes)
    assert isinstance(layer, Layer)
    assert layer_type_of(layer) == known
    assert is_plain(layer)
    assert layer.weight.ndim == 2 + known.n_axes
    assert hasattr(layer, "output_padding") == (known.n_axes > 0)
    if known.n_axes:
        assert layer.transposed == known.transposed
        assert convolution_type(known.n_axes, transposed=known.transposed) is known.module


class Wider(nn.Conv2d):
    """A subclass, which may compute something else."""


def test_a_subclass_has_the_type_and_is_not_plain():
    layer = Wider(4, 4, 3)
    assert layer_type_of(layer) is LAYER_TYPES["conv2d"]
    assert not is_plain(layer)


def test_other_modules_have_no_type():
    assert layer_type_of(nn.BatchNorm2d(4)) is None
    assert not is_plain(nn.Identity())
