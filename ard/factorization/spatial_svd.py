"""Spatial SVD: a kernel split into a vertical and a horizontal part."""

from __future__ import annotations

import torch
from torch import Tensor

from ard.factorization.method import C_IN, C_OUT, Covariances, Factor, Mark, Method
from ard.factorization.ranks import Rank, is_pointwise
from ard.factorization.svd import leading_product, spread_evenly
from ard.factorization.whitening import Whitening


def spatial_svd(
    weight: Tensor,
    rank: int,
    input_covariance: Tensor | None = None,
    output_covariance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A kernel `(c_out, c_in, k_h, k_w)` as a vertical convolution followed by a horizontal one.

    Returns `horizontal (c_out, r, 1, k_w)` and `vertical (r, c_in, k_h, 1)`; the vertical one is
    applied first. They are the SVD of the `(c_out k_w, c_in k_h)` matrix (Jaderberg et al., 2014).
    `input_covariance (c_in k_h, c_in k_h)` is the second moment of vertical patches, channel-major
    in the order of `torch.nn.functional.unfold`; each of the `k_w` columns of an output is then
    weighted by the patches that it sees, while correlations between columns are ignored.
    `output_covariance (c_out, c_out)` weights the outputs of all columns alike.

    Raises:
        RankError: the rank is below 1 or above `min(c_out k_w, c_in k_h)`.
    """
    c_out, c_in, k_h, k_w = weight.shape
    SPATIAL_SVD.check_rank((rank,), (c_out, c_in, k_h, k_w))
    weight = weight.detach().double()
    if rank == min(c_out * k_w, c_in * k_h):  # exact anyway, see `svd`
        input_covariance = output_covariance = None
    sides = Whitening.of(weight, None, output_covariance)
    matrix = _unfolding(sides.whiten(weight))
    left, right = leading_product(matrix, rank, input_covariance)
    left = sides.unwhiten_outputs(left.view(c_out, k_w, rank))
    left, right = spread_evenly(left.flatten(0, 1), right)
    horizontal = left.view(c_out, k_w, rank).permute(0, 2, 1).unsqueeze(2)
    return horizontal, right.reshape(rank, c_in, k_h, 1)


def _unfolding(kernel: Tensor) -> Tensor:
    """The matrix `(c_out k_w, c_in k_h)`."""
    return kernel.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def _kernels(kernel: Tensor, rank: Rank, known: Covariances) -> list[Tensor]:
    patches = known.vertical
    if patches is None and known.channel is not None:
        # Without patches, the pixels under the rows of a kernel are assumed to be uncorrelated.
        patches = torch.kron(known.channel, torch.eye(kernel.shape[2]).to(known.channel))
    horizontal, vertical = spatial_svd(kernel, rank[0], patches, known.output)
    return [vertical, horizontal]


SPATIAL_SVD = Method(
    name="spatial_svd",
    ranks=("r",),
    factors=(Factor(C_IN, "r", "rows"), Factor("r", C_OUT, "columns")),
    max_rank_of=lambda shape: (min(shape[0] * shape[3], shape[1] * shape[2]),),
    factorize=_kernels,
    fits=lambda shape, n_axes: not is_pointwise(shape),
    mark=Mark("#d55e00", "s", "square"),
    unfoldings=lambda kernel: (_unfolding(kernel),),
)
