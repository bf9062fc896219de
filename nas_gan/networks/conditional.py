"""Labels of conditional generators: one-hot columns that follow the noise, or a separate input.

In training, sampling, measuring and compressing, a conditional generator takes one tensor
`(n, latent_dim + n_classes)`, so that code that handles latents also handles labels. An exported
network takes two inputs instead, since noise and integers are what a program on a device has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_gan.errors import InvalidValueError
from nas_gan.networks.interface import interface_of


def with_labels(noise: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Noise `(n, latent_dim)` and integer labels `(n,)` to latents `(n, latent_dim + n_classes)`.

    Raises:
        InvalidValueError: The numbers of rows differ, or a label is not in `0..n_classes - 1`.
    """
    if labels.shape != noise.shape[:1]:
        raise InvalidValueError(
            f"noise {tuple(noise.shape)} needs one label per row; got {tuple(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise InvalidValueError(
            f"labels must be in 0..{n_classes - 1}; got {int(labels.min())} to {int(labels.max())}"
        )
    onehot = F.one_hot(labels.long(), n_classes).to(noise)
    return torch.cat([noise, onehot], dim=1)


def labels_of(latents: Tensor, n_classes: int) -> Tensor:
    """The integer labels `(n,)` of latents `(n, latent_dim + n_classes)`."""
    return latents[:, -n_classes:].argmax(dim=1)


def split_labels(latents: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Undo `with_labels`: the noise `(n, latent_dim)` and the integer labels `(n,)`."""
    return latents[:, :-n_classes], labels_of(latents, n_classes)


class SplitInputs(nn.Module):
    """A conditional generator with two inputs: noise `(n, latent_dim)` and int64 labels `(n,)`.

    It can be traced and exported: the label selects a row of the identity matrix, and a label out
    of range is an error in whatever runs the graph.

    Raises:
        InvalidValueError: The generator is not conditional.
    """

    identity: Tensor

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        interface = interface_of(generator)
        if not interface.conditional:
            raise InvalidValueError(
                f"{type(generator).__name__} is not conditional; call it with latents alone"
            )
        n_classes = interface.n_classes
        self.generator = generator
        self.latent_dim, self.image_shape = interface.latent_dim, interface.image_shape
        self.n_classes = n_classes
        like = next(generator.parameters(), torch.empty(0))
        identity = torch.eye(n_classes, dtype=like.dtype, device=like.device)
        # It follows the generator to other devices and types, but need not be saved.
        self.register_buffer("identity", identity, persistent=False)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        onehot = F.embedding(label, self.identity)  # (n, n_classes)
        images: Tensor = self.generator(torch.cat([z, onehot], dim=1))
        return images
