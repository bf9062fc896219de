from __future__ import annotations

import numpy as np
import torch

from export.interface import (
    arrays_of,
    inputs_of,
    outputs_of,
    with_exported_inputs,
)
from export.manifest import TensorSpec
from nas_gan.networks.interface import interface_of

LATENTS = TensorSpec("latents", "float32", ("batch", 6))


def test_a_generator_takes_latents_and_gives_images(upsampler):
    assert inputs_of(interface_of(upsampler)) == (LATENTS,)
    assert outputs_of(interface_of(upsampler)) == (
        TensorSpec("images", "float32", ("batch", 3, 8, 8)),
    )
    assert interface_of(upsampler).input_width == 6
    assert with_exported_inputs(upsampler) is upsampler


def test_a_conditional_one_takes_labels_besides_which_in_torch_are_columns(conditional):
    assert inputs_of(interface_of(conditional)) == (
        LATENTS,
        TensorSpec("labels", "int64", ("batch",)),
    )
    assert interface_of(conditional).input_width == 6 + 5


def test_latents_of_torch_become_the_arrays_of_the_graph(conditional):
    noise = torch.arange(12.0).view(2, 6)
    onehot = torch.tensor([[0.0, 0, 0, 1, 0], [1.0, 0, 0, 0, 0]])
    arrays = arrays_of(interface_of(conditional), torch.cat([noise, onehot], dim=1))
    assert list(arrays) == ["latents", "labels"]
    np.testing.assert_array_equal(arrays["latents"], noise.numpy())
    assert (arrays["labels"].tolist(), arrays["labels"].dtype) == ([3, 0], np.int64)


def test_called_with_these_arrays_it_draws_the_images_of_its_latents(conditional):
    latents = torch.cat([torch.ones(5, 6), torch.eye(5)], dim=1)
    tensors = [torch.from_numpy(a) for a in arrays_of(interface_of(conditional), latents).values()]
    assert torch.equal(with_exported_inputs(conditional)(*tensors), conditional(latents))
