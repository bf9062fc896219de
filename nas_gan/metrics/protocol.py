"""How an image is prepared for a network: two protocols, whose numbers are never mixed.

A Fréchet distance depends on the conversion to bytes and on resizing as much as on the images:
Parmar et al. (2022) report differences of 6 and more for the same images. `legacy` is what
pytorch-fid and the published code do, `clean` is what clean-fid does. Their distances are not
comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_gan.errors import InvalidValueError, unknown_name

ProtocolName = Literal["legacy", "clean"]
Images = Tensor | npt.NDArray[np.uint8]


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes: `x * 127.5 + 127.5`, clipped to 0..255, fraction dropped.

    The published code truncates instead of rounding, which makes a byte darker by 0.5 on average
    and changes an FID slightly; this is kept to stay comparable. 1 maps to 255, 0 to 127, -1 to 0.
    """
    return (images * 127.5 + 127.5).clamp(0, 255).to(torch.uint8)


def to_nearest_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes, rounded to the nearest, as image files are written."""
    return (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def resize_bilinear(images: Tensor, size: int) -> Tensor:
    """uint8 `(n, 3, h, w)` to float32 `(n, 3, size, size)` in 0..255, without antialiasing."""
    return F.interpolate(images.float(), (size, size), mode="bilinear", align_corners=False)


def resize_antialiased(images: Tensor, size: int) -> Tensor:
    """uint8 `(n, 3, h, w)` to float32 `(n, 3, size, size)` in 0..255, as clean-fid resizes.

    Bicubic with antialiasing, clipped and not rounded: equal to Pillow's on each channel as floats
    up to rounding, and a batch at a time on any device.
    """
    resized = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 255)


@dataclass(frozen=True)
class FidProtocol:
    """How images in [-1, 1] become bytes, how bytes are resized, and how Inception scales them.

    Inception's input is `(x - centre) / centre` for x in 0..255. `comparable_with` says which
    published numbers an Inception FID can be compared with.
    """

    name: ProtocolName
    quantize: Callable[[Tensor], Tensor]
    resize: Callable[[Tensor, int], Tensor]
    centre: float
    comparable_with: str

    def __reduce__(self) -> tuple[Callable[[str], FidProtocol], tuple[str]]:
        """By name: there is one object for each, also in another process."""
        return find_protocol, (self.name,)


LEGACY = FidProtocol(
    "legacy",
    to_uint8,
    resize_bilinear,
    127.5,
    "pytorch-fid Inception on truncated bytes; comparable at equal N and reference",
)
CLEAN = FidProtocol(
    "clean",
    to_nearest_uint8,
    resize_antialiased,
    128.0,
    "clean-fid's resizing and pytorch-fid's port of the same Inception; comparable with clean-fid "
    "at equal N and reference",
)
PROTOCOLS = {protocol.name: protocol for protocol in (LEGACY, CLEAN)}


def find_protocol(name: str) -> FidProtocol:
    """The protocol of that name.

    Raises:
        InvalidValueError: there is none.
    """
    for protocol in PROTOCOLS.values():
        if protocol.name == name:
            return protocol
    raise unknown_name("FID protocol", name, PROTOCOLS)


def extractor_name(network: str, protocol: FidProtocol) -> str:
    """Name of a feature space: that of the network, followed by the protocol unless it is `legacy`.

    Existing files and caches have names without a protocol, made under `legacy`.
    """
    return network if protocol is LEGACY else f"{network}:{protocol.name}"


def protocol_of(extractor: str) -> FidProtocol:
    """The protocol in the name of a feature space."""
    return CLEAN if extractor.endswith(f":{CLEAN.name}") else LEGACY


def checked_images(images: Images) -> Tensor:
    """The images as a tensor.

    Raises:
        InvalidValueError: they are not uint8 `(n, 3, h, w)`.
    """
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise InvalidValueError(
            f"features need uint8 images (n, 3, h, w); got {images.dtype} of shape "
            f"{tuple(images.shape)}"
        )
    return images
