"""The runtimes by name, and which of them a name stands for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

from edge_bench.asked import RunSettings
from edge_bench.bundle import Bundle
from edge_bench.errors import InvalidValueError, RunnerError
from edge_bench.onnx_providers import OnnxRuntimeCudaRunner, OnnxRuntimeTensorRTRunner
from edge_bench.openvino_runner import OpenVINORunner
from edge_bench.runners import OnnxRuntimeRunner, Runner
from edge_bench.tensorrt_rtx_runner import TensorRTRTXRunner, engine_for_this_gpu
from edge_bench.tensorrt_runner import TensorRTRunner
from edge_bench.torch_runner import TorchCudaRunner, TorchRunner, program_of

Open = Callable[[Bundle, RunSettings], Runner]
"""Makes the runner of a bundle, not entered yet."""


def _onnx(kind: type[OnnxRuntimeRunner] | type[OpenVINORunner]) -> Open:
    def make(bundle: Bundle, settings: RunSettings) -> Runner:
        if bundle.model is None:
            raise RunnerError(f"{bundle.path}: {kind.title} needs model.onnx, not an engine")
        if not bundle.model.as_posix().isprintable():  # among them, bytes that are no UTF-8
            raise RunnerError(
                f"{str(bundle.model)!a}: {kind.title} does not open a file of this name; rename "
                "it to plain text"
            )
        return kind(bundle.model, settings)

    return make


def _tensorrt(bundle: Bundle, settings: RunSettings) -> Runner:
    if bundle.engine is None:
        raise RunnerError(
            f"{bundle.path}: {bundle.refused}"
            if bundle.refused
            else f"{bundle.path}: no TensorRT engine; build it on this device with "
            "build_engine.py of the bundle, or use the onnxruntime runner"
        )
    return TensorRTRunner(bundle.engine, bundle.engine_sha256, settings)


def _tensorrt_rtx(bundle: Bundle, settings: RunSettings) -> Runner:
    if bundle.model is None and bundle.engine is not None:
        return TensorRTRTXRunner(bundle.engine, bundle.engine_sha256, settings)
    return TensorRTRTXRunner(*engine_for_this_gpu(bundle), settings)


def _torch(kind: type[TorchRunner]) -> Open:
    def make(bundle: Bundle, settings: RunSettings) -> Runner:
        return kind(*program_of(bundle), settings)

    return make


KNOWN: dict[str, Open] = {
    "onnxruntime": _onnx(OnnxRuntimeRunner),
    "onnxruntime-cuda": _onnx(OnnxRuntimeCudaRunner),
    "onnxruntime-tensorrt": _onnx(OnnxRuntimeTensorRTRunner),
    "openvino": _onnx(OpenVINORunner),
    "torch": _torch(TorchRunner),
    "torch-cuda": _torch(TorchCudaRunner),
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
}
RUNNERS = ("auto", *KNOWN)
ON_GPU = frozenset(KNOWN) - {"onnxruntime", "openvino", "torch"}


def check_runner(name: str, known: Sequence[str] = RUNNERS) -> None:
    """Refuse a name that is not a known one.

    Raises:
        RunnerError: it is not.
    """
    if name not in known:
        raise RunnerError(
            f"{name!r} is not known; choose one of {', '.join(known)}", setting="runner"
        )


def resolve_runners(bundles: Sequence[Bundle], names: Sequence[str]) -> tuple[str, ...]:
    """The runtimes that these names stand for, each once.

    `auto` is TensorRT if every bundle has an engine and the `tensorrt` package is installed, and
    ONNX Runtime otherwise: a ratio between two runtimes would say nothing about the models.

    Raises:
        InvalidValueError: there is no name.
        RunnerError: a name is not known.
    """
    if not names:
        raise InvalidValueError("needs a name at least", setting="runner")
    for name in names:
        check_runner(name)
    return tuple(dict.fromkeys(_auto(bundles) if name == "auto" else name for name in names))


def open_runners(bundles: Sequence[Bundle], name: str, settings: RunSettings) -> list[Runner]:
    """One runner per bundle, not entered yet; all of them use the same runtime.

    Raises:
        RunnerError: the name is not known, or a bundle lacks what the runtime runs.
    """
    [name] = resolve_runners(bundles, [name])
    return [KNOWN[name](bundle, settings) for bundle in bundles]


def _auto(bundles: Sequence[Bundle]) -> str:
    engines = all(bundle.engine for bundle in bundles)
    only_engines = any(bundle.model is None for bundle in bundles)
    if engines and (only_engines or importlib.util.find_spec("tensorrt") is not None):
        return "tensorrt"
    return "onnxruntime"
