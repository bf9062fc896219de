from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas_gan.data.images import ArrayImages
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.metrics.frechet import statistics_of
from nas_gan.metrics.reference import (
    dense_images,
    find_reference,
    load_statistics,
    save_statistics,
    statistics_name,
    statistics_of_images,
)
from nas_gan.metrics.sampling import extract_features
from nas_gan.networks.latents import latent_bank

STATISTICS = statistics_of(np.random.default_rng(0).standard_normal((50, 3)) * [1, 10, 100])


class MeanColour:
    name, dim, comparable = "mean-colour@4", 3, False

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return torch.as_tensor(images).float().mean(dim=(2, 3)).numpy()


class Wide(MeanColour):
    name, dim = "wide", 5


class ToyGenerator(nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z.view(-1, 3, 2, 2))


def shapes(n: int = 300) -> ArrayImages:
    rng = torch.Generator().manual_seed(n)
    return ArrayImages("noise", torch.randint(0, 256, (n, 3, 4, 4), generator=rng).byte())


def save(path: Path, **changes: str) -> None:
    origin = {"extractor": MeanColour.name, "dataset": "noise", "data_sha256": "ab", **changes}
    save_statistics(path, STATISTICS, resolution=4, **origin)


def test_packed_statistics_come_back(tmp_path: Path):
    save(tmp_path / "s.npz")
    back = load_statistics(tmp_path / "s.npz", MeanColour(), "ab")
    np.testing.assert_array_equal(back.mean, STATISTICS.mean)
    np.testing.assert_allclose(back.covariance, STATISTICS.covariance, rtol=1e-7)  # float32
    assert back.n == 50


def test_the_files_of_pytorch_fid_are_read(tmp_path: Path):
    np.savez(tmp_path / "s.npz", mu=STATISTICS.mean, sigma=STATISTICS.covariance)
    back = load_statistics(tmp_path / "s.npz", MeanColour())
    np.testing.assert_array_equal(back.covariance, STATISTICS.covariance)
    assert back.n is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an .npz file"),
        (b"PK\x03\x04 cut short", "not an .npz file"),
        ({"mu": np.zeros(3)}, "found mu"),
        ({"mu": np.zeros(3), "sigma": np.zeros((2, 2))}, "does not fit"),
        ({"mu": np.zeros(3), "sigma_triu": np.zeros(5)}, "do not fit each other"),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.nan)}, "NaN"),
        ({"mu": np.array([{}]), "sigma": np.zeros((1, 1))}, "holds Python objects"),
    ],
    ids=["empty", "truncated", "no sigma", "shapes", "packed shape", "NaN", "pickle"],
)
def test_a_file_without_usable_statistics_is_named(tmp_path: Path, content, message: str):
    path = tmp_path / "s.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(InvalidValueError, match=message) as error:
        load_statistics(path)
    assert str(path) in str(error.value)


def test_statistics_that_do_not_fit_name_both_sides(tmp_path: Path):
    save(tmp_path / "s.npz")
    with pytest.raises(InvalidValueError, match="3 features do not fit wide, which has 5"):
        load_statistics(tmp_path / "s.npz", Wide())
    save(tmp_path / "s.npz", extractor="mean-colour@8")
    with pytest.raises(InvalidValueError, match=r"mean-colour@8, but .* mean-colour@4"):
        load_statistics(tmp_path / "s.npz", MeanColour())
    with pytest.raises(MissingDataError, match="no such file"):
        load_statistics(tmp_path / "none.npz")


def test_the_file_name_says_what_it_is():
    name = statistics_name("fashion_mnist", 32, "efficientnet-lite0@96")
    assert name == "fashion_mnist_32_efficientnet-lite0-96.npz"


def test_a_named_file_comes_first(tmp_path: Path):
    save(tmp_path / "s.npz")
    file = str(tmp_path / "s.npz")
    found, source = find_reference(
        file, MeanColour(), dataset="noise", data_sha256=None, resolution=4, data=shapes
    )
    assert (found.n, source) == (50, file)


def test_data_on_disk_is_measured_once_and_cached(tmp_path: Path):
    first, second = MeanColour(), MeanColour()
    made, again = (
        find_reference(
            "auto", e, dataset="noise", data_sha256=None, resolution=4, data=shapes, cache=tmp_path
        )
        for e in (first, second)
    )
    assert made[1] == again[1] == "300 images of noise"
    assert (first.seen, second.seen) == (300, 0)
    np.testing.assert_allclose(made[0].covariance, again[0].covariance, rtol=1e-6)


def test_a_cache_of_other_data_is_made_again(tmp_path: Path):
    for n in (300, 200):
        found, _ = find_reference(
            "auto",
            MeanColour(),
            dataset="noise",
            data_sha256=None,
            resolution=4,
            data=partial(shapes, n),
            cache=tmp_path,
        )
        assert found.n == n


def test_nothing_to_compare_with_says_what_to_do():
    def absent() -> ArrayImages:
        raise MissingDataError("noise is not in /data")

    with pytest.raises(
        MissingDataError, match=r"^reference auto .*noise is not in /data; .* dense$"
    ):
        find_reference(
            "auto", MeanColour(), dataset="noise", data_sha256=None, resolution=4, data=absent
        )
    with pytest.raises(MissingDataError, match=r"^reference auto .*names no data set.* dense$"):
        find_reference("auto", MeanColour(), dataset=None, data_sha256=None, resolution=4)
    with pytest.raises(InvalidValueError, match="needs the dense generator"):
        find_reference("dense", MeanColour(), dataset=None, data_sha256=None, resolution=4)


def test_the_dense_reference_is_of_other_latents_than_the_measurement():
    toy: Any = ToyGenerator()
    toy.latent_dim = 12
    images = dense_images(toy, 500, seed=0)
    found, source = find_reference(
        "dense", MeanColour(), dataset=None, data_sha256=None, resolution=2, dense=lambda: images
    )
    own = statistics_of(extract_features(ToyGenerator(), latent_bank(500, 12, 0), MeanColour()))
    assert source == "500 images of the dense generator"
    assert found.n == 500
    assert not np.allclose(found.mean, own.mean, rtol=1e-4)
    np.testing.assert_allclose(found.mean, own.mean, atol=10)


def test_statistics_of_images_are_those_of_their_features():
    images = shapes(300)
    expected = statistics_of(MeanColour()(images.images))
    made = statistics_of_images(images, MeanColour())
    np.testing.assert_allclose(made.covariance, expected.covariance, rtol=1e-9)


class Clean(MeanColour):
    name = "mean-colour@4:clean"


def test_statistics_of_another_protocol_name_both(tmp_path: Path):
    save(tmp_path / "legacy.npz")
    with pytest.raises(InvalidValueError, match="legacy protocol, but the features follow clean"):
        load_statistics(tmp_path / "legacy.npz", Clean())
    save(tmp_path / "clean.npz", extractor=Clean.name)
    assert load_statistics(tmp_path / "clean.npz", Clean()).n == 50
    with pytest.raises(InvalidValueError, match="use protocol clean"):
        load_statistics(tmp_path / "clean.npz", MeanColour())


def test_a_file_that_names_no_protocol_is_taken_for_pytorch_fid_s(tmp_path: Path):
    np.savez(tmp_path / "s.npz", mu=STATISTICS.mean, sigma=STATISTICS.covariance)
    with pytest.raises(InvalidValueError, match="names none, as those of pytorch-fid"):
        load_statistics(tmp_path / "s.npz", Clean())


GOOD = {"mu": np.zeros(3), "sigma": np.diag([1.0, 2.0, 0.0]), "n": np.array(10)}


def test_a_covariance_of_lower_rank_is_one(tmp_path: Path):
    np.savez(tmp_path / "s.npz", allow_pickle=False, **GOOD)
    assert load_statistics(tmp_path / "s.npz").n == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]])}, "not symmetric"),
        ({"sigma": np.diag([1.0, -0.01, 1.0])}, "negative eigenvalue"),
        ({"sigma": -np.eye(3)}, "negative eigenvalue"),
        ({"sigma": np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]])}, "negative eigenvalue"),
        ({"sigma": np.eye(3, dtype=complex)}, "real numbers"),
        ({"mu": np.zeros(3, dtype=complex)}, "real numbers"),
        ({"mu": np.array(["a", "b", "c"])}, "real numbers"),
        ({"n": np.array(1)}, "at least 2 images"),
        ({"n": np.array(-5)}, "at least 2 images"),
        ({"n": np.array(2.5)}, "at least 2 images"),
        ({"n": np.array(True)}, "at least 2 images"),
        ({"n": np.array([3, 3])}, "at least 2 images"),
        ({"extractor": np.array(5)}, "extractor is not a text"),
    ],
)
def test_statistics_of_nothing_are_refused(tmp_path: Path, change, message: str):
    np.savez(tmp_path / "s.npz", **(GOOD | change))
    with pytest.raises(InvalidValueError, match=message) as error:
        load_statistics(tmp_path / "s.npz")
    assert str(tmp_path / "s.npz") in str(error.value)


def test_a_packed_triangle_is_compared_with_the_mean_before_it_is_unpacked(tmp_path: Path):
    np.savez(tmp_path / "s.npz", mu=np.zeros(1_000_000), sigma_triu=np.zeros(6))
    with pytest.raises(InvalidValueError, match="do not fit each other"):
        load_statistics(tmp_path / "s.npz")


class LiteFeatures(MeanColour):
    """Names itself after the features that statistics are shipped for."""

    name, dim = "efficientnet-lite0@96", 1280


def test_shipped_statistics_are_used_for_the_images_they_are_of_and_for_no_others() -> None:
    def found(data_sha256: str | None) -> str:
        _, source = find_reference(
            "auto", LiteFeatures(), dataset="fashion_mnist", data_sha256=data_sha256, resolution=32
        )
        return source

    shipped = "fashion_mnist_32_efficientnet-lite0-96.npz"
    own = str(np.load(str(resources.files("nas_gan.zoo") / shipped))["data_sha256"])
    assert found(own) == found(None) == f"shipped statistics {shipped}"
    # The same pictures padded, cropped or composited otherwise are another data set.
    with pytest.raises(MissingDataError, match="of other images than it was trained on"):
        found("0" * 64)
