"""What a manifest lists besides the graph: files for other runtimes, and the model's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_bench.bundle import MANIFEST, Bundle
from edge_bench.errors import BundleError
from edge_bench.inputs import InputSpec
from edge_bench.reading import AGAIN, inside, read_json


def listed_engines(bundle: Bundle, target: str) -> dict[str, tuple[Path, str]]:
    """File and hash of each engine of a bundle for a runtime, by compute capability such as 8.6.

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
            if entry["target"] == target
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{path}: engines are not listed as expected ({error!r}); {AGAIN}"
        ) from None


def listed_inputs(bundle: Bundle) -> tuple[InputSpec, ...]:
    """The inputs of the graph as the manifest lists them.

    Raises:
        BundleError: The manifest is damaged.
    """
    path = bundle.path / MANIFEST
    manifest: dict[str, Any] = read_json(path)
    try:
        found = tuple(
            InputSpec(str(one["name"]), np.dtype(one["dtype"]), _shape(one["shape"]))
            for one in manifest["inputs"]
        )
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(
            f"{path}: inputs are not listed as expected ({error!r}); {AGAIN}"
        ) from None
    return found


def _shape(sizes: list[Any]) -> tuple[int | None, ...]:
    return tuple(size if type(size) is int else None for size in sizes)
