"""Tensor train: a kernel as a chain of four small factors, one per mode."""

from __future__ import annotations

from tensorly.decomposition import tensor_train as tt_svd
from tensorly.tt_tensor import TTTensor
from torch import Tensor
from torch.nn import functional as F

from ard.factorization.backend import torch_backend
from ard.factorization.method import C_IN, C_OUT, Covariances, Factor, Mark, Method
from ard.factorization.ranks import Rank, Shape
from ard.factorization.svd import economy_svd
from ard.factorization.whitening import Whitening

# The middle rank, as a multiple of the smaller of the outer ones. Among values from 0.75 to 2 it
# has the lowest error for the same number of weights, within a few in a thousand; the ratio of the
# largest ranks, 3 or 5, has up to 1.7 times the error (`tensor_train_middle` in
# benchmarks/factorization.py).
MIDDLE = 1.25


@torch_backend()
def tensor_train(
    weight: Tensor,
    rank: tuple[int, int, int],
    input_covariance: Tensor | None = None,
    output_covariance: Tensor | None = None,
) -> TTTensor:
    """`weight (c_out, c_in, k_h, k_w)` as a train through `c_in`, `k_h`, `k_w` and `c_out`.

    Computed by successive truncated SVDs (Oseledets, "Tensor-train decomposition", SIAM J. Sci.
    Comput., 2011) in float64. With `input_covariance (c_in, c_in)`, the second moment of the input
    channels, or `output_covariance (c_out, c_out)`, that of the image's gradients with respect to
    the output channels, they are computed on the kernel whitened on that side.

    Returns:
        The factors `(1, c_in, r_1)`, `(r_1, k_h, r_2)`, `(r_2, k_w, r_3)` and `(r_3, c_out, 1)`.

    Raises:
        RankError: a rank is below 1 or above that of its unfolding.
    """
    c_out, c_in, k_h, k_w = weight.shape
    TENSOR_TRAIN.check_rank(rank, (c_out, c_in, k_h, k_w))
    weight = weight.detach().double()
    if rank == TENSOR_TRAIN.max_rank((c_out, c_in, k_h, k_w)):
        input_covariance = output_covariance = None  # exact anyway, and most accurate without
    sides = Whitening.of(weight, input_covariance, output_covariance)
    modes = sides.whiten(weight).permute(1, 2, 3, 0)  # (c_in, k_h, k_w, c_out)
    first, second, third, last = tt_svd(modes, [1, *rank, 1], svd=economy_svd)
    first = sides.unwhiten_inputs(first[0])[None]
    last = sides.unwhiten_outputs(last[..., 0].T).T[..., None]
    return TTTensor(
        [
            _fill(f, *ends)
            for f, ends in zip(
                (first, second, third, last), zip((1, *rank), (*rank, 1), strict=True), strict=True
            )
        ]
    )


def _fill(factor: Tensor, before: int, after: int) -> Tensor:
    """Pad a factor with zeros to the requested ranks, which its neighbours may not reach."""
    return F.pad(factor, (0, after - factor.shape[2], 0, 0, 0, before - factor.shape[0]))


def _largest(shape: Shape) -> Rank:
    c_out, c_in, k_h, k_w = shape
    return (
        min(c_in, k_h * k_w * c_out),
        min(c_in * k_h, k_w * c_out),
        min(c_in * k_h * k_w, c_out),
    )


def _proportions(shape: Shape) -> tuple[float, ...]:
    first, _, last = _largest(shape)
    return (first, MIDDLE * min(first, last), last)


def _kernels(kernel: Tensor, rank: Rank, known: Covariances) -> list[Tensor]:
    first, second, third, last = tensor_train(
        kernel, (rank[0], rank[1], rank[2]), known.channel, known.output
    )
    return [
        first[0].T[:, :, None, None],
        second.permute(2, 0, 1)[:, :, :, None],
        third.permute(2, 0, 1)[:, :, None, :],
        last[..., 0].T[:, :, None, None],
    ]


TENSOR_TRAIN = Method(
    name="tensor_train",
    ranks=("r_1", "r_2", "r_3"),
    factors=(
        Factor(C_IN, "r_1"),
        Factor("r_1", "r_2", "rows"),
        Factor("r_2", "r_3", "columns"),
        Factor("r_3", C_OUT),
    ),
    max_rank_of=_largest,
    proportions=_proportions,
    factorize=_kernels,
    # With a kernel of a single row or column, one factor would be redundant.
    fits=lambda shape, n_axes: n_axes > 1 and min(shape[2:]) > 1,
    mark=Mark("#e69f00", "v", "triangle-down"),
    unfoldings=lambda kernel: tuple(
        kernel.permute(1, 2, 3, 0).flatten(0, i).flatten(1) for i in range(3)
    ),
)
