"""Seeds of any size, for generators that take only so many bits."""

from __future__ import annotations

import hashlib

from nas_gan.errors import InvalidValueError

# Widths of the seeds that others take: numpy's RandomState, and torch.
RANDOM_STATE_BITS, TORCH_BITS = 32, 64


def folded(seed: int, bits: int = TORCH_BITS) -> int:
    """The seed itself if it has at most `bits` bits, else as many bits of its digest.

    Remainders would make the seeds 0 and `2**bits` the same. `numpy.random.default_rng` takes
    seeds of any size and needs none of this.

    Args:
        seed: a whole number of any size, 0 or more.
        bits: a multiple of 8, up to 256.

    Raises:
        InvalidValueError: the seed is negative.
    """
    if seed < 0:
        raise InvalidValueError(f"must be at least 0; got {seed}", setting="seed")
    if seed.bit_length() <= bits:
        return seed
    digest = hashlib.sha256(seed.to_bytes(-(-seed.bit_length() // 8), "little")).digest()
    return int.from_bytes(digest[: bits // 8], "little")
