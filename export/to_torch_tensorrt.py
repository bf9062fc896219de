"""A second way to an engine: torch-tensorrt compiles the network itself, without an ONNX file.

It builds on the GPU that will run the engine, so it is for workstations and data centres; a Jetson
uses `build_engine.py` of the bundle. The result is a plain TensorRT engine.
"""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from importlib.metadata import version
from typing import cast

import torch
from torch import nn

from export.engines import ANY, EngineJob
from export.errors import ExportError, MissingPackageError
from export.interface import inputs_of, with_exported_inputs
from export.manifest import BatchRange, Engine
from nas_gan.files import write_bytes
from nas_gan.networks.interface import interface_of

INSTALL = 'pip install "ard-gan[torch-tensorrt]"'


@dataclass(frozen=True)
class TorchTensorRT:
    """The target torch-tensorrt: an engine for the GPU of this machine."""

    name: str = "torch-tensorrt"
    install: str = f"it takes an NVIDIA GPU that torch sees, and {INSTALL}"

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """That of this machine's GPU."""
        if not torch.cuda.is_available():
            return (ANY,)
        return (".".join(map(str, torch.cuda.get_device_capability())),)

    def is_installed(self) -> bool:
        """Whether the package and a GPU are there."""
        found = importlib.util.find_spec("torch_tensorrt") is not None
        return found and torch.cuda.is_available()

    def build(self, job: EngineJob, compute_capability: str) -> Engine:
        """Compile the generator, and write the engine beside the ONNX file.

        Raises:
            ExportError: there is no GPU, or an operator of the network has no converter.
            MissingPackageError: torch-tensorrt is not installed.
        """
        engine = build_torch_tensorrt_engine(
            job.generator, batch=job.batch, half=job.precision == "fp16"
        )
        file = job.onnx_path.with_suffix(".torch-tensorrt.engine")
        write_bytes(file, engine)
        tool = f"torch-tensorrt {version('torch-tensorrt')}"
        return Engine(file.name, self.name, compute_capability, tool)


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
