"""Sessions with fixed buffers, in the ONNX Runtime of this machine and in memory of the host."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge_bench.bound_session import BoundSession


def bound(make_model, batch: int, n_classes: int = 0) -> BoundSession:
    """The generator of `make_model` for latents of 1, and labels of 0."""
    path = make_model(final="Identity", n_classes=n_classes)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed: dict[str, NDArray[np.generic]] = {"latents": np.ones((batch, 4), np.float32)}
    if n_classes:
        feed["labels"] = np.zeros(batch, np.int64)
    images = np.empty((batch, 6), np.float32)
    return BoundSession(onnxruntime, session, "cpu", feed, "images", images)


def test_it_computes_the_images_of_what_was_sent_last(make_model):
    session = bound(make_model, 2, n_classes=3)
    session.run()
    assert session.images()[:, 0].tolist() == [32, 32]
    latents = np.array([[1, 1, 1, 1], [2, 2, 2, 2]], np.float32)
    session.send({"labels": np.array([2, 1]), "latents": latents})
    assert session.images()[:, 0].tolist() == [32, 32]  # nothing has run since
    session.run()
    assert session.images()[:, 0].tolist() == [32 + 2, 64 + 1]


def test_inputs_and_images_keep_their_addresses(make_model):
    session = bound(make_model, 2)

    def addresses() -> list[int]:
        values = [*session._inputs.values(), session._images, *session._binding.get_outputs()]
        return [value.data_ptr() for value in values]

    session.run()
    before = addresses()
    assert before[-1] == before[-2]  # what a run fills is the buffer
    for latent in (2.0, 3.0):
        session.send({"latents": np.full((2, 4), latent, np.float32)})
        session.run()
        assert session.images()[0, 0] == 32 * latent
    assert addresses() == before


def test_latents_that_are_no_block_of_memory_are_sent_as_they_are(make_model):
    session = bound(make_model, 2)
    wide = np.arange(16, dtype=np.float32).reshape(2, 8)
    session.send({"latents": wide[:, ::2]})
    session.run()
    # Eight hidden units, each the sum of the row.
    assert session.images()[:, 0].tolist() == [8 * (0 + 2 + 4 + 6), 8 * (8 + 10 + 12 + 14)]


def test_another_shape_than_the_bound_one_is_an_error(make_model):
    session = bound(make_model, 2)
    with pytest.raises((RuntimeError, ValueError)):
        session.send({"latents": np.ones((3, 4), np.float32)})
