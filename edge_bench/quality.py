"""How good the images of a model are on the device that runs it, against the dense one's.

A bundle that was exported with features holds what this takes: a network that turns images into
features, statistics of the features of a reference, and latents. Only numpy and ONNX Runtime are
needed; the images come from whatever runtime is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.bundle import Bundle, QualityFiles
from edge_bench.errors import BundleError, RunnerError
from edge_bench.frechet import Distances, Reference, Rise, distances
from edge_bench.inputs import InputSpec
from edge_bench.reading import AGAIN, read_npy
from edge_bench.runners import Runner, onnxruntime_errors

# A feature network looks at so many images at once, to stay within the memory of a small board.
BATCH = 32


@dataclass(frozen=True)
class QualityRow:
    """The distance of a model's images to the reference, in the limit of many images.

    Attributes:
        bundle: Name of the bundle.
        distance: The Fréchet distance.
        rise: Its rise over the first bundle's on the same latents; None for the first.
        images: Number of images.
        features: The feature space; distances in different ones cannot be compared.
    """

    bundle: str
    distance: float
    rise: Rise | None
    images: int
    features: str


def score(
    bundles: Sequence[Bundle],
    runners: Sequence[Runner],
    files: QualityFiles,
    *,
    batch: int,
    threads: int,
    advance: Callable[[float], None] = lambda fraction: None,
) -> tuple[QualityRow, ...]:
    """Score every model on the latents of `files`.

    Args:
        bundles: The bundles, the dense one first.
        runners: Their runners, which are open.
        files: The features, statistics and latents.
        batch: Number of images that a runner makes at once.
        threads: Number of CPU threads of the feature network.
        advance: Called with the finished fraction, 0 to 1.

    Returns:
        A row for each bundle.

    Raises:
        BundleError: A file is not what it should be.
        RunnerError: ONNX Runtime is missing, or a model refuses the latents.
    """
    reference = Reference(_matrix(files.mean, 1), _matrix(files.factor, 2))
    inputs = {file.stem.removeprefix(QualityFiles.PREFIX): read_npy(file) for file in files.inputs}
    n = min(map(len, inputs.values()))
    extract = _open_features(files.features, threads)
    rows: list[QualityRow] = []
    dense: Distances | None = None
    for done, (bundle, runner) in enumerate(zip(bundles, runners, strict=True)):
        parts = []
        for images in _images(runner, inputs, n, batch, bundle.image_range):
            parts += [extract(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
            advance((done + sum(map(len, parts)) / n) / len(bundles))
        found = distances(np.concatenate(parts), reference)
        rise = None if dense is None else found.rise_over(dense)
        dense = dense or found
        rows.append(QualityRow(bundle.name, found.value, rise, n, files.extractor))
    return tuple(rows)


def to_bytes(images: NDArray[Any], image_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Images `(n, c, h, w)` in a range as bytes of three channels, rounded as pytorch-fid does.

    Raises:
        RunnerError: They are not images of 1 or 3 channels, or hold a NaN or an infinity.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise RunnerError(f"images have shape {images.shape}; (n, 1 or 3, h, w) can be scored")
    if not np.isfinite(images).all():
        raise RunnerError("images hold a NaN or an infinity, so they have no quality to measure")
    low, high = image_range
    signed = images.astype(np.float32)
    if image_range != (-1.0, 1.0):
        signed = (signed - np.float32(low)) * np.float32(2 / (high - low)) - 1
    pixels = np.clip(signed * np.float32(127.5) + np.float32(127.5), 0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))


def _images(
    runner: Runner,
    inputs: dict[str, NDArray[Any]],
    n: int,
    batch: int,
    image_range: tuple[float, float],
) -> Iterator[NDArray[np.uint8]]:
    """The images of the first n rows, batch by batch, as bytes."""
    for start in range(0, n, batch):
        # The last batch is filled up with rows that are not scored: an engine may take one size.
        rows = np.arange(start, start + batch) % n
        feed = [_rows(spec, inputs, rows) for spec in runner.inputs]
        yield to_bytes(runner.infer(*feed)[: n - start], image_range)


def _rows(
    spec: InputSpec, inputs: dict[str, NDArray[Any]], rows: NDArray[np.intp]
) -> NDArray[np.generic]:
    found = inputs.get(spec.name)
    if found is None:
        raise RunnerError(f"the bundle holds no {spec.name} to measure quality with; {AGAIN}")
    return spec.take(found[rows], len(rows))


def _matrix(path: Path, ndim: int) -> NDArray[np.float64]:
    found = read_npy(path)
    if found.ndim != ndim or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise BundleError(f"{path}: not statistics of features; {AGAIN}")
    return found.astype(np.float64)


def _open_features(path: Path, threads: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    try:
        import onnxruntime
    except ImportError:
        raise RunnerError(
            "quality is measured with ONNX Runtime, which is not installed; "
            "install it with: pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # A ValueError is that of a network with several inputs.
    refused: tuple[type[Exception], ...] = (ValueError, *onnxruntime_errors())
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        [name] = [tensor.name for tensor in session.get_inputs()]
    except refused as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: does not load as a network of features: {reason}") from None

    def extract(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        [features] = session.run(None, {name: np.ascontiguousarray(images)})
        if features.ndim != 2 or len(features) != len(images):
            raise BundleError(f"{path}: gives {features.shape}, not a row for each image; {AGAIN}")
        return np.asarray(features, np.float32)

    return extract
