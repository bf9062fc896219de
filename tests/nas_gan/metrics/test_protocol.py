from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.protocol import (
    CLEAN,
    LEGACY,
    extractor_name,
    find_protocol,
    protocol_of,
    resize_antialiased,
    resize_bilinear,
)


@pytest.mark.parametrize("side", [20, 400], ids=["enlarged", "shrunk"])
def test_clean_resizes_as_pillow_does_on_floats(side: int):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    [ours] = resize_antialiased(torch.from_numpy(pixels).permute(2, 0, 1)[None], 299)
    for channel in range(3):
        image = Image.fromarray(pixels[:, :, channel].astype(np.float32))
        theirs = np.array(image.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
        np.testing.assert_allclose(ours[channel].numpy(), theirs, atol=1e-2)


def test_only_clean_removes_a_checkerboard_when_shrinking():
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    images = board.byte().expand(1, 3, 64, 64)
    # Every third pixel of the board is again a board; the mean of a neighbourhood is grey.
    assert resize_bilinear(images, 21).std() > 40
    assert resize_antialiased(images, 21).std() < 10


def test_legacy_drops_the_fraction_and_clean_rounds():
    halves = torch.tensor([-1.0, 0.0, 0.9999, 1.0])  # 0, 127.5, 254.99, 255
    assert LEGACY.quantize(halves).tolist() == [0, 127, 254, 255]
    assert CLEAN.quantize(halves).tolist() == [0, 128, 255, 255]


def test_the_protocol_is_part_of_a_feature_space_s_name():
    assert extractor_name("net@96", LEGACY) == "net@96"
    assert protocol_of("net@96") is LEGACY
    assert protocol_of(extractor_name("net@96", CLEAN)) is CLEAN


def test_an_unknown_protocol_offers_the_nearest():
    with pytest.raises(InvalidValueError, match="did you mean clean"):
        find_protocol("claen")


@pytest.mark.parametrize("protocol", [LEGACY, CLEAN])
def test_a_protocol_stays_itself_on_its_way_to_another_process(protocol):
    # What resizes images asks which of the two objects it has.
    assert pickle.loads(pickle.dumps(protocol)) is protocol
