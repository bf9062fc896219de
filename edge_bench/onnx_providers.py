"""ONNX Runtime on an NVIDIA GPU, by its CUDA or its TensorRT provider; never on the CPU instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.asked import BOTH, Covers, RunSettings
from edge_bench.bound_session import BoundSession
from edge_bench.errors import RunnerError
from edge_bench.runners import Infer, OnnxRuntimeRunner, first_line

CPU = "CPUExecutionProvider"
# What lets a session say afterwards which provider runs each node; from ONNX Runtime 1.24 on.
RECORD = "session.record_ep_graph_assignment_info"


class OnnxRuntimeGpuRunner(OnnxRuntimeRunner):
    """ONNX Runtime with a provider for the GPU.

    A provider leaves nodes that it does not know to the CPU. How many these are is part of
    `runtime`, if this version of ONNX Runtime can tell; a session without any node on the GPU, or
    without the provider, is refused.

    A subclass has the `provider`, the option that makes it launch a CUDA graph in `graph_option`,
    what to install in `needs`, and in `memory` where inputs and images are bound.
    """

    provider = ""
    graph_option = ""
    needs = ""
    memory = "cuda"

    def __init__(
        self, path: Path, settings: RunSettings | None = None, session: Any = None
    ) -> None:
        super().__init__(path, settings, session)
        self._onnxruntime: Any = None
        self._rest = ""
        self._timed: _TimedSession | None = None

    @property
    def runtime(self) -> str:
        """The version, the provider, and what is left to the CPU."""
        name = self.provider.removesuffix("ExecutionProvider")
        return f"onnxruntime {self._version} with {name} on GPU{self._rest}"

    @property
    def timed(self) -> Infer:
        """A plain call, which makes both copies; or a bound one, if anything else was asked for."""
        if self._settings.transfers == BOTH and not self._settings.cuda_graph:
            return self
        if self._timed is None:
            self._timed = _TimedSession(self, self._settings)
        return self._timed

    def covers(self, batch: int) -> Covers:
        """What was timed at a batch size."""
        return self._settings.covers(self._timed.refused.get(batch) if self._timed else None)

    def open_with_graph(self) -> Any:
        """A second session, which captures the kernels of its first run and launches them after it.

        It holds one graph: the provider of TensorRT cannot have more, and CUDA's only from ONNX
        Runtime 1.18 on.

        Raises:
            RunnerError: The provider does not capture this model; the reason in a line.
        """
        providers = graph_providers(self._providers(), self.provider, self.graph_option)
        # Without the fallback, with which a session that fails is made again on the CPU.
        try:
            session = self._onnxruntime.InferenceSession(
                str(self._path),
                sess_options=self._options(self._onnxruntime),
                providers=providers,
                enable_fallback=0,
            )
        except self._opening_errors() as error:
            raise RunnerError(first_line(error)) from None
        refused = why_no_graph(session.get_provider_options(), self.provider, self.graph_option)
        if refused is not None:
            raise RunnerError(refused)
        return session

    def _opening_errors(self) -> tuple[type[Exception], ...]:
        """What a provider raises that does not start, or whose capture breaks off."""
        return (*self._errors, RuntimeError, ValueError)

    def _load(self, onnxruntime: Any) -> Any:
        available = onnxruntime.get_available_providers()
        if self.provider not in available:
            raise RunnerError(
                f"this onnxruntime has no {self.provider}, only {', '.join(available)}; "
                f"{self.needs}, or use the onnxruntime runner"
            )
        self._onnxruntime = onnxruntime
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

    def _stop(self) -> None:
        self._timed = None
        super()._stop()

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
    graph_option = "enable_cuda_graph"
    needs = "install onnxruntime-gpu in its place, with CUDA and cuDNN"


class OnnxRuntimeTensorRTRunner(OnnxRuntimeGpuRunner):
    """ONNX Runtime with its TensorRT provider; nodes that it cannot build go to CUDA."""

    provider = "TensorrtExecutionProvider"
    graph_option = "trt_cuda_graph_enable"
    needs = "install onnxruntime-gpu in its place, with CUDA, cuDNN and TensorRT"

    def _providers(self) -> list[str]:
        return [self.provider, OnnxRuntimeCudaRunner.provider, CPU]


class _TimedSession:
    """A session with the transfers and the launch that were asked for, and no others.

    The first call with some shapes is a whole one, by the plain session. Then inputs and images are
    bound to buffers of these shapes. A graph is a session of its own, which is opened anew when the
    shapes change. If the model cannot be captured, the plain session is bound, and `refused` says
    why, by batch size.
    """

    def __init__(self, runner: OnnxRuntimeGpuRunner, settings: RunSettings) -> None:
        self._runner, self._settings = runner, settings
        self._ready: tuple[tuple[int, ...], ...] | None = None
        self._bound: BoundSession | None = None
        self._images: NDArray[np.generic] = np.empty(0)
        self.refused: dict[int, str] = {}

    def infer(self, *feed: NDArray[np.generic]) -> NDArray[np.generic]:
        """Run it; without the transfer of the images, they are those of the first call."""
        shapes = tuple(array.shape for array in feed)
        named = self._runner._named(feed)
        try:
            if self._bound is None or self._ready != shapes:
                self._bound = self._prepare(feed)
                self._ready = shapes
            if self._settings.sends_inputs:
                self._bound.send(named)
            self._bound.run()
            if self._settings.fetches_images:
                self._images = self._bound.images()
        except self._runner._errors as error:
            raise self._runner._failed(feed, error) from None
        return self._images

    def _prepare(self, feed: tuple[NDArray[np.generic], ...]) -> BoundSession:
        self._bound = None  # the graph of other shapes goes first, with its memory
        self._images = self._runner.infer(*feed)
        if self._settings.cuda_graph:
            try:
                return self._captured(feed)
            except RunnerError as error:
                self.refused[len(feed[0])] = f"it cannot be captured ({error})"
        return self._bind(self._runner._session, feed)

    def _captured(self, feed: tuple[NDArray[np.generic], ...]) -> BoundSession:
        session = self._runner.open_with_graph()
        try:
            bound = self._bind(session, feed)
            bound.run()
        except self._runner._opening_errors() as error:
            raise RunnerError(first_line(error)) from None
        return bound

    def _bind(self, session: Any, feed: tuple[NDArray[np.generic], ...]) -> BoundSession:
        runner = self._runner
        named = runner._named(feed)
        return BoundSession(
            runner._onnxruntime, session, runner.memory, named, runner._output, self._images
        )


def graph_providers(
    providers: list[str], provider: str, option: str
) -> list[str | tuple[str, dict[str, str]]]:
    """The providers of a session, of which one is asked to launch a CUDA graph by its option."""
    return [(name, {option: "True"}) if name == provider else name for name in providers]


def why_no_graph(
    options: Mapping[str, Mapping[str, str]], provider: str, option: str
) -> str | None:
    """Why a session launches no CUDA graph, by the options that it says its providers have.

    Args:
        options: What `InferenceSession.get_provider_options` returns: for each provider that has
            started, its options.
        provider: The provider that was asked for a graph.
        option: The name of the option.

    Returns:
        The reason, or None if the provider is there and has taken the option.
    """
    if provider not in options:
        return f"ONNX Runtime took {', '.join(options)} in place of {provider}"
    if options[provider].get(option, "0").lower() not in ("1", "true"):
        return f"{provider} of this onnxruntime has no {option}"
    return None
