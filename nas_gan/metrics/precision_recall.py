"""Precision and recall of Kynkäänniemi et al. (2019).

Precision is the share of generated images within reach of a real one, recall the share of real
images within reach of a generated one. The reach of an image is its distance, in feature space, to
its third nearest neighbour on its own side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.metrics.optional import import_for

# As in the paper.
NEIGHBOURS = 3
# Rows of the distance matrix held at once: 40 MB for 10,000 images.
_ROWS = 1000


@dataclass(frozen=True)
class PrecisionRecall:
    """Two shares between 0 and 1. Both depend on `n` and `n_reference`: compare at equal ones."""

    precision: float
    recall: float
    neighbours: int
    n: int
    n_reference: int


def precision_recall(
    features: npt.NDArray[Any], reference: npt.NDArray[Any], *, neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """Precision and recall of generated features `(n, d)` against real ones `(m, d)`."""
    if min(len(features), len(reference)) <= neighbours:
        raise InvalidValueError(
            f"precision and recall by {neighbours} neighbours need at least {neighbours + 1} "
            f"images on each side; got {len(features)} and {len(reference)}"
        )
    module = import_for("prc", "torch_fidelity.metric_prc")
    values = module.prc_features_to_metric(
        torch.from_numpy(features),
        torch.from_numpy(reference),
        prc_neighborhood=neighbours,
        prc_batch_size=_ROWS,
        save_cpu_ram=True,
        verbose=False,
    )
    return PrecisionRecall(
        values[module.KEY_METRIC_PRECISION],
        values[module.KEY_METRIC_RECALL],
        neighbours,
        len(features),
        len(reference),
    )
