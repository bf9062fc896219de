"""Walks between latents."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError

# If the sine of the angle between two latents is below this, their great circle is not well
# defined, and the straight line between them is as good.
MIN_SINE = 1e-4


def slerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    """Spherical interpolation of latents `(n, d)`, row by row; `t` 0 is `start` and 1 is `end`.

    Normal latents of many dimensions have nearly the same length. Points on the straight line
    between two of them are shorter, unlike any latent in training; those on the great circle are
    not (White 2016, Sampling Generative Networks).
    """
    lengths = start.norm(dim=1, keepdim=True) * end.norm(dim=1, keepdim=True)  # (n, 1)
    cosine = (start * end).sum(dim=1, keepdim=True) / lengths.clamp(min=MIN_SINE)
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(angle)
    flat = sine < MIN_SINE
    safe = torch.where(flat, torch.ones_like(sine), sine)
    first = torch.where(flat, torch.full_like(sine, 1 - t), torch.sin((1 - t) * angle) / safe)
    second = torch.where(flat, torch.full_like(sine, t), torch.sin(t * angle) / safe)
    return first * start + second * end


def closed_walk(stops: Tensor, frames: int) -> Tensor:
    """`(k, n, d)` latents to the `(frames, n, d)` of a walk through all k and back to the first.

    Frame 0 is the first stop, and every leg takes the same time, so that the frames repeat
    seamlessly.

    Raises:
        InvalidValueError: fewer than two stops, or fewer frames than stops.
    """
    k = len(stops)
    if k < 2:
        raise InvalidValueError(f"a walk needs at least 2 latents to go between; got {k}")
    if frames < k:
        raise InvalidValueError(
            f"a walk through {k} latents needs at least {k} frames; got {frames}"
        )
    walked = []
    for frame in range(frames):
        # In integers, so that a stop that falls on a frame is hit exactly.
        leg, passed = divmod(frame * k, frames)
        walked.append(slerp(stops[leg], stops[(leg + 1) % k], passed / frames))
    return torch.stack(walked)
