"""The network itself for torch: a program of torch.export, beside the graph.

It is written as `model.pt2` and is what a benchmark on the device runs where torch is installed. It
takes the inputs of the graph and draws its images, in float32, or with a float16 graph in float16
between float32 inputs and images.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from export.engines import ANY, EngineJob
from export.errors import ExportError
from export.interface import inputs_of, with_exported_inputs
from export.manifest import Engine
from export.parity import compare
from export.precision import TOLERANCES
from nas_gan.networks.interface import GeneratorInterface, interface_of

SUFFIX = ".pt2"
# Two rows: torch.export takes a size of 1 in its example to be meant.
EXAMPLE_ROWS = 2


@dataclass(frozen=True)
class Torch:
    """The target torch: a program that torch runs on a CPU or a GPU."""

    name: str = "torch"
    install: str = "pip install torch"
    compute_capabilities: tuple[str, ...] = (ANY,)

    def is_installed(self) -> bool:
        """Whether torch is there, as it always is here."""
        return True

    def build(self, job: EngineJob, compute_capability: str) -> Engine:
        """Write the program, and compare its images with those of the ONNX file.

        Raises:
            ExportError: torch.export refuses the network, it draws other images, or the graph is
                int8, of which torch has no program.
        """
        if job.precision == "int8":
            raise ExportError("torch runs the network before int8; export with fp32 or fp16")
        file = job.onnx_path.with_suffix(SUFFIX)
        interface = interface_of(job.generator)
        write_program(job.generator, interface, file, half=job.precision == "fp16")
        if job.sample is not None:
            inputs = [torch.from_numpy(x) for x in job.sample.inputs.values()]
            with torch.inference_mode():
                images = torch.export.load(file).module()(*inputs)
            found = compare(job.sample.images, images.numpy(), job.sample.image_range)
            most = TOLERANCES[job.precision].max_abs
            # Written so that NaN fails the check.
            if not found.max_abs <= most:
                raise ExportError(f"in torch images differ by {found.max_abs:.3g} (at most {most})")
        return Engine(file.name, self.name, ANY, f"torch {torch.__version__}")


class _Half(nn.Module):
    """A network in float16 between float32 inputs and images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, *inputs: Tensor) -> Tensor:
        """The images `(batch, c, h, w)`; labels stay whole numbers."""
        halves = (x.half() if x.is_floating_point() else x for x in inputs)
        return cast("Tensor", self.network(*halves)).float()


def write_program(
    generator: nn.Module, interface: GeneratorInterface, file: Path, *, half: bool
) -> None:
    """Write a generator as a program that takes the inputs of its graph, for every batch.

    Args:
        generator: The generator, which is not changed.
        interface: Its interface.
        file: Where to write it.
        half: Whether it computes in float16.

    Raises:
        ExportError: torch.export refuses the network.
    """
    network = with_exported_inputs(copy.deepcopy(generator)).eval().cpu()
    network = _Half(network) if half else network
    example = tuple(
        torch.zeros((EXAMPLE_ROWS, *map(int, spec.shape[1:])), dtype=getattr(torch, spec.dtype))
        for spec in inputs_of(interface)
    )
    rows = torch.export.Dim("batch", min=1)
    shapes: tuple[object, ...] = tuple({0: rows} for _ in example)
    try:
        with torch.no_grad():
            program = torch.export.export(
                network, example, dynamic_shapes=(shapes,) if half else shapes
            )
        torch.export.save(program, file)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"torch.export refuses the network: {reason}") from error
