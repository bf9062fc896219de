"""The inputs and outputs of an exported generator, by name.

The graph of a generator of this toolkit maps `latents`, float32 `(batch, latent_dim)`, to
`images`, float32 `(batch, c, h, w)` in [-1, 1]. If it is conditional it also takes `labels`, int64
`(batch,)`: the class of each image, 0 to n_classes - 1. Everywhere else in this project, a label is
a one-hot row that follows the noise (`nas_gan.networks.conditional`); the graph makes this row from
the label.

The graph of a network with an interface of its own keeps it: its inputs have the names and shapes
of its `forward`, and its images their own range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from export.manifest import TensorSpec
from nas_gan.networks.adapting import native, native_inputs
from nas_gan.networks.conditional import SplitInputs
from nas_gan.networks.interface import IMAGE_RANGE, GeneratorInterface, interface_of

LATENTS, LABELS, IMAGES, OUTPUT, BATCH = "latents", "labels", "images", "output", "batch"


def inputs_of(interface: GeneratorInterface) -> tuple[TensorSpec, ...]:
    """The inputs of a generator's graph, in order: noise or image, then the label if any."""
    calling = interface.calling
    if calling is None:
        latents = TensorSpec(LATENTS, "float32", (BATCH, interface.latent_dim))
        labels = TensorSpec(LABELS, "int64", (BATCH,))
        return (latents, labels) if interface.conditional else (latents,)
    names = calling.input_names
    first = TensorSpec(names[0], "float32", (BATCH, *calling.input_shape))
    if calling.label_form == "index":
        return first, TensorSpec(names[1], "int64", (BATCH,))
    if calling.label_form == "onehot":
        return first, TensorSpec(names[1], "float32", (BATCH, interface.n_classes))
    return (first,)


def outputs_of(interface: GeneratorInterface) -> tuple[TensorSpec, ...]:
    """The only output of a generator's graph, its images."""
    taken = any(spec.name == IMAGES for spec in inputs_of(interface))
    name = OUTPUT if taken else IMAGES
    return (TensorSpec(name, "float32", (BATCH, *interface.image_shape)),)


def image_range_of(interface: GeneratorInterface) -> tuple[float, float]:
    """The values of black and white in the images of a generator's graph."""
    return IMAGE_RANGE if interface.calling is None else interface.calling.output_range


def with_exported_inputs(generator: nn.Module) -> nn.Module:
    """A module that takes the inputs of the graph and returns its images."""
    found = native(generator)
    if found is not None:
        return found
    return SplitInputs(generator) if interface_of(generator).conditional else generator


def arrays_of(interface: GeneratorInterface, rows: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Rows `(n, *row_shape)` as the arrays that the graph takes, by input name."""
    specs, tensors = inputs_of(interface), native_inputs(interface, rows)
    return {
        spec.name: tensor.contiguous().numpy().astype(spec.dtype)
        for spec, tensor in zip(specs, tensors, strict=True)
    }
