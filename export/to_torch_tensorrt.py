"""A second way to an engine: torch-tensorrt compiles the network itself, without an ONNX file.

It builds on the GPU that will run the engine, so it serves a workstation or a data centre; a Jetson
takes `build_engine.py` of the bundle. The result is a plain TensorRT engine.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from export.errors import ExportError, MissingPackageError
from export.manifest import BatchRange

INSTALL = 'pip install "ard-gan[torch-tensorrt]"'


def build_torch_tensorrt_engine(
    generator: nn.Module, latent_dim: int, *, batch: BatchRange, half: bool = False
) -> bytes:
    """The whole generator as one serialized engine for the GPU of this machine.

    The engine takes `(n, latent_dim)` latents with n in the range of `batch`, float16 if `half`:
    torch-tensorrt is strongly typed, so it computes in the type that the network has.

    Raises:
        MissingPackageError: torch-tensorrt is not installed.
        ExportError: there is no GPU, or an operator of the network has no converter.
    """
    try:
        import torch_tensorrt
    except ImportError as error:
        raise MissingPackageError(f"torch-tensorrt is not installed; get it: {INSTALL}") from error
    if not torch.cuda.is_available():
        raise ExportError(
            "torch-tensorrt builds on a GPU, and this machine has none that torch sees"
        )
    dtype = torch.float16 if half else torch.float32
    network = copy.deepcopy(generator).eval().to("cuda", dtype)
    latents = torch.zeros(batch.opt, latent_dim, device="cuda", dtype=dtype)
    dimension = torch.export.Dim("batch", min=batch.min, max=batch.max)
    program = torch.export.export(network, (latents,), dynamic_shapes=({0: dimension},))
    shapes = torch_tensorrt.Input(
        min_shape=(batch.min, latent_dim),
        opt_shape=(batch.opt, latent_dim),
        max_shape=(batch.max, latent_dim),
        dtype=dtype,
    )
    convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
    try:
        return bytes(convert(program, arg_inputs=[shapes]))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ExportError(f"torch-tensorrt could not build the engine: {reason}") from error
