from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import EvaluatorContract
from tiny import PixelFeatures, lively_generator
from torch import Tensor

from ard.assembly.surgery import apply_plan
from ard.measuring.bank import DenseBank, Reference
from ard.measuring.evaluate import Candidate
from ard.measuring.kernel import KID, MMD, find_features
from ard.measuring.metric import Metric, MetricEvaluator, ReferenceRequest
from ard.measuring.metrics import METRICS, metric_named
from ard.plan import Factorization, RankPlan
from nas_gan.data.images import ArrayImages
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.metrics.sampling import extract_features
from nas_gan.networks.latents import latent_bank
from nas_gan.networks.searched import Generator

PLAN = RankPlan({"cell1.c0.ops.0.op.1": Factorization("tucker2", (2, 2))})


@pytest.fixture(scope="module")
def dense() -> Generator:
    return lively_generator()


@pytest.fixture
def candidate(dense: Generator) -> Candidate:
    return Candidate(lambda: apply_plan(dense, PLAN), PLAN)


def evaluator_of(metric: Metric, dense: Generator, seed: int = 1, n: int = 48) -> MetricEvaluator:
    features = PixelFeatures()
    reference = extract_features(dense, latent_bank(64, dense.latent_dim, 99), features)
    bank = DenseBank(
        dense,
        latent_bank(n, dense.latent_dim, seed),
        features,
        Reference("others", reference, dense=True),
        seed,
    )
    return metric.evaluator(bank, False)


class TestKid(EvaluatorContract):
    @pytest.fixture
    def evaluator(self, dense: Generator) -> MetricEvaluator:
        return evaluator_of(KID, dense)


class TestMmd(EvaluatorContract):
    @pytest.fixture
    def evaluator(self, dense: Generator) -> MetricEvaluator:
        return evaluator_of(MMD, dense)


@pytest.mark.parametrize("metric", [KID, MMD])
def test_a_score_says_which_metric_it_is_of(
    metric: Metric, dense: Generator, candidate: Candidate
) -> None:
    evaluate = evaluator_of(metric, dense)
    score = evaluate(candidate)
    assert (score.metric, score.n_images, score.features) == (metric.name, 48, "pixels")
    assert score.value == pytest.approx(evaluate.dense_value + score.rise)


def test_a_net_of_noise_is_worse_than_one_that_was_cut_a_little(dense: Generator) -> None:
    class Noise(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            rng = torch.Generator().manual_seed(0)
            return torch.rand(len(z), 3, 32, 32, generator=rng) * 2 - 1

    for metric in (KID, MMD):
        evaluate = evaluator_of(metric, dense)
        cut = evaluate(Candidate.finished(apply_plan(dense, PLAN)))
        noise = evaluate(Candidate.finished(Noise()))
        assert noise.ci_low > cut.ci_high


# -- what they are compared with


def request_of(
    wanted: str,
    *,
    data: Callable[[], ArrayImages] | None = None,
) -> ReferenceRequest:
    def images(name: str, shade: int) -> ArrayImages:
        return ArrayImages(name, torch.full((5, 3, 8, 8), shade, dtype=torch.uint8))

    return ReferenceRequest(
        wanted=wanted,
        extractor=PixelFeatures(),
        dataset="shades",
        data_sha256=None,
        resolution=8,
        data=data,
        dense=lambda: images("the dense generator", 200),
        cache=Path("unused"),
    )


def shades() -> ArrayImages:
    return ArrayImages("shades", torch.full((7, 3, 8, 8), 10, dtype=torch.uint8))


def test_the_data_set_is_the_reference_where_it_is_available() -> None:
    found = find_features(request_of("auto", data=shades))
    assert (found.source, found.dense) == ("7 images of shades", False)
    expected = PixelFeatures()(torch.full((7, 3, 8, 8), 10, dtype=torch.uint8))
    assert np.array_equal(found.content, expected)


def test_without_data_or_when_asked_the_dense_generator_is_the_reference() -> None:
    def missing() -> ArrayImages:
        raise MissingDataError("not here")

    for request in (request_of("auto", data=missing), request_of("dense", data=shades)):
        found = find_features(request)
        assert (found.source, found.dense) == ("5 images of the dense generator", True)


def test_a_file_of_features_is_taken_and_statistics_are_not(tmp_path: Path) -> None:
    rows = np.arange(48, dtype=np.float32).reshape(3, 16)
    np.savez(tmp_path / "features.npz", features=rows)
    assert np.array_equal(find_features(request_of(str(tmp_path / "features.npz"))).content, rows)
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(16), sigma=np.eye(16))
    with pytest.raises(InvalidValueError, match="single images are needed"):
        find_features(request_of(str(tmp_path / "statistics.npz")))
    np.savez(tmp_path / "other.npz", features=rows[:, :5])
    with pytest.raises(InvalidValueError, match="has 16 per image"):
        find_features(request_of(str(tmp_path / "other.npz")))
    np.savez(tmp_path / "one.npz", features=rows[:1])
    with pytest.raises(InvalidValueError, match="two images or more"):
        find_features(request_of(str(tmp_path / "one.npz")))
    np.savez(tmp_path / "nan.npz", features=np.where(rows == 5, np.nan, rows))
    with pytest.raises(InvalidValueError, match="NaN"):
        find_features(request_of(str(tmp_path / "nan.npz")))
    with pytest.raises(MissingDataError, match="no such file"):
        find_features(request_of(str(tmp_path / "nowhere.npz")))


def test_images_at_a_path_are_the_reference(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", pixels)
    found = find_features(request_of(str(tmp_path / "images.npz")))
    assert (found.source, found.dense) == (f"9 images of {tmp_path / 'images.npz'}", False)
    assert np.array_equal(found.content, PixelFeatures()(pixels))


def test_a_metric_goes_by_its_name() -> None:
    assert [metric_named(name).name for name in METRICS] == ["fid", "kid", "mmd"]
    with pytest.raises(InvalidValueError, match="did you mean kid"):
        metric_named("kidd")
