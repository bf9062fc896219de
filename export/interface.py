"""What an exported generator takes and gives, by name.

Every one maps `latents`, float32 `(batch, latent_dim)`, to `images`, float32 `(batch, c, h, w)`. A
conditional one takes `labels` as well, int64 `(batch,)`: the class of each image, 0 to
n_classes - 1. Its graph turns them into the one-hot columns that the network reads behind the noise
everywhere else in this project (`nas_gan.networks.conditional`).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from export.manifest import TensorSpec
from nas_gan.networks.conditional import SplitInputs, split_labels
from nas_gan.training.describe import n_classes_of

LATENTS, LABELS, IMAGES, BATCH = "latents", "labels", "images", "batch"


def latent_dim_of(generator: nn.Module) -> int:
    """Length of its noise, without a label."""
    return cast(int, generator.latent_dim)


def input_width(generator: nn.Module) -> int:
    """Columns of its latents in torch: the noise, and if it is conditional the one-hot label."""
    return latent_dim_of(generator) + n_classes_of(generator)


def inputs_of(generator: nn.Module) -> tuple[TensorSpec, ...]:
    """The inputs of its graph, in their order."""
    latents = TensorSpec(LATENTS, "float32", (BATCH, latent_dim_of(generator)))
    labels = TensorSpec(LABELS, "int64", (BATCH,))
    return (latents, labels) if n_classes_of(generator) else (latents,)


def outputs_of(generator: nn.Module) -> tuple[TensorSpec, ...]:
    """The one output of its graph."""
    image_shape = cast("tuple[int, ...]", generator.image_shape)
    return (TensorSpec(IMAGES, "float32", (BATCH, *image_shape)),)


def with_exported_inputs(generator: nn.Module) -> nn.Module:
    """`generator` called with what its graph takes; itself if it is not conditional."""
    return SplitInputs(generator) if n_classes_of(generator) else generator


def arrays_of(generator: nn.Module, latents: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Latents `(n, input_width)` as the arrays that the graph takes, by input name."""
    n_classes = n_classes_of(generator)
    if not n_classes:
        return {LATENTS: latents.numpy()}
    noise, labels = split_labels(latents, n_classes)
    return {LATENTS: noise.contiguous().numpy(), LABELS: labels.numpy()}
