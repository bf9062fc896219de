from __future__ import annotations

import pytest
import torch
from torch import nn

from ard.errors import LatencyError
from ard.layers import profile_layers
from ard.signature import (
    LayerSignature,
    join_signatures,
    signature_of,
    split_signatures,
)

# A layer, the shape of its input for one image, and the signature of the two.
LAYERS = [
    (nn.Conv2d(8, 16, 3, padding=1), (8, 6, 7), "conv2d 16x8x3x3 in=6x7 padding=1x1 bias"),
    (nn.Conv2d(8, 16, (3, 1), bias=False), (8, 6, 7), "conv2d 16x8x3x1 in=6x7"),
    (
        nn.Conv2d(8, 8, 3, stride=2, dilation=2, groups=4, padding="valid", padding_mode="reflect"),
        (8, 9, 9),
        "conv2d 8x2x3x3 in=9x9 stride=2x2 padding=valid dilation=2x2 groups=4 "
        "padding_mode=reflect bias",
    ),
    (
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, output_padding=1, groups=2),
        (8, 5, 5),
        "conv_transpose2d 8x3x4x4 in=5x5 stride=2x2 padding=1x1 output_padding=1x1 groups=2 bias",
    ),
    (nn.Conv1d(4, 4, 5, padding=2), (4, 9), "conv1d 4x4x5 in=9 padding=2 bias"),
    (nn.Conv3d(4, 2, 1), (4, 2, 3, 4), "conv3d 2x4x1x1x1 in=2x3x4 bias"),
    (nn.Linear(40, 64), (40,), "linear 64x40 bias"),
    (nn.Linear(8, 4, bias=False), (3, 5, 8), "linear 4x8 in=15"),
]
IDS = [text.split(" in=")[0] for _, _, text in LAYERS]


@pytest.mark.parametrize(("layer", "shape", "text"), LAYERS, ids=IDS)
def test_a_signature_says_what_decides_the_speed_and_can_be_read_back(
    layer: nn.Module, shape: tuple[int, ...], text: str
) -> None:
    signature = signature_of(layer, shape)
    assert str(signature) == text
    assert LayerSignature.parse(text) == signature


@pytest.mark.parametrize(("layer", "shape", "text"), LAYERS, ids=IDS)
def test_the_layer_built_from_a_signature_has_it_and_works_on_the_same_sizes(
    layer: nn.Module, shape: tuple[int, ...], text: str
) -> None:
    signature = LayerSignature.parse(text)
    built = signature.build()
    assert signature_of(built, signature.input_shape) == signature
    assert [p.shape for p in built.parameters()] == [p.shape for p in layer.parameters()]
    outputs = [m(torch.ones(2, *s)) for m, s in ((layer, shape), (built, signature.input_shape))]
    assert outputs[0].numel() == outputs[1].numel()
    assert outputs[1].isfinite().all()


def test_the_name_of_a_layer_and_its_weights_do_not_matter() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding="same")
    )
    first, second = profile_layers(net, torch.ones(2, 8, 4, 4)).layers
    assert first.signatures == ("conv2d 8x8x3x3 in=4x4 padding=1x1 bias",)
    assert second.signatures == ("conv2d 8x8x3x3 in=4x4 padding=same bias",)


def test_a_layer_that_runs_twice_has_a_signature_for_each_call() -> None:
    conv = nn.Conv2d(8, 8, 1)
    net = nn.Sequential(conv, nn.Upsample(scale_factor=2), conv)
    [layer] = profile_layers(net, torch.ones(2, 8, 4, 4)).layers
    assert layer.signatures == ("conv2d 8x8x1x1 in=4x4 bias", "conv2d 8x8x1x1 in=8x8 bias")
    assert split_signatures(join_signatures(layer.signatures)) == layer.signatures


@pytest.mark.parametrize(
    "text",
    [
        "",
        "conv2d",
        "lstm 8x8",
        "conv2d 8x8 in=4x4",
        "conv2d 8x8x3x3 in=4 bias",
        "conv2d 8xx3",
        "linear 8x8 in=reflect",
        "conv2d 8x8x1x1 speed=9",
    ],
)
def test_text_that_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(LatencyError, match="not the signature of a layer"):
        LayerSignature.parse(text)


def test_a_layer_that_torch_does_not_have_is_refused_when_it_is_built() -> None:
    with pytest.raises(LatencyError, match="no layer has the signature conv2d 8x3x3x3"):
        LayerSignature.parse("conv2d 8x3x3x3 in=4x4 groups=3").build()


def test_only_convolutions_and_linear_layers_have_one() -> None:
    with pytest.raises(LatencyError, match="a BatchNorm2d has no signature"):
        signature_of(nn.BatchNorm2d(4), (4, 8, 8))
