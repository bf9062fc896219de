"""The inputs and outputs of an exported generator, by name.

Every graph maps `latents`, float32 `(batch, latent_dim)`, to `images`, float32 `(batch, c, h, w)`.
The graph of a conditional generator also takes `labels`, int64 `(batch,)`: the class of each image,
0 to n_classes - 1. Everywhere else in this project, a label is a one-hot row that follows the noise
(`nas_gan.networks.conditional`); the graph makes this row from the label.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from export.manifest import TensorSpec
from nas_gan.networks.conditional import SplitInputs, split_labels
from nas_gan.networks.interface import GeneratorInterface, interface_of

LATENTS, LABELS, IMAGES, BATCH = "latents", "labels", "images", "batch"


def inputs_of(interface: GeneratorInterface) -> tuple[TensorSpec, ...]:
    """The inputs of a generator's graph, in order."""
    latents = TensorSpec(LATENTS, "float32", (BATCH, interface.latent_dim))
    labels = TensorSpec(LABELS, "int64", (BATCH,))
    return (latents, labels) if interface.conditional else (latents,)


def outputs_of(interface: GeneratorInterface) -> tuple[TensorSpec, ...]:
    """The only output of a generator's graph, its images."""
    return (TensorSpec(IMAGES, "float32", (BATCH, *interface.image_shape)),)


def with_exported_inputs(generator: nn.Module) -> nn.Module:
    """A module that takes the inputs of the graph; the generator itself if it is unconditional."""
    return SplitInputs(generator) if interface_of(generator).conditional else generator


def arrays_of(interface: GeneratorInterface, latents: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Latents `(n, latent_dim + n_classes)` as the arrays that the graph takes, by input name."""
    if not interface.conditional:
        return {LATENTS: latents.numpy()}
    noise, labels = split_labels(latents, interface.n_classes)
    return {LATENTS: noise.contiguous().numpy(), LABELS: labels.numpy()}
