"""References that are given by a path: statistics, features, or images in a folder or a file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tiny import PixelFeatures
from torch import Tensor

from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.metrics.frechet import statistics_of
from nas_gan.metrics.given_reference import features_of_images, open_given
from nas_gan.metrics.reference import find_reference, given_statistics

FEATURES = PixelFeatures()
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
EXPECTED = FEATURES(PIXELS.transpose(0, 3, 1, 2))


def as_folder(path: Path) -> Path:
    """Two folders of PNG files in the order of the images, and what belongs to no image."""
    for row, pixels in enumerate(PIXELS):
        folder = path / ("ähnlich" if row < 10 else "öl z")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{row:03}.png")
    (path / "notes.txt").write_text("none of these")
    return path


def as_link_to_folder(path: Path) -> Path:
    link = path.with_name("link")
    link.symlink_to(as_folder(path), target_is_directory=True)
    return link


def as_images(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), images=PIXELS)
    return path.with_suffix(".npz")


def as_link_to_images(path: Path) -> Path:
    link = path.with_name("link.npz")
    link.symlink_to(as_images(path))
    return link


def as_features(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), features=EXPECTED)
    return path.with_suffix(".npz")


def as_statistics(path: Path) -> Path:
    known = statistics_of(EXPECTED)
    np.savez(path.with_suffix(".npz"), mu=known.mean, sigma=known.covariance)
    return path.with_suffix(".npz")


Write = Callable[[Path], Path]
OF_IMAGES = [as_folder, as_link_to_folder, as_images, as_link_to_images]


@pytest.mark.parametrize("write", [*OF_IMAGES, as_features, as_statistics])
def test_the_same_images_are_the_same_reference_however_they_are_given(
    write: Write, tmp_path: Path
) -> None:
    statistics, source = given_statistics(open_given(str(write(tmp_path / "ödd földer"))), FEATURES)
    known = statistics_of(EXPECTED)
    np.testing.assert_allclose(statistics.mean, known.mean, rtol=1e-6)
    np.testing.assert_allclose(statistics.covariance, known.covariance, rtol=1e-5, atol=1e-3)
    if write is not as_statistics:
        assert statistics.n == 20
        assert "20 images" in source


@pytest.mark.parametrize("write", OF_IMAGES)
def test_a_random_subset_is_the_same_in_every_run(write: Write, tmp_path: Path) -> None:
    given = open_given(str(write(tmp_path / "images")))
    once, again = (np.concatenate(list(features_of_images(given, FEATURES, most=7))) for _ in "ab")
    assert once.shape == (7, 16)
    np.testing.assert_array_equal(once, again)
    rows = [int(np.abs(EXPECTED - row).sum(axis=1).argmin()) for row in once]
    assert rows == sorted(set(rows))
    assert rows != list(range(7))  # a folder of classes, one after the other, is not cut off


def test_images_are_looked_at_once_for_all_runs_until_they_change(tmp_path: Path) -> None:
    class Counting(PixelFeatures):
        seen = 0

        def __call__(self, images: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            self.seen += len(images)
            return super().__call__(images)

    folder, cache = as_folder(tmp_path / "images"), tmp_path / "cache"
    counting = Counting()

    def found() -> npt.NDArray[np.float64]:
        return find_reference(
            str(folder),
            counting,
            dataset=None,
            data_sha256=None,
            resolution=8,
            cache=cache,
        )[0].mean

    first = found()
    np.testing.assert_array_equal(found(), first)
    assert counting.seen == 20
    before = open_given(str(folder)).digest
    changed = folder / "öl z" / "015.png"
    stat = changed.stat()
    Image.fromarray(255 - PIXELS[15]).save(changed)
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_given(str(folder)).digest != before
    assert np.abs(found() - first).max() > 0
    assert counting.seen == 40


def test_a_file_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = as_folder(tmp_path / "images")
    broken = folder / "öl z" / "019.png"
    broken.write_bytes(broken.read_bytes()[:60])
    statistics, source = given_statistics(open_given(str(folder)), FEATURES)
    assert (statistics.n, source.split()[0]) == (19, "19")
    assert "1 of 20 images" in caplog.text
    assert "019.png" in caplog.text


def archive(path: Path) -> Path:
    """Images as one file: of a kind that is an `.npz` file but for what is in it."""
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as packed:
        packed.write(one_image(path) / "only.png")
    return path.with_suffix(".zip")


def damaged(path: Path) -> Path:
    whole = as_images(path)
    whole.write_bytes(whole.read_bytes()[:-100])
    return whole


def words(path: Path) -> Path:
    path.write_text("no archive")
    return path


def empty_folder(path: Path) -> Path:
    path.mkdir()
    return path


def one_image(path: Path) -> Path:
    path.mkdir()
    Image.fromarray(PIXELS[0]).save(path / "only.png")
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def floats(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), images=PIXELS / 255)
    return path.with_suffix(".npz")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (archive, "unpack an archive"),
        (damaged, "not an .npz file"),
        (words, "unpack an archive"),
        (empty_folder, "files below"),
        (one_image, "two or more"),
        (pipe, "a folder of images"),
        (floats, "uint8"),
    ],
)
def test_what_is_no_reference_is_refused_in_a_line_that_says_what_is(
    write: Write, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "given")
    with pytest.raises((InvalidValueError, MissingDataError), match=message) as error:
        given_statistics(open_given(str(path)), FEATURES)
    assert path.stem in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_at_the_path_says_what_could_be_there(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no such file or folder; give a folder of images"):
        given_statistics(open_given(str(tmp_path / "nowhere")), FEATURES)
