from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_bench.errors import RunnerError
from edge_bench.inputs import InputSpec, check_inputs, draw_feed

MODEL = Path("model.onnx")
LATENTS = InputSpec("z", np.dtype(np.float32), (None, 4))
LABELS = InputSpec("y", np.dtype(np.int64), (None,))


def test_equal_seeds_give_equal_numbers_and_a_prefix_of_a_larger_feed():
    small, large = (draw_feed([LATENTS, LABELS], n, 7, 3, {}) for n in (2, 8))
    assert all((few == many[:2]).all() for few, many in zip(small, large, strict=True))
    assert (draw_feed([LATENTS], 2, 8, None, {})[0] != small[0]).all()


def test_latents_do_not_depend_on_whether_there_are_labels():
    assert (
        draw_feed([LATENTS], 5, 1, None, {})[0] == draw_feed([LATENTS, LABELS], 5, 1, 3, {})[0]
    ).all()


@pytest.mark.parametrize(
    ("n_classes", "expected"), [(3, [0, 1, 2, 0, 1]), (10, [0, 1, 2, 3, 4]), (None, [0] * 5)]
)
def test_labels_go_round_the_classes_and_are_0_where_nobody_knows_them(n_classes, expected):
    _, labels = draw_feed([LATENTS, LABELS], 5, 0, n_classes, {})
    assert (labels.tolist(), labels.dtype) == (expected, np.dtype(np.int64))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (InputSpec("z", np.dtype(np.float32), (None, None)), "fixed latent size"),
        (InputSpec("z", np.dtype(np.float32), ()), "fixed latent size"),
        (InputSpec("z", np.dtype(np.float32), (3, 4)), "fixed batch of 3, asked for 2"),
        (InputSpec("y", np.dtype(np.int64), (None, 10)), "one label for each image"),
        (InputSpec("y", np.dtype(np.int64), (3,)), "fixed batch of 3, asked for 2"),
    ],
)
def test_an_input_that_cannot_be_fed_is_refused(spec, message):
    with pytest.raises(RunnerError, match=message):
        draw_feed([spec], 2, 0, 10, {})


def test_inputs_of_a_bundle_are_fed_in_turn_and_begin_again():
    rows = np.arange(12).reshape(3, 4)
    latents, labels = draw_feed([LATENTS, LABELS], 5, 0, 10, {"z": rows, "y": np.array([7, 8])})
    assert latents.dtype == np.float32
    assert latents[:, 0].tolist() == [0, 4, 8, 0, 4]
    assert labels.tolist() == [7, 8, 7, 8, 7]


@pytest.mark.parametrize("rows", [np.zeros((3, 5)), np.zeros(3), np.zeros((3, 4, 1))])
def test_inputs_of_a_bundle_that_do_not_fit_the_model_are_refused(rows):
    with pytest.raises(RunnerError, match="export the bundle again"):
        draw_feed([LATENTS], 2, 0, None, {"z": rows})


def test_labels_may_be_one_hot_rows():
    onehot = InputSpec("y", np.dtype(np.float32), (None, 10))
    assert check_inputs(MODEL, [LATENTS, onehot], 1) == (LATENTS, onehot)


def test_latents_come_first_whatever_the_order_of_the_model():
    assert check_inputs(MODEL, [LABELS, LATENTS], 1) == (LATENTS, LABELS)
    assert check_inputs(MODEL, [LATENTS], 1) == (LATENTS,)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([], 1),
        ([LABELS], 1),
        ([LATENTS, LATENTS, LATENTS], 1),
        ([LATENTS, LABELS, LABELS], 1),
        ([LATENTS], 2),
    ],
)
def test_a_model_with_other_inputs_or_outputs_is_refused(inputs, outputs):
    found = f"found {len(inputs)} .* and {outputs}"
    with pytest.raises(RunnerError, match=rf"^model.onnx: .*labels as whole numbers.*{found}$"):
        check_inputs(MODEL, inputs, outputs)
