"""Where tensors live."""

from __future__ import annotations

import torch

from nas_gan.errors import InvalidValueError


def check_device(name: str) -> torch.device:
    """The torch device called `name`, after a first allocation on it.

    Raises:
        InvalidValueError: torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError(f"device {name!r} cannot be used ({reason}); try cpu") from error
    return device
