"""TensorRT-RTX on an NVIDIA GPU: the engines that `python -m export` writes into a bundle."""

from __future__ import annotations

from pathlib import Path

from edge_bench.bundle import Bundle
from edge_bench.cuda import open_cuda
from edge_bench.errors import RunnerError
from edge_bench.listed import listed_engines
from edge_bench.tensorrt_runner import TensorRTRunner

TARGET = "tensorrt-rtx"


class TensorRTRTXRunner(TensorRTRunner):
    """A serialized engine of TensorRT-RTX, which has the interface of TensorRT."""

    package = "tensorrt_rtx"
    missing = (
        'the tensorrt_rtx package is not installed; pip install "ard-gan[tensorrt-rtx]", or use '
        "the onnxruntime runner"
    )
    name = "tensorrt-rtx"
    rebuild = "export the bundle again with the tensorrt_rtx package of this machine"


def engine_for_this_gpu(bundle: Bundle) -> tuple[Path, str]:
    """The engine of a bundle for the compute capability of the first GPU, and its hash.

    Raises:
        RunnerError: There is no GPU, or no engine for it.
        BundleError: The manifest does not say which engines there are.
    """
    engines = listed_engines(bundle, TARGET)
    if not engines:
        raise RunnerError(
            f"{bundle.path}: no TensorRT-RTX engine; export the bundle where the tensorrt_rtx "
            "package is installed, or use the onnxruntime runner"
        )
    capability = open_cuda().compute_capability()
    if capability not in engines:
        raise RunnerError(
            f"{bundle.path}: TensorRT-RTX engines for compute capability "
            f"{', '.join(sorted(engines))}, and this GPU has {capability}; export the bundle for "
            "it, or use the onnxruntime runner"
        )
    return engines[capability]
