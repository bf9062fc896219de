from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.evaluation import EvaluationSettings, Evaluator
from nas_gan.metrics.reference import load_statistics
from nas_gan.metrics.report import render
from nas_gan.metrics.subjects import Drawing, Subject, open_subject


class MeanColour:
    name, dim, comparable = "mean-colour", 3, False

    def __call__(self, images: Tensor | np.ndarray) -> np.ndarray:
        return torch.as_tensor(images).float().mean(dim=(2, 3)).numpy()

    def logits(self, features: np.ndarray) -> np.ndarray:
        return features


def write_images(path: Path, brighter_by: int) -> Path:
    rng = np.random.default_rng(0)
    np.savez(path, rng.integers(0, 100, (40, 4, 4, 3)).astype(np.uint8) + np.uint8(brighter_by))
    return path


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return open_subject(write_images(tmp_path / "a.npz", 0), Drawing(2, 0))


def evaluator(reference: Path | str, **settings: object) -> Evaluator:
    return Evaluator(
        EvaluationSettings(reference=str(reference), **settings),  # type: ignore[arg-type]
        MeanColour,
    )


def test_the_distance_of_brighter_images_is_the_squared_difference(
    subject: Subject, tmp_path: Path
) -> None:
    # The covariances are equal, so that the means alone count: 10 in each of three colours.
    report = evaluator(write_images(tmp_path / "b.npz", 10)).evaluate(subject)
    assert report.fid == pytest.approx(300, rel=1e-4)
    assert (report.n, report.n_reference, report.extractor) == (40, 40, "mean-colour")


def test_saved_statistics_are_a_reference_at_no_distance(subject: Subject, tmp_path: Path) -> None:
    saved = tmp_path / "s.npz"
    evaluator("auto", metrics=()).evaluate(subject, statistics_file=saved)
    assert load_statistics(saved, MeanColour()).n == 40
    assert evaluator(saved).evaluate(subject).fid == pytest.approx(0, abs=1e-3)


def test_metrics_on_pixels_make_no_extractor(subject: Subject) -> None:
    def none() -> MeanColour:
        raise AssertionError("an extractor was made")

    settings = EvaluationSettings(metrics=("parzen",), reference=str(subject.path))
    report = Evaluator(settings, none).evaluate(subject)
    assert (report.extractor, report.note) == (None, "pixels")
    assert report.parzen is not None


def test_images_cannot_be_paired_by_their_latents(subject: Subject) -> None:
    with pytest.raises(InvalidValueError, match=r"^against pairs two generators"):
        evaluator(subject.path).evaluate(subject, subject)
    with pytest.raises(InvalidValueError, match=r"^against .* metrics must include fid"):
        evaluator(subject.path, metrics=("kid",)).evaluate(subject, subject)


@pytest.mark.parametrize(
    ("name", "value"), [("samples", 1), ("batch_size", 0), ("seed", -1), ("kept", 1)]
)
def test_a_setting_that_is_too_small_is_named(name: str, value: int) -> None:
    with pytest.raises(InvalidValueError, match=f"^{name} must be at least"):
        EvaluationSettings(**{name: value})  # type: ignore[arg-type]


def test_scores_of_few_images_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "few.npz", rng.integers(0, 200, (3, 4, 4, 3)).astype(np.uint8))
    np.savez(tmp_path / "two.npz", rng.integers(0, 200, (2, 4, 4, 3)).astype(np.uint8))
    few = open_subject(tmp_path / "few.npz", Drawing(2, 0))
    report = evaluator(tmp_path / "two.npz", metrics=("fid", "is", "kid")).evaluate(few)
    assert report.class_score is not None
    assert (report.class_score.splits, report.class_score.std) == (1, 0)
    distance, kernel, classes = report.doubts
    assert "2 reference images in 3 features" in distance
    assert "one side has only 2" in kernel
    assert "class score of 3 images in one part" in classes
    shown = [str(cell) for cell in render(report).columns[1].cells]
    assert set(report.doubts) <= set(shown)


def test_scores_of_enough_images_say_nothing(subject: Subject, tmp_path: Path) -> None:
    report = evaluator(write_images(tmp_path / "b.npz", 10), metrics=("fid",)).evaluate(subject)
    assert report.doubts == ()
