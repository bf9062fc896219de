"""What a model is fed: the inputs in its bundle, or standard normal latents and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import RunnerError

Feed = tuple[NDArray[np.generic], ...]
"""One array for each input of a model, in their order; the first axis of each is the batch."""


@dataclass(frozen=True)
class InputSpec:
    """An input of a model; `shape` begins with the batch, and `None` stands for any size."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def take(self, rows: NDArray[np.generic], batch: int) -> NDArray[np.generic]:
        """The first `batch` of the rows `(n, ...)`, beginning again where there are no more.

        Raises:
            RunnerError: its batch size is fixed and another, or the rows do not fit its shape.
        """
        wanted, found = self._of_batch(batch)[1:], rows.shape[1:]
        sizes = zip(wanted, found, strict=False)
        if len(wanted) != len(found) or any(w not in (None, size) for w, size in sizes):
            raise RunnerError(
                f"input {self.name!r} has shape {self.shape}, and its rows in the bundle "
                f"{rows.shape}; export the bundle again"
            )
        return rows[np.arange(batch) % len(rows)].astype(self.dtype)

    @property
    def is_label(self) -> bool:
        """Whether it takes whole numbers: the class of each image."""
        return self.dtype.kind == "i"

    def latents(self, batch: int, rng: np.random.Generator) -> NDArray[np.generic]:
        """`batch` standard normal latents of this shape.

        Raises:
            RunnerError: its batch size is fixed and another, or its latent size is not fixed.
        """
        rest = self._of_batch(batch)[1:]
        sizes = [size for size in rest if size is not None]
        if not rest or len(sizes) != len(rest):
            raise RunnerError(
                f"input {self.name!r} has shape {self.shape}; a batch and a fixed latent size, "
                "as in (None, 128), are expected"
            )
        return rng.standard_normal((batch, *sizes), dtype=np.float32).astype(self.dtype)

    def labels(self, batch: int, n_classes: int) -> NDArray[np.generic]:
        """`batch` labels that cycle through 0 to n_classes - 1.

        Raises:
            RunnerError: its batch size is fixed and another, or it takes several numbers per image.
        """
        if len(self._of_batch(batch)) != 1:
            raise RunnerError(
                f"input {self.name!r} has shape {self.shape}; one label for each image, as in "
                "(None,), is expected"
            )
        return (np.arange(batch) % n_classes).astype(self.dtype)

    def _of_batch(self, batch: int) -> tuple[int | None, ...]:
        fixed = self.shape[0] if self.shape else None
        if fixed is not None and fixed != batch:
            raise RunnerError(
                f"input {self.name!r} has a fixed batch of {fixed}, asked for {batch}; "
                f"use batch size {fixed} or export with a dynamic batch"
            )
        return self.shape


def check_inputs(path: Path, inputs: Sequence[InputSpec], n_outputs: int) -> tuple[InputSpec, ...]:
    """The inputs of the model at `path`, labels last: noise or an image, and maybe labels.

    Raises:
        RunnerError: it has other inputs, or not exactly one output.
    """
    inputs = sorted(inputs, key=lambda spec: spec.is_label)
    kinds = [spec.is_label for spec in inputs]
    if kinds not in ([False], [False, True], [False, False]) or n_outputs != 1:
        found = ", ".join(f"{spec.name} {spec.dtype}" for spec in inputs) or "none"
        raise RunnerError(
            f"{path}: one input (latents), or two (latents, and labels as whole numbers), and one "
            f"output (images) are expected, found {len(inputs)} ({found}) and {n_outputs}"
        )
    return tuple(inputs)


def batch_range_of(inputs: Sequence[InputSpec]) -> tuple[int, int | None]:
    """The smallest and the largest batch that the shapes allow; None for the latter if any is."""
    fixed = [spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None]
    return (max(fixed), min(fixed)) if fixed else (1, None)


def draw_feed(
    inputs: Sequence[InputSpec],
    batch: int,
    seed: int,
    n_classes: int | None,
    samples: Mapping[str, NDArray[np.generic]],
) -> Feed:
    """Inputs for `batch` images; equal seeds and inputs give equal numbers.

    Inputs are those in `samples`, by name, and otherwise made up: standard normal latents, and
    labels.

    The first rows of a larger feed are the smaller one. If the number of classes is not known,
    every label is 0, a class that any conditional model has.

    Raises:
        RunnerError: the model does not accept this batch size.
    """
    rng = np.random.default_rng(seed)

    def draw(spec: InputSpec) -> NDArray[np.generic]:
        if spec.name in samples:
            return spec.take(samples[spec.name], batch)
        return spec.labels(batch, n_classes or 1) if spec.is_label else spec.latents(batch, rng)

    return tuple(draw(spec) for spec in inputs)


def fits(inputs: Sequence[InputSpec], shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether arrays of these shapes can be fed together: one size of batch, and the rest fixed."""
    if len(inputs) != len(shapes) or not all(shapes) or len({shape[0] for shape in shapes}) != 1:
        return False
    return all(
        len(spec.shape) == len(shape)
        and all(wanted in (None, size) for wanted, size in zip(spec.shape, shape, strict=True))
        for spec, shape in zip(inputs, shapes, strict=True)
    )


def shapes_of(feed: Sequence[NDArray[np.generic]]) -> str:
    """The shapes of a feed, for a message."""
    return " and ".join(str(array.shape) for array in feed)
