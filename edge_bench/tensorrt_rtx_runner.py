"""TensorRT-RTX on an NVIDIA GPU: the engines that `python -m export` writes into a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_bench.bundle import MANIFEST, Bundle
from edge_bench.cuda import open_cuda
from edge_bench.errors import BundleError, RunnerError
from edge_bench.reading import AGAIN, inside, read_json
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
    engines = listed_engines(bundle)
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


def listed_engines(bundle: Bundle) -> dict[str, tuple[Path, str]]:
    """File and hash of each TensorRT-RTX engine of a bundle, by compute capability such as 8.6.

    Raises:
        BundleError: The manifest is damaged.
    """
    path = bundle.path / MANIFEST
    if not bundle.path.is_dir():
        return {}
    manifest: dict[str, Any] = read_json(path)
    try:
        return {
            str(entry["compute_capability"]): (
                inside(bundle.path, entry["file"], path),
                str(manifest["files"][entry["file"]]["sha256"]),
            )
            for entry in manifest.get("engines") or []
            if entry["target"] == TARGET
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{path}: engines are not listed as expected ({error!r}); {AGAIN}"
        ) from None
