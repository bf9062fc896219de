"""How a searched network takes a class: conditional batch norm and a projected label.

Labels are one-hot rows `(n, n_classes)`, as everywhere in this package.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError


def check_n_classes(n_classes: int) -> None:
    """Raise InvalidValueError unless a network can have so many classes; 0 is none."""
    if n_classes < 0 or n_classes == 1:
        raise InvalidValueError(
            f"a conditional network has at least 2 classes, any other 0; got {n_classes}"
        )


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalisation whose gain and bias are those of the class of each image.

    Maps `(n, c, h, w)` and labels `(n, n_classes)` to `(n, c, h, w)`. At the start every class has
    a gain of one and a bias of zero. The statistics are those of all classes together. Source: de
    Vries, Strub, Mary, Larochelle, Pietquin, Courville (NeurIPS 2017), as in Miyato and Koyama
    (ICLR 2018).
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        # Parameters instead of linear layers: a table of classes is neither spectrally normed nor
        # factorized.
        self.gain = nn.Parameter(torch.ones(n_classes, channels))
        self.bias = nn.Parameter(torch.zeros(n_classes, channels))

    def forward(self, x: Tensor, onehot: Tensor) -> Tensor:
        gain, bias = onehot @ self.gain, onehot @ self.bias  # (n, c)
        return self.norm(x) * gain[:, :, None, None] + bias[:, :, None, None]


class LabelledSequential(nn.Sequential):
    """A sequence of layers whose conditional norms also take the label."""

    def forward(self, x: Tensor, onehot: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x, onehot) if isinstance(layer, ConditionalBatchNorm2d) else layer(x)
        return x


def make_norm(channels: int, n_classes: int) -> nn.BatchNorm2d | ConditionalBatchNorm2d:
    """A batch normalisation, which is conditional if there are classes."""
    if n_classes:
        return ConditionalBatchNorm2d(channels, n_classes)
    return nn.BatchNorm2d(channels)


class Projection(nn.Module):
    """What the class of an image adds to its scores: a linear map of its features for each class.

    Maps features `(n, c)` and labels `(n, n_classes)` to `(n, n_outputs)`. With one output it is
    the inner product with an embedding of the class of Miyato and Koyama (cGANs with Projection
    Discriminator, ICLR 2018); a score of several dimensions has one such product in each.
    """

    def __init__(self, channels: int, n_outputs: int, n_classes: int) -> None:
        super().__init__()
        self.shape = (n_outputs, channels)
        # A linear layer of the label, so that it is initialised and spectrally normed like others.
        self.embedding = nn.Linear(n_classes, n_outputs * channels, bias=False)

    def forward(self, features: Tensor, onehot: Tensor) -> Tensor:
        maps = self.embedding(onehot).unflatten(1, self.shape)  # (n, n_outputs, c)
        return (maps * features[:, None]).sum(dim=2)


def check_label(onehot: Tensor | None, n_classes: int) -> None:
    """Refuse a call of a discriminator with labels that it does not take, or without those it does.

    Raises:
        InvalidValueError: it is such a call.
    """
    if (onehot is not None) != bool(n_classes):
        raise InvalidValueError(
            f"this discriminator has {n_classes} classes; call it with "
            f"{'images and one-hot labels' if n_classes else 'images alone'}"
        )
