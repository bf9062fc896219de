"""OpenVINO's form of the graph, for Intel's processors and GPUs.

It is written as `model.openvino.xml` and the weights `model.openvino.bin`, in the types of the
graph, and run here once, against ONNX Runtime.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np

from export.engines import ANY, EngineJob
from export.errors import ExportError
from export.manifest import Engine
from export.parity import compare
from export.precision import TOLERANCES


@dataclass(frozen=True)
class OpenVINO:
    """The target OpenVINO."""

    name: str = "openvino"
    install: str = 'pip install "ard-gan[openvino]"'
    compute_capabilities: tuple[str, ...] = (ANY,)

    def is_installed(self) -> bool:
        """Whether `openvino` is there."""
        return importlib.util.find_spec("openvino") is not None

    def build(self, job: EngineJob, compute_capability: str) -> Engine:
        """Convert the graph, and compare its images with those of the ONNX file.

        Raises:
            ExportError: OpenVINO refuses the graph, or draws other images.
        """
        import openvino

        file = job.onnx_path.with_suffix(".openvino.xml")
        try:
            model = openvino.convert_model(job.onnx_path)
            openvino.save_model(model, file, compress_to_fp16=False)
            if job.sample is not None:
                # A CPU may otherwise compute in bfloat16, which says nothing about the graph.
                hint = {"INFERENCE_PRECISION_HINT": "f32"}
                network = openvino.Core().compile_model(file, "CPU", hint)
                inputs = {name: np.ascontiguousarray(x) for name, x in job.sample.inputs.items()}
                found = compare(job.sample.images, network(inputs)[0], job.sample.image_range)
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ExportError(f"OpenVINO refuses the graph: {reason}") from error
        # As far as ONNX Runtime may be from torch: 1e-3 for a float32 graph, which measured 1e-5.
        most = TOLERANCES[job.precision].max_abs
        # Written so that NaN fails the check.
        if job.sample is not None and not found.max_abs <= most:
            raise ExportError(f"in OpenVINO images differ by {found.max_abs:.3g} (at most {most})")
        return Engine(file.name, self.name, ANY, f"openvino {openvino.__version__}")
