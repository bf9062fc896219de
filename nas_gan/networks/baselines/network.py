"""Generators and discriminators from lists of layers, with or without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from nas_gan.errors import InvalidValueError
from nas_gan.networks.activations import SYMMETRIC, UNIT
from nas_gan.networks.baselines.layers import LayerSpec, Slots, build_layers
from nas_gan.networks.conditioning import check_label


@dataclass(frozen=True)
class NetworkSpec:
    """A network as plain data.

    The input goes through `features` and its one-hot label through `labels`; both are joined and go
    through `layers`. Labels are joined to a feature map as constant planes. All lists but `layers`
    can be empty; without classes `labels` is.

    Attributes:
        input: `(latent_dim,)` of a generator, `(c, h, w)` of a discriminator.
        layers: layers after the join.
        features: layers before it for noise or images.
        labels: layers before it for labels.
        n_classes: 0 for a net without labels.
    """

    input: Sequence[int]
    layers: Sequence[LayerSpec]
    features: Sequence[LayerSpec] = ()
    labels: Sequence[LayerSpec] = ()
    _: KW_ONLY
    n_classes: int

    def __post_init__(self) -> None:
        sizes = (*self.input, self.n_classes)
        if not all(type(size) is int for size in sizes) or min(self.input, default=0) < 1:
            raise InvalidValueError(
                f"a network needs an input shape of whole numbers; got {self.input}, "
                f"{self.n_classes!r} classes"
            )
        if self.n_classes < 0 or self.n_classes == 1 or (self.labels and not self.n_classes):
            raise InvalidValueError(
                f"a conditional net needs at least 2 classes, any other 0 and no layers for "
                f"labels; got {self.n_classes} and {len(self.labels)} layers"
            )


class _Layered(nn.Module):
    """Two branches, their join and the layers after it."""

    def __init__(self, spec: NetworkSpec, slots: Slots, role: str) -> None:
        super().__init__()
        self.spec, self.slots = spec, slots
        self.n_classes = spec.n_classes
        features = build_layers(spec.features, tuple(spec.input), slots, f"{role}, features")
        parts = {"features": features}
        joined = features.shape
        if spec.n_classes:
            labels = build_layers(spec.labels, (spec.n_classes,), slots, f"{role}, labels")
            if len(labels.shape) != 1:
                raise InvalidValueError(f"{role}: labels must end as a vector; got {labels.shape}")
            parts["labels"] = labels
            joined = (joined[0] + labels.shape[0], *joined[1:])
        parts["layers"] = build_layers(spec.layers, joined, slots, f"{role}, layers")
        self.features, self.layers = features.module, parts["layers"].module
        if spec.n_classes:
            self.labels = parts["labels"].module
        self.out_shape = parts["layers"].shape
        # (name, shape of its input, constant) of the layers that need spectral norm
        self.normed = [
            (f"{part}.{name}", shape, scale)
            for part, built in parts.items()
            for name, shape, scale in built.normed
        ]

    def _run(self, x: Tensor, onehot: Tensor | None) -> Tensor:
        h: Tensor = self.features(x)
        if onehot is not None:
            label: Tensor = self.labels(onehot)
            if h.ndim == 4:  # a constant plane for every value
                label = label[:, :, None, None].expand(-1, -1, *h.shape[2:])
            h = torch.cat([h, label], dim=1)
        out: Tensor = self.layers(h)
        return out


class LayeredGenerator(_Layered):
    """Maps latents `(n, latent_dim + n_classes)` to images `(n, c, h, w)`.

    The last `n_classes` columns are the one-hot label, so that a conditional generator is called
    like any other.
    """

    def __init__(self, spec: NetworkSpec, slots: Slots | None = None) -> None:
        super().__init__(spec, slots or Slots(interval=SYMMETRIC), "generator")
        if len(spec.input) != 1 or len(self.out_shape) != 3:
            raise InvalidValueError(
                f"a generator maps (latent_dim,) to (c, h, w); this one maps "
                f"{tuple(spec.input)} to {self.out_shape}"
            )
        (self.latent_dim,) = spec.input
        self.image_shape = self.out_shape

    def forward(self, z: Tensor) -> Tensor:
        # Explicit sizes, so that torch refuses latents of another width.
        if not self.n_classes:
            (noise,) = z.split([self.latent_dim], dim=1)
            return self._run(noise, None)
        noise, onehot = z.split([self.latent_dim, self.n_classes], dim=1)
        return self._run(noise, onehot)


class LayeredDiscriminator(_Layered):
    """Maps images `(n, c, h, w)`, and one-hot labels `(n, n_classes)` if any, to scores `(n, d)`.

    Scores are the input of a loss: log odds if the net ends in a probability.
    """

    def __init__(self, spec: NetworkSpec, slots: Slots | None = None) -> None:
        super().__init__(spec, slots or Slots(interval=UNIT), "discriminator")
        if len(spec.input) != 3 or len(self.out_shape) != 1:
            raise InvalidValueError(
                f"a discriminator maps (c, h, w) to (d,) scores; this one maps "
                f"{tuple(spec.input)} to {self.out_shape}"
            )
        self.image_shape = tuple(spec.input)
        (self.n_outputs,) = self.out_shape

    def forward(self, images: Tensor, onehot: Tensor | None = None) -> Tensor:
        check_label(onehot, self.n_classes)
        return self._run(images, onehot)
