from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.class_score import StreamingClassScore


def score(logits: np.ndarray, splits: int, batch: int = 7):
    streaming = StreamingClassScore(len(logits), "net", splits)
    for start in range(0, len(logits), batch):
        rows = np.arange(start, min(start + batch, len(logits)))
        streaming.update(rows, logits[rows])
    return streaming.result(), streaming.part_of_row


def test_as_many_classes_as_are_named_with_certainty_and_equally_often():
    logits = np.tile(np.eye(5) * 1000, (20, 1))
    result, _ = score(logits, 1)
    assert result.mean == pytest.approx(5)
    assert (result.std, result.splits, result.n, result.classes) == (0, 1, 100, "net")


def test_doubt_is_worth_one():
    assert score(np.zeros((40, 8)), 4)[0].mean == pytest.approx(1)


def test_two_images_worked_out_by_hand():
    # p = (3/4, 1/4) and its mirror image: q = 1/2 each, KL = log 2 - H(1/4).
    logits = np.log([[3.0, 1.0], [1.0, 3.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert score(logits, 1)[0].mean == pytest.approx(math.exp(math.log(2) - entropy))


def test_it_is_torch_fidelity_s_score_of_the_same_parts():
    isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = np.random.default_rng(0).standard_normal((60, 9)) * 3
    result, part_of_row = score(logits, 5)
    ordered = torch.from_numpy(logits[np.argsort(part_of_row, kind="stable")])
    theirs = isc.isc_features_to_metric(ordered, splits=5, shuffle=False)
    assert result.mean == pytest.approx(theirs["inception_score_mean"])
    assert result.std == pytest.approx(theirs["inception_score_std"])


def test_a_folder_sorted_by_class_is_mixed_before_it_is_split():
    _, part_of_row = score(np.zeros((100, 2)), 10)
    assert np.bincount(part_of_row).tolist() == [10] * 10
    assert len(set(part_of_row[:20])) > 5


def test_more_parts_than_images_are_refused():
    with pytest.raises(InvalidValueError, match="3 images"):
        StreamingClassScore(3, "net", 4)
