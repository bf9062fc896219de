from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MakeModel = Callable[..., Path]
MakeBundle = Callable[..., Path]


def save_generator(
    path: Path,
    latent_dim: int = 4,
    width: int = 8,
    batch: int | str = "batch",
    dtype: int = TensorProto.FLOAT,
    final: str = "Tanh",
    n_classes: int = 0,
) -> Path:
    """images = final(relu(z A) B), all weights 1: for z of ones every pixel is final(4 * 8).

    With classes it is final(relu(z A) B + k) for label k, the labels being the first input.
    """
    numpy_dtype = helper.tensor_dtype_to_np_dtype(dtype)
    weights: dict[str, NDArray[Any]] = {"a": np.ones((latent_dim, width)), "b": np.ones((width, 6))}
    nodes = [
        helper.make_node("MatMul", ["latents", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["o"]),
    ]
    inputs = [helper.make_tensor_value_info("latents", dtype, [batch, latent_dim])]
    last = "o"
    if n_classes:
        weights["table"] = np.arange(n_classes)[:, None]  # (n_classes, 1)
        nodes.append(helper.make_node("Gather", ["table", "labels"], ["k"]))
        nodes.append(helper.make_node("Add", ["o", "k"], ["s"]))
        inputs.insert(0, helper.make_tensor_value_info("labels", TensorProto.INT64, [batch]))
        last = "s"
    graph = helper.make_graph(
        [*nodes, helper.make_node(final, [last], ["images"])],
        "generator",
        inputs,
        [helper.make_tensor_value_info("images", dtype, [batch, 6])],
        [numpy_helper.from_array(w.astype(numpy_dtype), name) for name, w in weights.items()],
    )
    # Pinned: ONNX Runtime refuses an IR or an opset that is newer than itself.
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path)
    return path


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    def make(name: str = "tiny.onnx", **options: Any) -> Path:
        return save_generator(tmp_path / name, **options)

    return make


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """A bundle folder; `changes` replace manifest entries, a value of None removes one."""

    def make(name: str = "dense", changes: dict[str, Any] | None = None, **options: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        content = save_generator(folder / "model.onnx", **options).read_bytes()
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        manifest = {
            "format": 1,
            "name": "model",
            "onnx": "model.onnx",
            "files": {"model.onnx": entry},
            "precision": "fp32",
            "params": 80,
            "macs": 80,
            **(changes or {}),
        }
        kept = {key: value for key, value in manifest.items() if value is not None}
        (folder / "manifest.json").write_text(json.dumps(kept))
        return folder

    return make
