from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from export.errors import ExportError
from export.parity import Parity, check_parity, compare
from nas_gan.networks.conditional import with_labels

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.onnx

LATENTS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


def test_a_constant_error_of_a_hundredth_of_the_range_is_40_db():
    black = np.zeros((2, 3, 4, 4), np.float32)
    parity = compare(black, black + 0.02)
    assert parity.n == 2
    assert parity.max_abs == pytest.approx(0.02)
    assert parity.psnr_db == pytest.approx(40.0, abs=1e-4)


def test_equal_images_have_infinite_psnr_which_json_writes_as_null():
    parity = compare(np.ones((1, 3, 2, 2)), np.ones((1, 3, 2, 2)))
    assert parity == Parity(0.0, math.inf, 1)
    assert parity.to_dict() == {"max_abs": 0.0, "psnr_db": None, "samples": 1}


def test_images_of_another_shape_are_refused_with_both_shapes():
    with pytest.raises(ExportError, match=r"\(1, 3, 4, 4\); torch gives \(1, 3, 2, 2\)"):
        compare(np.ones((1, 3, 2, 2)), np.ones((1, 3, 4, 4)))


def test_a_right_export_agrees_to_float32_rounding(upsampler, upsampler_onnx):
    parity = check_parity(upsampler, upsampler_onnx, LATENTS)
    assert parity.n == 20
    assert parity.max_abs < 1e-5


def test_labels_are_part_of_the_comparison(conditional, conditional_onnx):
    noise, labels = torch.ones(7, 6), torch.arange(7) % 5
    latents = with_labels(noise, labels, 5)
    assert check_parity(conditional, conditional_onnx, latents).max_abs < 1e-5
    weight = conditional.state_dict()["layers.conv_transpose1.weight"]
    changed = copy.deepcopy(conditional)
    with torch.no_grad():  # two classes change places: the noise does as it did
        changed.layers.conv_transpose1.weight[[6, 7]] = weight[[7, 6]] + 1
    with pytest.raises(ExportError, match="does not draw the generator's images"):
        check_parity(changed, conditional_onnx, latents)


def test_the_result_does_not_depend_on_the_batch_size(upsampler, upsampler_onnx):
    one, seven = (
        check_parity(upsampler, upsampler_onnx, LATENTS, batch_size=n).max_abs for n in (1, 7)
    )
    assert abs(one - seven) < 1e-6


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_weights_fail_with_the_numbers(other_upsampler, upsampler_onnx, precision):
    with pytest.raises(ExportError, match=r"up\.onnx .* 20 latents .* PSNR .* dB \(at least"):
        check_parity(other_upsampler, upsampler_onnx, LATENTS, precision=precision)


def test_nan_fails(upsampler, upsampler_onnx):
    latents = LATENTS.clone()
    latents[3, 3] = math.nan
    with pytest.raises(ExportError, match="nan"):
        check_parity(upsampler, upsampler_onnx, latents)


def test_a_graph_with_a_fixed_batch_fails(upsampler, upsampler_onnx, tmp_path):
    model = onnx.load(upsampler_onnx)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 16
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(ExportError, match=r"fixed\.onnx does not run in ONNX Runtime"):
        check_parity(upsampler, tmp_path / "fixed.onnx", LATENTS)


def test_a_file_that_is_no_graph_fails_in_one_line(upsampler, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match="does not run in ONNX Runtime") as caught:
        check_parity(upsampler, tmp_path / "model.onnx", LATENTS)
    assert "\n" not in str(caught.value)
