"""Truncated SVD of a matrix, the weight of a linear layer or of a pointwise convolution.

The error can be weighted on both sides; see `ard.factorization.whitening`. In either case the best
product of a given rank is a truncated SVD, of the matrix multiplied by the roots.
"""

from __future__ import annotations

from typing import Any

import scipy.linalg
import torch
from torch import Tensor

from ard.factorization.method import C_IN, C_OUT, Covariances, Factor, Mark, Method
from ard.factorization.ranks import Rank, is_pointwise
from ard.factorization.whitening import Whitening, covariance_factor


def leading_left_vectors(matrix: Tensor, rank: int) -> Tensor:
    """An orthonormal `(m, rank)` basis of the leading left singular vectors of `(m, n)`.

    They are computed from the eigenvectors of the smaller Gram matrix. This avoids the `n x n`
    right factor of a full SVD and is several times faster than an economy SVD. Squaring makes
    directions below 1e-8 of the largest singular value unreliable, but the basis stays orthonormal,
    so that full rank is exact.
    """
    m, n = matrix.shape
    if m <= n:
        return _leading_eigenvectors(matrix @ matrix.T, rank)
    return torch.linalg.qr(matrix @ _leading_eigenvectors(matrix.T @ matrix, rank))[0]


def economy_svd(
    matrix: Tensor, n_eigenvecs: int | None = None, **ignored: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """`U (m, r)`, `S (r,)` and `V (r, n)` by `leading_left_vectors`, for use in `tensorly`."""
    rank = min(matrix.shape) if n_eigenvecs is None else min(n_eigenvecs, *matrix.shape)
    left = leading_left_vectors(matrix, rank)
    right = left.T @ matrix
    values = right.norm(dim=1)
    return left, values, torch.where(values > 0, 1 / values, 0)[:, None] * right


def _leading_eigenvectors(gram: Tensor, rank: int) -> Tensor:
    """Eigenvectors of the `rank` largest eigenvalues of a symmetric `(n, n)` matrix, descending."""
    n = len(gram)
    if gram.device.type == "cpu" and 2 * rank < n and gram.isfinite().all():
        # LAPACK can skip the others, unlike torch: 2.5 times as fast for a quarter of 2560.
        try:
            vectors = scipy.linalg.eigh(gram.numpy(), subset_by_index=[n - rank, n - 1])[1]
            return torch.from_numpy(vectors).flip(1)
        except scipy.linalg.LinAlgError:
            pass  # its iteration did not converge; torch uses another one
    return torch.linalg.eigh(gram)[1][:, n - rank :].flip(1)


def svd(
    matrix: Tensor,
    rank: int,
    input_covariance: Tensor | None = None,
    output_covariance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best `left (c_out, r) @ right (r, c_in)` approximation of `matrix (c_out, c_in)`.

    Without a covariance, the error is the Frobenius norm (Eckart and Young). With
    `input_covariance (c_in, c_in)` it is the expected squared error of the layer's outputs, which
    `output_covariance (c_out, c_out)` weights by how much each output matters. The singular
    values are shared evenly: column `i` of `left` is as long as row `i` of `right`. The
    result is in float64.

    Raises:
        RankError: the rank is below 1 or above the smaller side of the matrix.
    """
    c_out, c_in = matrix.shape
    SVD.check_rank((rank,), (c_out, c_in, 1, 1))
    matrix = matrix.detach().double()
    # At full rank the product is exact with any weighting, and most accurate without one.
    if rank == min(c_out, c_in):
        input_covariance = output_covariance = None
    sides = Whitening.of(matrix, None, output_covariance)
    left, right = leading_product(sides.whiten(matrix), rank, input_covariance)
    return spread_evenly(sides.unwhiten_outputs(left), right)


def leading_product(
    matrix: Tensor, rank: int, input_covariance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`U (m, r)` with orthonormal columns and `U^T W`, optimal under the input covariance."""
    weighted = matrix
    if input_covariance is not None:
        weighted = matrix @ covariance_factor(input_covariance).to(matrix)
    # With U the leading left vectors of the weighted matrix, U U^T W is the weighted optimum: no
    # inverse of the covariance is needed, however ill-conditioned it is.
    left = leading_left_vectors(weighted, rank)
    return left, left.T @ matrix


def spread_evenly(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with column `i` of `left` as long as row `i` of `right`."""
    columns, rows = left.norm(dim=0), right.norm(dim=1)
    length = (columns * rows).sqrt()
    return (
        left * torch.where(columns > 0, length / columns, 0),
        right * torch.where(rows > 0, length / rows, 0)[:, None],
    )


def _kernels(kernel: Tensor, rank: Rank, known: Covariances) -> list[Tensor]:
    left, right = svd(kernel.flatten(1), rank[0], known.channel, known.output)
    return [right[:, :, None, None], left[:, :, None, None]]


SVD = Method(
    name="svd",
    ranks=("r",),
    factors=(Factor(C_IN, "r", "both"), Factor("r", C_OUT)),
    transposed_factors=(Factor(C_IN, "r"), Factor("r", C_OUT, "both")),
    max_rank_of=lambda shape: (min(shape[0], shape[1] * shape[2] * shape[3]),),
    factorize=_kernels,
    fits=lambda shape, n_axes: is_pointwise(shape),
    mark=Mark("#cc79a7", "D", "diamond"),
    unfoldings=lambda kernel: (kernel.flatten(1),),
)
