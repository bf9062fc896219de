"""The number that ranks should be multiples of, so that a runtime does not need to pad them.

TensorRT keeps FP16 activations of tensor-core convolutions in vectors of 8 channels (the format
"channel % 8 == 0" in the layer listing of github.com/NVIDIA/TensorRT/issues/3876), and its INT8
tensor-core convolutions in vectors of 32 (a maintainer in github.com/NVIDIA/TensorRT/issues/1310:
"the algorithm expect the C%32 == 0", and other counts are padded). A rank is the number of
channels between two factors, so rank 33 takes as much computation as 40 in FP16 and as 64 in INT8.
TensorRT has no such vectors in FP32. ONNX Runtime on a CPU has them in FP32, of 8 or 16 channels
depending on the width of the registers, and rank 16 is faster there than 15. If that is the target,
try a rank multiple of 16 and measure both.
"""

from __future__ import annotations

from nas_gan.errors import InvalidValueError, unknown_name

# What `auto` takes is not known yet: ranks suit fp16, and the factors that suit int8 can have it.
MULTIPLES = {"fp32": 1, "fp16": 8, "int8": 32, "auto": 8}
AUTO = "auto"


def rank_multiple(precision: str) -> int:
    """The rank multiple for a precision of the deployed model.

    >>> [rank_multiple(precision) for precision in ("fp32", "fp16", "int8")]
    [1, 8, 32]

    Raises:
        InvalidValueError: the precision is not known.
    """
    if precision not in MULTIPLES:
        raise unknown_name("precision", precision, MULTIPLES)
    return MULTIPLES[precision]


def parse_rank_multiple(text: str, precision: str) -> int:
    """Parse a rank multiple: a number, or `auto` for that of the precision.

    >>> parse_rank_multiple("auto", "fp16"), parse_rank_multiple("16", "fp16")
    (8, 16)

    Raises:
        InvalidValueError: it is neither.
    """
    if text == AUTO:
        return rank_multiple(precision)
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) > 0):
        raise InvalidValueError(
            f"{text!r} is neither auto nor a whole number of 1 or more", setting="rank_multiple"
        )
    return int(text)
