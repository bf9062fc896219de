from __future__ import annotations

from collections import Counter
from itertools import cycle

import numpy as np
import pytest
import torch
from torch import nn

from ard.assembly.surgery import apply_plan
from ard.plan import ActivationForm, Factorization, RankPlan, Replacement
from export.engines import EngineChoice, EngineJob, build_engines
from export.manifest import BatchRange, TensorSpec
from export.parity import check_parity
from export.precision import to_fp16
from export.to_onnx import build_model
from export.to_tensorrt import TensorRTRTX
from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import PMish
from nas_gan.networks.gates import FORMS

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxsim", reason="onnxsim is not installed")

import onnx
from onnx_graphs import model_of, node, operators

from export.rewrites import ALL, REWRITES, rewrite

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def compressed(generator) -> nn.Module:
    """The generator with every larger kernel as a column and a row, each 1x1 as two, and gates."""
    plan: dict[str, Replacement] = {
        name: Factorization("svd" if layer.kernel_size == (1, 1) else "spatial_svd", (3,))
        for name, layer in generator.named_modules()
        if isinstance(layer, nn.Conv2d) and name.startswith("cell")
    }
    slow = [name for name, module in generator.named_modules() if isinstance(module, PMish)]
    plan |= {name: ActivationForm(form) for name, form in zip(slow, cycle(FORMS))}
    return apply_plan(generator, RankPlan(plan))


@pytest.fixture(scope="module")
def compressed_rewritten(compressed) -> onnx.ModelProto:
    return build_model(compressed)


@pytest.fixture(scope="module")
def latents(generator) -> torch.Tensor:
    return torch.randn(8, generator.latent_dim, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rewritten_graphs_draw_the_images_of_torch(
    generator, generator_plain, compressed, compressed_rewritten, precision, latents, tmp_path
):
    for net, model in ((generator, rewrite(generator_plain)), (compressed, compressed_rewritten)):
        onnx.save(to_fp16(model) if precision == "fp16" else model, tmp_path / "model.onnx")
        parity = check_parity(net, tmp_path / "model.onnx", latents, precision=precision)
        assert parity.psnr_db > (100 if precision == "fp32" else 60)


def test_on_the_published_net_the_upsampling_the_normalization_and_a_factor_go(generator_plain):
    before, after = operators(generator_plain), operators(rewrite(generator_plain))
    assert before["BatchNormalization"] == 1
    assert after["BatchNormalization"] == 0
    assert after["Mul"] < before["Mul"]
    # A 3x3 and a 5x5 kernel read a map that was enlarged by repeating pixels.
    assert (after["ConvTranspose"], after["DepthToSpace"]) == (1, 1)
    assert after["Conv"] + after["ConvTranspose"] == before["Conv"]


def pixels(model: onnx.ModelProto) -> Counter[int]:
    """How many logarithms, the dearest part of PMish, are taken at each size of map."""
    shapes = {v.name: v.type.tensor_type.shape.dim for v in model.graph.value_info}
    return Counter(
        shapes[made.output[0]][2].dim_value for made in model.graph.node if made.op_type == "Log"
    )


def test_activations_behind_a_repeating_upsampling_are_computed_before_it(generator_plain):
    assert pixels(generator_plain) == {8: 6, 16: 6, 32: 8}
    # Those of the up-edges of cells 1 and 3, and of the two kernels behind each.
    assert pixels(rewrite(generator_plain)) == {4: 3, 8: 3, 16: 6 + 3, 32: 5}


def test_the_batch_keeps_its_symbol_without_which_runtimes_do_not_fuse(generator_plain):
    shapes = [
        value.type.tensor_type.shape.dim for value in rewrite(generator_plain).graph.value_info
    ]
    symbols = {shape[0].dim_param for shape in shapes if len(shape) == 4}
    assert symbols == {"batch"}


def test_a_rewrite_leaves_its_model_alone_and_gives_the_same_bytes_again(generator_plain):
    before = generator_plain.SerializeToString(deterministic=True)
    first, second = (
        rewrite(generator_plain).SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second
    assert generator_plain.SerializeToString(deterministic=True) == before


def test_there_is_nothing_left_to_rewrite(generator_plain):
    once = rewrite(generator_plain)
    assert operators(rewrite(once)) == operators(once)


@pytest.mark.parametrize("name", ALL)
def test_each_rewrite_alone_leaves_a_valid_graph_of_the_same_images(
    name, generator, generator_plain, latents, tmp_path
):
    onnx.save(REWRITES[name](generator_plain), tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    assert check_parity(generator, tmp_path / "model.onnx", latents).max_abs < 2e-5


def test_an_unknown_rewrite_is_refused_and_the_nearest_offered(generator_plain):
    with pytest.raises(InvalidValueError, match="did you mean fold_affine"):
        rewrite(generator_plain, ["fold_afine"])


def test_a_graph_with_branches_comes_back_as_it_is():
    value = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    inner = onnx.helper.make_graph([node("Neg", "h", "z")], "inner", [], [value])
    condition = onnx.numpy_helper.from_array(np.array(True), "c")
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = model_of([node("Identity", "x", "h")], [2], "h")
    model.graph.initializer.append(condition)
    model.graph.node.append(branch)
    model.graph.output[0].name = "y"
    assert rewrite(model) == model


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_from_a_rewritten_graph(
    compressed, compressed_rewritten, precision, tmp_path
):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    path, model = tmp_path / "model.onnx", compressed_rewritten
    assert operators(model)["ConvTranspose"] > 0
    onnx.save(to_fp16(model) if precision == "fp16" else model, path)
    specs = (
        TensorSpec("latents", "float32", ("batch", 120)),
        TensorSpec("images", "float32", ("batch", 3, 32, 32)),
    )
    job = EngineJob(compressed, path, specs, BatchRange(1, 4, 16))
    built = build_engines(EngineChoice(TensorRTRTX(("8.6",))), job)
    assert built.not_built == ()
    assert [engine.file for engine in built.engines] == ["model.sm86.engine"]
