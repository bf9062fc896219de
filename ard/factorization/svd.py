"""Truncated SVD of a matrix and of a kernel split into a vertical and a horizontal part.

Both can weigh the error by what really enters the layer: with the second moment `C = E[x x^T]` of
its inputs, the expected squared error of the outputs is `||(W - L R) C^(1/2)||_F^2`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ard.factorization.ranks import check_rank

# Added to the covariance, as a share of its mean eigenvalue: a channel that was always zero in the
# sample gets a small weight instead of none.
RIDGE = 1e-6


def covariance_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance `(n, n)`, in float64, ridge added."""
    covariance = covariance.detach().double()
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    values = values.clamp(min=0)
    # An all-zero covariance carries no information: every direction then weighs the same.
    ridge = RIDGE * float(values.mean()) or 1.0
    return (vectors * (values + ridge).sqrt()) @ vectors.T


def leading_left_vectors(matrix: Tensor, rank: int) -> Tensor:
    """An orthonormal `(m, rank)` basis of the leading left singular vectors of `(m, n)`.

    Through the eigenvectors of the smaller Gram matrix, which never forms the `n x n` right factor
    of a full SVD and is several times faster than an economy SVD. Squaring makes directions below
    1e-8 of the largest singular value unreliable, but leaves the basis orthonormal, so that a full
    rank stays exact.
    """
    m, n = matrix.shape
    if m <= n:
        vectors = torch.linalg.eigh(matrix @ matrix.T)[1]  # ascending
        return vectors[:, m - rank :].flip(1)
    vectors = torch.linalg.eigh(matrix.T @ matrix)[1]
    return torch.linalg.qr(matrix @ vectors[:, n - rank :].flip(1))[0]


def svd(matrix: Tensor, rank: int, input_covariance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The best `left (c_out, r) @ right (r, c_in)` approximation of `matrix (c_out, c_in)`.

    Without a covariance best means the Frobenius norm (Eckart and Young); with
    `input_covariance (c_in, c_in)` it means the expected squared error of the layer's outputs. The
    singular values are shared evenly: column `i` of `left` is as long as row `i` of `right`.
    Computed and returned in float64.

    Raises:
        RankError: the rank is below 1 or above the smaller side of the matrix.
    """
    c_out, c_in = matrix.shape
    check_rank("svd", (rank,), (c_out, c_in, 1, 1))
    matrix = matrix.detach().double()
    # At full rank the product is exact whatever the weighting, best without one.
    if input_covariance is None or rank == min(c_out, c_in):
        weighted = matrix
    else:
        weighted = matrix @ covariance_root(input_covariance).to(matrix)
    # With U the leading left vectors of the weighted matrix, U U^T W is the weighted optimum: no
    # inverse of the covariance is needed, however ill-conditioned it is.
    left = leading_left_vectors(weighted, rank)  # (c_out, r)
    right = left.T @ matrix  # (r, c_in)
    scale = right.norm(dim=1).sqrt()  # left has unit columns
    inverse = torch.where(scale > 0, 1 / scale, 0)
    return left * scale, right * inverse[:, None]


def spatial_svd(
    weight: Tensor, rank: int, input_covariance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A kernel `(c_out, c_in, k_h, k_w)` as a vertical convolution followed by a horizontal one.

    Returns `horizontal (c_out, r, 1, k_w)` and `vertical (r, c_in, k_h, 1)`; the vertical one is
    applied first. They are the SVD of the `(c_out k_w, c_in k_h)` matrix (Jaderberg et al., 2014).
    `input_covariance (c_in k_h, c_in k_h)` is the second moment of vertical patches, channel-major
    as `torch.nn.functional.unfold` orders them; each of the `k_w` columns of an output is then
    weighed by the patches it really sees, while correlations between columns are left out.

    Raises:
        RankError: the rank is below 1 or above `min(c_out k_w, c_in k_h)`.
    """
    c_out, c_in, k_h, k_w = weight.shape
    check_rank("spatial_svd", (rank,), (c_out, c_in, k_h, k_w))
    matrix = weight.permute(0, 3, 1, 2).reshape(c_out * k_w, c_in * k_h)
    left, right = svd(matrix, rank, input_covariance)
    horizontal = left.reshape(c_out, k_w, rank).permute(0, 2, 1).unsqueeze(2)
    return horizontal, right.reshape(rank, c_in, k_h, 1)
