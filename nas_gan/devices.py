"""Where tensors live."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nas_gan.errors import InvalidValueError

# Kinds of devices on which torch has no float64.
_WITHOUT_DOUBLE = ("mps",)


class Device(str):
    """The name of the device that work runs on, such as cuda.

    What holds it can be sent to a worker of another kind: there it is the name of that worker's own
    device, as weights move there too. A plain string stays as it is.
    """

    __slots__ = ()


@contextmanager
def full_float32(needed: bool = True) -> Iterator[None]:
    """In the block convolutions on a GPU round as those on a CPU do, if that is needed.

    Otherwise torch lets them round to the 10 bits of TF32, which moves an image by more than a CPU
    and a GPU differ otherwise.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before and not needed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


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
