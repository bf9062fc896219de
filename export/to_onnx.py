"""A generator as one ONNX file with a dynamic batch."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from export.batch import has_dynamic_batch, with_dynamic_batch
from export.errors import ExportError, MissingPackageError
from export.interface import BATCH, inputs_of, outputs_of, with_exported_inputs
from export.naming import name_after_layers_
from export.precision import PRECISIONS, Precision
from export.rewrites import ALL, rewrite
from nas_gan.errors import unknown_name
from nas_gan.files import write_bytes
from nas_gan.networks.interface import interface_of

if TYPE_CHECKING:
    import onnx

# The opset that torch's exporter produces, which TensorRT 10.3 of JetPack 6 can read. Opset 17 is
# derived from it here; newer opsets are left to the exporter.
DEFAULT_OPSET = 18
MIN_OPSET, MAX_OPSET = 17, 24
# Attributes that opset 18 added to operators of 17; their values here mean what 17 does anyway.
NEW_IN_18 = {"Split": {"num_outputs"}, "Resize": {"antialias", "keep_aspect_ratio_policy"}}


@dataclass(frozen=True)
class GraphSettings:
    """How a generator becomes an ONNX graph.

    Args:
        precision: Arithmetic of the graph, `fp32` or `fp16`; latents and images are float32 in
            either case.
        opset: ONNX opset, 17 to 24.
        rewrites: Names of the rewrites in `export.rewrites` that make the graph faster; without
            any, each layer is a node.

    Raises:
        InvalidValueError: The precision is not known.
    """

    precision: Precision = "fp32"
    opset: int = DEFAULT_OPSET
    rewrites: tuple[str, ...] = ALL

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)


def write_onnx(generator: nn.Module, path: Path, settings: GraphSettings | None = None) -> None:
    """Write a generator as an ONNX file with a dynamic batch.

    The graph maps `latents`, float32 `(batch, latent_dim)`, to `images`, float32
    `(batch, c, h, w)`. The graph of a conditional generator also takes `labels`, int64 `(batch,)`.
    The same weights give the same bytes.

    Args:
        generator: The generator; neither it nor its training mode is changed.
        path: The file to write, atomically.
        settings: Precision, opset and rewrites; by default float32, opset 18 and every rewrite.

    Raises:
        ExportError: The generator cannot be expressed in this opset or precision.
        InvalidValueError: A rewrite is not known.
        MissingPackageError: onnx, onnxscript or onnxsim is not installed.
    """
    settings = settings or GraphSettings()
    model = build_model(generator, opset=settings.opset, rewrites=settings.rewrites)
    write_model(PRECISIONS[settings.precision].convert(model), path, generator)


def write_model(model: onnx.ModelProto, path: Path, generator: nn.Module) -> None:
    """Write the graph of a generator to a file.

    Args:
        model: the graph, in any precision.
        path: the file to write, atomically.
        generator: what it was exported from.

    Raises:
        ExportError: the graph is not valid, or has other inputs and outputs than the generator.
    """
    _check(model, generator)
    write_bytes(path, model.SerializeToString(deterministic=True))


def build_model(
    generator: nn.Module, *, opset: int = DEFAULT_OPSET, rewrites: Iterable[str] = ALL
) -> onnx.ModelProto:
    """`generator` as a simplified float32 graph; neither it nor its training mode is changed."""
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"must be {MIN_OPSET} to {MAX_OPSET}; got {opset}", setting="opset")
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter imports it; report early if it is missing
        import onnxsim
    except ImportError as error:
        raise MissingPackageError(
            f"ONNX export needs {error.name}, which is not installed: "
            "pip install onnx onnxscript onnxsim"
        ) from error

    model = _trace(generator, max(opset, DEFAULT_OPSET))
    if opset < DEFAULT_OPSET:
        _lower_to_17_(model)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    _resize_by_scales_(model)
    try:
        model, _ = onnxsim.simplify(model)
    except RuntimeError as error:
        raise _invalid(opset, error) from error
    _strip_metadata_(model)
    model = rewrite(onnx.shape_inference.infer_shapes(model, data_prop=True), rewrites)
    name_after_layers_(model)
    return model


def _trace(generator: nn.Module, opset: int) -> onnx.ModelProto:
    inputs = inputs_of(interface_of(generator))
    traced = with_exported_inputs(copy.deepcopy(generator)).eval().cpu()
    batch = torch.export.Dim(BATCH, min=1)
    names = [spec.name for spec in inputs], [s.name for s in outputs_of(interface_of(generator))]

    def example(n: int) -> tuple[torch.Tensor, ...]:
        return tuple(
            torch.zeros((n, *cast("tuple[int, ...]", s.shape[1:])), dtype=getattr(torch, s.dtype))
            for s in inputs
        )

    # Two rows, because the exporter would take an example batch of 1 for a constant.
    sizes = tuple({0: batch} for _ in inputs)
    model = _export(traced, example(2), names, opset, sizes)
    if has_dynamic_batch(model):
        return model
    return with_dynamic_batch(lambda n: _export(traced, example(n), names, opset, None), BATCH)


def _export(
    network: nn.Module,
    example: tuple[torch.Tensor, ...],
    names: tuple[list[str], list[str]],
    opset: int,
    dynamic_shapes: tuple[dict[int, torch.export.Dim], ...] | None,
) -> onnx.ModelProto:
    """What torch's exporter makes of a network; `names` are those of its inputs and outputs."""
    try:
        # The exporter reports its progress on stdout and warns about its own deprecations.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                example,
                input_names=names[0],
                output_names=names[1],
                opset_version=opset,
                dynamic_shapes=dynamic_shapes,
                # Of a fixed batch, nothing may be folded that another batch would not have.
                optimize=dynamic_shapes is not None,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = error.__cause__ or error
        raise ExportError(
            f"torch cannot export this generator to opset {opset}: {_one_line(reason)}"
        ) from error
    assert program is not None  # it is None only if a file is written without dynamo
    return cast("onnx.ModelProto", program.model_proto)


def _lower_to_17_(model: onnx.ModelProto) -> None:
    """Relabel a graph of opset 18 as 17, in place.

    onnx cannot convert Split from 18 to 17. The attributes that are removed state what 17 does
    anyway, and the checker later finds operators that 17 lacks.
    """
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = 17
    for node in model.graph.node:
        new = NEW_IN_18.get(node.op_type, set())
        kept = [attribute for attribute in node.attribute if attribute.name not in new]
        node.ClearField("attribute")
        node.attribute.extend(kept)


def _resize_by_scales_(model: onnx.ModelProto) -> None:
    """Give each Resize constant scales instead of an output size computed at run time, in place.

    With a dynamic batch the exporter writes the size as Concat(Shape(x)[:2], (h, w)). With constant
    scales the shape arithmetic disappears, and TensorRT sees a plain upsampling. This is done only
    if the scale is exact in float32, as 2 and 4 are, so that every pixel is sampled where it was.
    """
    import onnx

    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Resize" or len(node.input) < 4:
            continue
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if len(before) != 4 or len(after) != 4 or before[1] != after[1]:
            continue
        spatial = [*before[2:], *after[2:]]
        scales = np.ones(4, np.float32)
        if 0 in spatial:  # a dynamic height or width
            continue
        scales[2:] = after[2] / before[2], after[3] / before[3]
        if not np.array_equal(scales[2:] * before[2:], after[2:]):
            continue
        name = f"resize_scales_{number}"
        model.graph.initializer.append(onnx.numpy_helper.from_array(scales, name))
        node.input[:] = [node.input[0], "", name]


def _strip_metadata_(model: onnx.ModelProto) -> None:
    """Remove stack traces and module paths, which name the exporting machine, in place."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    graph = model.graph
    for part in (
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _check(model: onnx.ModelProto, generator: nn.Module) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _invalid(model.opset_import[0].version, error) from error
    values = (*model.graph.input, *model.graph.output)
    found = [_describe(value) for value in values]
    expected = [
        f"{spec.name} {spec.shape} {spec.dtype}"
        for spec in (*inputs_of(interface_of(generator)), *outputs_of(interface_of(generator)))
    ]
    if found != expected:
        raise ExportError(
            f"the exported graph has {', '.join(found)}; expected {', '.join(expected)}"
        )


def _describe(value: onnx.ValueInfoProto) -> str:
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return f"{value.name} {shape} {onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)}"


def _invalid(opset: int, error: Exception) -> ExportError:
    advice = "; try opset 18" if opset < DEFAULT_OPSET else ""
    return ExportError(f"the graph is not valid in opset {opset}: {_one_line(error)}{advice}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
