"""ONNX Runtime on an NVIDIA GPU, by its CUDA or its TensorRT provider; never on the CPU instead."""

from __future__ import annotations

from collections import Counter
from typing import Any

from edge_bench.asked import BOTH, Covers
from edge_bench.errors import RunnerError
from edge_bench.runners import OnnxRuntimeRunner

CPU = "CPUExecutionProvider"
# What lets a session say afterwards which provider runs each node; from ONNX Runtime 1.24 on.
RECORD = "session.record_ep_graph_assignment_info"


class OnnxRuntimeGpuRunner(OnnxRuntimeRunner):
    """ONNX Runtime with a provider for the GPU; images and latents are copied in each call.

    A provider leaves nodes that it does not know to the CPU. How many these are is part of
    `runtime`, if this version of ONNX Runtime can tell; a session without any node on the GPU, or
    without the provider, is refused.
    """

    provider = ""
    needs = ""

    _rest = ""

    @property
    def runtime(self) -> str:
        """The version, the provider, and what is left to the CPU."""
        name = self.provider.removesuffix("ExecutionProvider")
        return f"onnxruntime {self._version} with {name} on GPU{self._rest}"

    def covers(self, batch: int) -> Covers:
        """What a time covers: both copies, since a session makes them inside of its call."""
        asked = self._settings.cuda_graph
        return Covers(
            BOTH, no_cuda_graph=f"{self.title} launches its kernels itself" if asked else None
        )

    def _load(self, onnxruntime: Any) -> Any:
        if self._settings.transfers != BOTH:
            raise RunnerError(
                f"{self.title} copies inputs and images inside of each call; it can be timed with "
                f"both transfers only, asked for {self._settings.transfers!r}"
            )
        available = onnxruntime.get_available_providers()
        if self.provider not in available:
            raise RunnerError(
                f"this onnxruntime has no {self.provider}, only {', '.join(available)}; "
                f"{self.needs}, or use the onnxruntime runner"
            )
        session = super()._load(onnxruntime)
        found = session.get_providers()
        if self.provider not in found:
            raise RunnerError(
                f"{self._path}: ONNX Runtime could not start {self.provider} and took "
                f"{', '.join(found)} instead; its own message is above: {self.needs}, or use the "
                "onnxruntime runner"
            )
        self._rest = self._left_to_cpu(session)
        return session

    def _providers(self) -> list[str]:
        return [self.provider, CPU]

    def _configure(self, options: Any) -> None:
        options.add_session_config_entry(RECORD, "1")

    def _left_to_cpu(self, session: Any) -> str:
        try:
            parts = session.get_provider_graph_assignment_info()
        except AttributeError:  # an earlier version
            return ""
        nodes: Counter[str] = Counter()
        for part in parts:
            nodes[part.ep_name] += len(part.get_nodes())
        total = sum(nodes.values())
        if total and nodes[CPU] == total:
            raise RunnerError(
                f"{self._path}: {self.provider} runs none of the {total} nodes and leaves them to "
                "the CPU; use the onnxruntime runner"
            )
        return f", {nodes[CPU]} of {total} nodes on the CPU" if nodes[CPU] else ""


class OnnxRuntimeCudaRunner(OnnxRuntimeGpuRunner):
    """ONNX Runtime with its CUDA provider."""

    provider = "CUDAExecutionProvider"
    needs = "install onnxruntime-gpu in its place, with CUDA and cuDNN"


class OnnxRuntimeTensorRTRunner(OnnxRuntimeGpuRunner):
    """ONNX Runtime with its TensorRT provider; nodes that it cannot build go to CUDA."""

    provider = "TensorrtExecutionProvider"
    needs = "install onnxruntime-gpu in its place, with CUDA, cuDNN and TensorRT"

    def _providers(self) -> list[str]:
        return [self.provider, OnnxRuntimeCudaRunner.provider, CPU]
