"""The parity check: does the exported graph draw the same images as the generator?"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.errors import ExportError
from export.interface import arrays_of, image_range_of, with_exported_inputs
from export.precision import TOLERANCES, Delivered
from export.sessions import Session
from nas_gan.networks.interface import IMAGE_RANGE, interface_of

BATCH_SIZES = (1, 5)


@dataclass(frozen=True)
class Parity:
    """How far the images of ONNX Runtime are from those of torch on the same latents.

    Attributes:
        max_abs: The largest difference of a pixel value, as if pixels were in [-1, 1].
        psnr_db: Peak signal-to-noise ratio in dB over the range of pixels; infinite if all are
            equal.
        n: Number of latents.
    """

    max_abs: float
    psnr_db: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """The values for JSON, which has no infinity: `psnr_db` is null if all pixels are equal."""
        psnr = self.psnr_db if math.isfinite(self.psnr_db) else None
        return {"max_abs": self.max_abs, "psnr_db": psnr, "samples": self.n}


def compare(
    expected: np.ndarray[Any, Any],
    found: np.ndarray[Any, Any],
    image_range: tuple[float, float] = IMAGE_RANGE,
) -> Parity:
    """The distance between two arrays of images `(n, c, h, w)` in a range; any NaN gives NaN."""
    if expected.shape != found.shape:
        raise ExportError(f"images have shape {found.shape}; torch gives {expected.shape}")
    width, ours = (high - low for low, high in (image_range, IMAGE_RANGE))
    difference = (found.astype(np.float64) - expected.astype(np.float64)) * (ours / width)
    mean_square = float(np.mean(difference**2))
    psnr = 10 * math.log10(ours**2 / mean_square) if mean_square > 0 else math.inf
    psnr = math.nan if math.isnan(mean_square) else psnr
    return Parity(float(np.abs(difference).max()), psnr, len(expected))


def check_parity(
    generator: nn.Module,
    onnx_path: Path,
    latents: Tensor,
    *,
    precision: Delivered = "fp32",
    batch_size: int = 16,
) -> Parity:
    """Check that ONNX Runtime draws the same images from a graph as torch from the generator.

    The graph also runs on 1 and on 5 latents, which fails if the export made the batch a constant.

    Args:
        generator: The generator, which is not changed.
        onnx_path: The graph that was exported from it.
        latents: Rows of latents `(n, *row_shape)`. The one-hot label of a conditional generator
            follows the noise; the graph gets the two separately.
        precision: Arithmetic of the graph, which decides how much images may differ.
        batch_size: Number of latents that run at once.

    Returns:
        How much the images differ.

    Raises:
        ExportError: The images differ by more than the precision allows, or the graph does not run.
        MissingPackageError: onnxruntime is not installed.
    """
    interface = interface_of(generator)
    arrays = arrays_of(interface, latents)
    expected = _torch_images(generator, arrays, batch_size)
    found = onnx_images(onnx_path, arrays, batch_size)
    parity = compare(expected, found, image_range_of(interface))
    tolerance = TOLERANCES[precision]
    # Written so that NaN fails the check.
    if not (parity.max_abs <= tolerance.max_abs and parity.psnr_db >= tolerance.psnr_db):
        int8 = precision == "int8"
        advice = "; with a quality budget, nodes that do this are left out" if int8 else ""
        raise ExportError(
            f"{onnx_path.name} does not draw the generator's images: on {parity.n} latents the "
            f"largest difference is {parity.max_abs:.3g} (at most {tolerance.max_abs:g}) and the "
            f"PSNR {parity.psnr_db:.1f} dB (at least {tolerance.psnr_db:g}) at {precision}{advice}"
        )
    return parity


def _torch_images(
    generator: nn.Module, arrays: Mapping[str, np.ndarray[Any, Any]], batch_size: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    reference = with_exported_inputs(copy.deepcopy(generator).cpu().float()).eval()
    batches = zip(*(torch.from_numpy(a).split(batch_size) for a in arrays.values()), strict=True)
    with torch.no_grad():
        return torch.cat([reference(*batch) for batch in batches]).numpy()


def onnx_images(
    path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], batch_size: int = 16
) -> np.ndarray[Any, Any]:
    """The images `(n, c, h, w)` that ONNX Runtime draws from inputs by name, on the CPU.

    Raises:
        ExportError: The graph does not run.
        MissingPackageError: onnxruntime is not installed.
    """
    session = Session(path, path.name)
    for n in BATCH_SIZES:
        session.images({name: np.resize(a, (n, *a.shape[1:])) for name, a in arrays.items()})
    starts = range(0, len(next(iter(arrays.values()))), batch_size)
    batches = ({name: a[i : i + batch_size] for name, a in arrays.items()} for i in starts)
    return np.concatenate([session.images(batch) for batch in batches])
