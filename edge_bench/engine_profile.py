"""Which layers of a TensorRT engine take the time, by the names of the network that was exported.

TensorRT's profiler tells the time of each of the engine's own layers, which fuse several nodes of
the graph, and its inspector which nodes these are. The two have the layer's name in common.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_bench.asked import RunSettings
from edge_bench.bundle import Bundle, load_samples
from edge_bench.errors import RunnerError
from edge_bench.inputs import InputSpec, draw_feed
from edge_bench.layer_shares import LayerShare, of_node, summed
from edge_bench.registry import KNOWN
from edge_bench.tensorrt_rtx_runner import TensorRTRTXRunner
from edge_bench.tensorrt_runner import TensorRTRunner

ENGINES = ("tensorrt", "tensorrt-rtx")
# Of the metadata of an engine that was built with detailed verbosity, as build_engine.py does.
_NODE_OF = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_FUSED = " + "
# What both versions of the inspector call types, in words of their own.
_TYPES = (
    ("FP32", r"\b(FP32|Float)\b"), ("FP16", r"\b(FP16|Half)\b"), ("BF16", r"\b(BF16|BFloat16)\b"),
    ("FP8", r"\bFP8\b"), ("INT8", r"\bInt8\b"), ("INT32", r"\bInt32\b"), ("INT64", r"\bInt64\b"),
)  # fmt: skip


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine as the inspector describes it.

    Attributes:
        name: Its name, which the profiler uses too.
        kind: What it is, as `CaskConvolution`; empty if the engine holds names only.
        nodes: The nodes of the graph that it computes.
        output_type: The type of its first output, as `FP16`; empty if it is not told.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    output_type: str


def read_inspector(text: str) -> tuple[EngineLayer, ...]:
    """The layers in the inspector's JSON, of TensorRT 10 or 11.

    A layer is a name alone, or with its details a table whose tensors have `Format/Datatype` in
    version 10, and `DataType` beside `Format` in 11.

    Raises:
        RunnerError: It is something else.
    """
    try:
        return tuple(_layer(entry) for entry in json.loads(text)["Layers"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunnerError(
            f"TensorRT's inspector tells layers in a form that is not known ({error!r})"
        ) from None


def _layer(entry: Any) -> EngineLayer:
    if isinstance(entry, str):
        return EngineLayer(entry, "", tuple(entry.split(_FUSED)), "")
    name = str(entry["Name"])
    nodes = tuple(_NODE_OF.findall(str(entry.get("Metadata", "")))) or tuple(name.split(_FUSED))
    outputs = entry.get("Outputs") or [{}]
    return EngineLayer(name, str(entry.get("LayerType", "")), nodes, _type(outputs[0]))


def _type(tensor: Any) -> str:
    told = " ".join(
        str(tensor[key]) for key in ("Format/Datatype", "DataType", "Datatype") if key in tensor
    )
    return next((name for name, words in _TYPES if re.search(words, told, re.IGNORECASE)), "")


def engine_shares(
    times: Iterable[tuple[str, float]], layers: Sequence[EngineLayer], runs: int
) -> tuple[LayerShare, ...]:
    """Sum up the times of an engine's layers by the layers of the network.

    The time of what is fused is not divided: it is a row with all the names. What computes no node
    of a layer, such as a copy into another format, is summed up by what it is.

    Args:
        times: Name and milliseconds of each execution of a layer of the engine.
        layers: What the inspector told.
        runs: The number of runs that the times come from.

    Returns:
        Their means over the runs, the longest first.
    """
    described = {layer.name: layer for layer in layers}

    def event(name: str, ms: float) -> tuple[str, str, str, float]:
        known = described.get(name) or EngineLayer(name, "", tuple(name.split(_FUSED)), "")
        found = dict.fromkeys(filter(None, map(of_node, known.nodes)))
        names = _FUSED.join(dict.fromkeys(layer for layer, _ in found))
        operators = _FUSED.join(operator for _, operator in found) or known.kind or known.name
        kind = f"{operators} ({known.output_type})" if known.output_type else operators
        return names, kind, name, ms * 1e3

    return summed((event(name, ms) for name, ms in times), runs)


class _Profiled(TensorRTRunner):
    """An engine that tells the time of each of its layers after each run."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.times: list[tuple[str, float]] = []
        self._profiler: Any = None
        self._told = ""

    @property
    def told(self) -> str:
        """What the inspector tells of the layers, in JSON."""
        return self._told

    def _load(self, trt: Any) -> tuple[Sequence[InputSpec], int]:
        found = super()._load(trt)
        # TensorRT keeps a bare pointer to it.
        self._profiler = make_profiler(trt, lambda name, ms: self.times.append((name, ms)))
        self._context.profiler = self._profiler
        inspector = self._engine.create_engine_inspector()
        self._told = str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        return found


class ProfiledTensorRT(_Profiled):
    """An engine of TensorRT under its profiler."""


class ProfiledTensorRTRTX(_Profiled, TensorRTRTXRunner):
    """An engine of TensorRT-RTX under its profiler."""


def make_profiler(trt: Any, record: Callable[[str, float], None]) -> Any:
    """A profiler that hands on the name and the milliseconds of each layer."""

    class Profiler(trt.IProfiler):  # the base class is known only at run time
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            record(str(layer_name), float(ms))

    return Profiler()


def open_profiled(bundle: Bundle, name: str, settings: RunSettings) -> _Profiled:
    """The engine of a bundle under the profiler of its runtime, not entered yet.

    Raises:
        RunnerError: There is no engine.
    """
    kind = ProfiledTensorRTRTX if name == "tensorrt-rtx" else ProfiledTensorRT
    plain = KNOWN[name](bundle, settings)
    assert isinstance(plain, TensorRTRunner)
    return kind(*plain.source, settings)


def profile_engine(
    runner: _Profiled, bundle: Bundle, *, batch: int, runs: int, seed: int
) -> tuple[LayerShare, ...]:
    """Run an engine, and half of the runs are counted.

    Raises:
        RunnerError: TensorRT is missing, refuses the engine, or told no time.
    """
    with runner:
        feed = draw_feed(runner.inputs, batch, seed, bundle.n_classes, load_samples(bundle))
        for run in range(2 * runs):
            if run == runs:
                runner.times.clear()
            runner.infer(*feed)
        if not runner.times:
            raise RunnerError(f"{bundle.path}: TensorRT's profiler told no time")
        return engine_shares(runner.times, read_inspector(runner.told), runs)
