"""A second way to an engine: torch-tensorrt compiles the network itself, without an ONNX file.

It builds on the GPU that will run the engine, so it is for workstations and data centres; a Jetson
uses `build_engine.py` of the bundle. The result is a plain TensorRT engine.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from export.errors import ExportError, MissingPackageError
from export.interface import inputs_of, with_exported_inputs
from export.manifest import BatchRange
from nas_gan.networks.interface import interface_of

INSTALL = 'pip install "ard-gan[torch-tensorrt]"'


def build_torch_tensorrt_engine(
    generator: nn.Module, *, batch: BatchRange, half: bool = False
) -> bytes:
    """The whole generator as one serialized engine for the GPU of this machine.

    The engine takes the inputs of the generator's graph, with a batch in the range of `batch`, and
    in float16 if `half`: torch-tensorrt is strongly typed, so it computes in the type of the
    network. Whole numbers stay int64.

    Raises:
        MissingPackageError: torch-tensorrt is not installed.
        ExportError: there is no GPU, or an operator of the network has no converter.
    """
    try:
        import torch_tensorrt
    except ImportError as error:
        raise MissingPackageError(f"torch-tensorrt is not installed: {INSTALL}") from error
    if not torch.cuda.is_available():
        raise ExportError("torch-tensorrt builds on a GPU, and torch sees none on this machine")
    dtype = torch.float16 if half else torch.float32
    network = with_exported_inputs(copy.deepcopy(generator)).eval().to("cuda", dtype)
    # (sizes behind the batch, type) of each input
    inputs = [
        (cast("tuple[int, ...]", spec.shape[1:]), torch.int64 if spec.dtype == "int64" else dtype)
        for spec in inputs_of(interface_of(generator))
    ]
    example = tuple(torch.zeros((batch.opt, *s), device="cuda", dtype=t) for s, t in inputs)
    dimension = torch.export.Dim("batch", min=batch.min, max=batch.max)
    program = torch.export.export(
        network, example, dynamic_shapes=tuple({0: dimension} for _ in inputs)
    )
    shapes = [
        torch_tensorrt.Input(
            min_shape=(batch.min, *sizes),
            opt_shape=(batch.opt, *sizes),
            max_shape=(batch.max, *sizes),
            dtype=kind,
        )
        for sizes, kind in inputs
    ]
    convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
    try:
        return bytes(convert(program, arg_inputs=shapes))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ExportError(f"torch-tensorrt could not build the engine: {reason}") from error
