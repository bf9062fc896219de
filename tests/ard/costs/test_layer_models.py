from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from ard.assembly.surgery import factorize_layer
from ard.costs.layer_models import to_onnx, write_layers
from ard.layers import describe_layer
from ard.plan import Factorization
from ard.signature import LayerSignature

SIGNATURES = [
    "conv2d 8x6x3x3 in=7x6 padding=1x1 bias",
    "conv2d 8x6x3x5 in=9x8 stride=2x1 padding=2x1 dilation=2x1",
    "conv2d 8x6x2x4 in=7x6 padding=same bias",
    "conv2d 8x3x3x3 in=7x6 padding=1x1 groups=2 bias",
    "conv2d 8x6x3x3 in=7x6 padding=1x2 padding_mode=reflect bias",
    "conv2d 8x6x3x3 in=7x6 padding=1x2 padding_mode=replicate bias",
    "conv2d 8x6x3x3 in=7x6 padding=1x2 padding_mode=circular bias",
    "conv_transpose2d 6x4x4x3 in=5x4 stride=2x2 padding=1x0 output_padding=1x0 groups=2 bias",
    "conv1d 8x6x5 in=9 padding=2 bias",
    "linear 8x6 bias",
    "linear 8x6",
    "linear 8x6 in=5 bias",
]


def images(model: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return y


def both(module: nn.Module, signature: LayerSignature, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """What torch and ONNX Runtime make of the same input."""
    x = torch.randn(batch, *signature.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return module(x).numpy(), images(to_onnx(module, signature.input_shape), x.numpy())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch may copy
@pytest.mark.parametrize("text", SIGNATURES)
def test_a_written_layer_computes_what_torch_computes_at_any_batch(text: str) -> None:
    signature = LayerSignature.parse(text)
    for batch in (1, 3):
        expected, found = both(signature.build(), signature, batch)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch may copy
@pytest.mark.parametrize("text", [s for s in SIGNATURES if "groups" not in s])
def test_so_do_its_factors_by_every_method(text: str) -> None:
    signature = LayerSignature.parse(text)
    layer = signature.build()
    profile = describe_layer("", layer, signature.input_shape, signature.input_shape)  # type: ignore[arg-type]  # one of the layers that it takes
    for method in profile.methods():
        largest = profile.max_rank(method)
        factors = factorize_layer(layer, Factorization(method, tuple(min(r, 3) for r in largest)))
        expected, found = both(factors, signature, 2)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_half_precision_layer_is_half_throughout() -> None:
    signature = LayerSignature.parse(SIGNATURES[0])
    model = onnx.load_from_string(to_onnx(signature.build(), signature.input_shape, "fp16"))
    half = onnx.TensorProto.FLOAT16
    ends = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {half}
    assert {weight.data_type for weight in model.graph.initializer} == {half}
    onnx.checker.check_model(model, full_check=True)


def test_a_folder_lists_its_layers_and_is_not_written_twice(tmp_path: Path) -> None:
    signature = LayerSignature.parse(SIGNATURES[0])
    wanted = [(signature, None), (signature, Factorization("spatial_svd", (4,)))]
    advanced: list[int] = []
    write_layers(wanted, tmp_path, on_layer=advanced.append)
    listed = json.loads((tmp_path / "layers.json").read_text())
    assert [entry["choice"] for entry in listed["layers"]] == ["dense", "spatial_svd(4)"]
    assert {entry["signature"] for entry in listed["layers"]} == {SIGNATURES[0]}
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.onnx")}
    assert len(times) == sum(advanced) == 2
    write_layers(wanted, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.onnx")} == times
