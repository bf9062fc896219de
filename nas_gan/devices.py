"""Where tensors live."""

from __future__ import annotations

import torch

from nas_gan.errors import InvalidValueError

# Kinds of devices on which torch has no float64.
_WITHOUT_DOUBLE = ("mps",)


def check_device(name: str, dtype: torch.dtype = torch.float32) -> torch.device:
    """The torch device called `name`, after a first allocation of `dtype` on it.

    Raises:
        InvalidValueError: torch knows no such device, this machine has none, or it has no `dtype`.
    """
    try:
        device = torch.device(name)
        if dtype == torch.float64 and device.type in _WITHOUT_DOUBLE:
            raise InvalidValueError(
                f"precision fp64 needs double precision, which device {name!r} does not have; "
                "try device cpu, or precision fp32"
            )
        torch.zeros(1, device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError(f"device {name!r} cannot be used ({reason}); try cpu") from error
    return device
