"""Random pictures as inputs of networks that take images."""

from __future__ import annotations

import torch

from nas_gan.data.inputs import StoredInputs


def pictures(*shape: int, n: int = 12) -> StoredInputs:
    """`n` random pictures `(c, h, w)`, the same every time."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, *shape), generator=rng).to(torch.uint8)
    return StoredInputs("pictures", "digest", n, lambda row: images[row], as_they_are=False)
