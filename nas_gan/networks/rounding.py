"""Whether two ways to compute the same images differ by rounding alone."""

from __future__ import annotations

import torch

# The difference, relative to the largest value. Another way to compute moves images by far less,
# and a wrong one by far more.
TOLERANCE = 1e-4


def same_but_for_rounding(found: object, expected: object) -> bool:
    """Whether both are tensors of one shape with values that differ by rounding at most."""
    if not (isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor)):
        return False
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=0, atol=TOLERANCE * largest
    )
