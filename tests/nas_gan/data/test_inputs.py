"""Inputs of networks that take images: where they come from, and their disjoint parts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nas_gan_inputs import pictures
from PIL import Image

from nas_gan.data.inputs import PARTS, open_inputs
from nas_gan.errors import InvalidValueError, MissingDataError


def write(folder: Path, n: int, size: tuple[int, int] = (6, 4), suffix: str = ".png") -> None:
    rng = np.random.default_rng(n)
    folder.mkdir(exist_ok=True)
    for i in range(n):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}-{i}{suffix}")


def test_every_input_is_in_one_part() -> None:
    inputs = pictures(1, 2, 2, n=20)
    rows = {part: inputs.take(20, 0, part) for part in PARTS}
    assert sum(len(taken) for taken in rows.values()) == 20
    assert all(len(rows[part]) == inputs.count(part) for part in PARTS)
    every = torch.cat(list(rows.values())).flatten(1)
    assert len(torch.unique(every, dim=0)) == 20


def test_another_seed_is_another_order_of_the_same_part() -> None:
    inputs = pictures(1, 4, 4, n=60)
    first, second = (inputs.take(20, seed, "search").flatten(1) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(torch.unique(first, dim=0), torch.unique(second, dim=0))


def test_training_draws_from_the_part_of_the_search_alone() -> None:
    inputs = pictures(1, 4, 4, n=30)
    allowed = {tuple(row.flatten().tolist()) for row in inputs.take(30, 0, "search")}
    drawn = inputs.draw(100, np.random.default_rng(0))
    assert {tuple(row.flatten().tolist()) for row in drawn} == allowed


def test_too_few_inputs_are_refused() -> None:
    assert pictures(1, 2, 2, n=6).count("reference") == 2
    with pytest.raises(InvalidValueError, match="5 inputs; 6 are the least"):
        pictures(1, 2, 2, n=5)


def test_copying_a_network_does_not_copy_its_inputs() -> None:
    inputs = pictures(1, 2, 2)
    assert copy.deepcopy({"inputs": inputs})["inputs"] is inputs


def test_images_of_a_folder_are_bytes_of_their_own_size(tmp_path: Path) -> None:
    write(tmp_path, 6)
    inputs = open_inputs(tmp_path, channels=3, size=None)
    assert inputs.shape == (3, 6, 4)
    assert not inputs.as_they_are
    stored = {Image.open(file).tobytes() for file in tmp_path.iterdir()}
    taken = [row for part in PARTS for row in inputs.take(9, 0, part)]
    assert {row.permute(1, 2, 0).numpy().tobytes() for row in taken} == stored


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    write(tmp_path, 6)
    write(tmp_path, 4, (8, 8))
    with pytest.raises(InvalidValueError, match="2 sizes \\(6 of 6x4, 4 of 8x8\\)") as caught:
        open_inputs(tmp_path, channels=3, size=None)
    assert caught.value.setting == "input_size"
    assert open_inputs(tmp_path, channels=1, size=(4, 12)).shape == (1, 4, 12)


def test_other_pixels_under_the_same_names_are_other_inputs(tmp_path: Path) -> None:
    write(tmp_path, 6, suffix=".bmp")
    before = open_inputs(tmp_path, channels=3, size=None)
    [first, *_] = sorted(tmp_path.iterdir())
    Image.new("RGB", (4, 6), "red").save(first)
    assert open_inputs(tmp_path, channels=3, size=None) != before


@pytest.mark.parametrize(
    ("array", "shape", "as_they_are"),
    [
        (np.zeros((6, 5, 7, 3), np.uint8), (3, 5, 7), False),
        (np.zeros((6, 1, 5, 7), np.uint8), (1, 5, 7), False),
        (np.zeros((6, 3, 5, 7), np.float64), (3, 5, 7), True),
        (np.zeros((6, 512), np.float16), (512,), True),
    ],
)
def test_an_array_is_images_or_passed_as_it_is(
    tmp_path: Path, array: Any, shape: Any, as_they_are: bool
) -> None:
    np.save(tmp_path / "x.npy", array)
    inputs = open_inputs(tmp_path / "x.npy", channels=3, size=None)
    assert (inputs.shape, inputs.as_they_are) == (shape, as_they_are)
    assert inputs.take(1, 0, "search").dtype == (torch.float32 if as_they_are else torch.uint8)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(6, np.float32), r"an array \(n, ...\) is expected"),
        (np.zeros((6, 2), np.int64), "int64; bytes are images"),
        (np.full((6, 2), np.nan, np.float32), "a NaN or an infinity"),
        (np.zeros((6, 0), np.float32), "is expected, found"),
        (np.array([{}] * 6), "not an .npy file"),
    ],
)
def test_an_array_that_is_no_inputs_is_refused(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InvalidValueError, match=message):
        open_inputs(tmp_path / "x.npy", channels=3, size=None)


def test_what_is_no_folder_and_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"x")
    with pytest.raises(InvalidValueError, match=r"neither a folder of images nor an \.npy file"):
        open_inputs(tmp_path / "x.zip", channels=3, size=None)
    with pytest.raises(MissingDataError, match="no such folder or file"):
        open_inputs(tmp_path / "gone", channels=3, size=None)
