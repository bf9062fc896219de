"""Truncated SVD of a matrix and of a kernel split into a vertical and a horizontal part.

Both can weigh the error by what really enters the layer and by what its outputs do to the image.
With the second moment `C = E[x x^T]` of the inputs, the expected squared error of the outputs is
`||(W - L R) C^(1/2)||_F^2`. With the second moment `G = E[g g^T]` of the gradients of the image
with respect to the outputs as well, `||G^(1/2) (W - L R) C^(1/2)||_F^2` estimates the squared error
of the image. Either is made smallest by a truncated SVD, of the matrix between the roots.
"""

from __future__ import annotations

import scipy.linalg
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


def covariance_factor(covariance: Tensor) -> Tensor:
    """A square `L` with `L L^T` the covariance `(n, n)`, ridge as in `covariance_root`, in float64.

    `W L` has the singular values and the left vectors of `W C^(1/2)`, and a Cholesky factor is ten
    times as fast as a root. What is not positive definite in spite of the ridge gets its root.
    """
    covariance = covariance.detach().double()
    ridge = RIDGE * float(covariance.diagonal().mean()) or 1.0
    factor, failed = torch.linalg.cholesky_ex(
        covariance + ridge * torch.eye(len(covariance)).to(covariance)
    )
    return covariance_root(covariance) if int(failed) else factor


def leading_left_vectors(matrix: Tensor, rank: int) -> Tensor:
    """An orthonormal `(m, rank)` basis of the leading left singular vectors of `(m, n)`.

    Through the eigenvectors of the smaller Gram matrix, which never forms the `n x n` right factor
    of a full SVD and is several times faster than an economy SVD. Squaring makes directions below
    1e-8 of the largest singular value unreliable, but leaves the basis orthonormal, so that a full
    rank stays exact.
    """
    m, n = matrix.shape
    if m <= n:
        return _leading_eigenvectors(matrix @ matrix.T, rank)
    return torch.linalg.qr(matrix @ _leading_eigenvectors(matrix.T @ matrix, rank))[0]


def _leading_eigenvectors(gram: Tensor, rank: int) -> Tensor:
    """Those of the largest eigenvalues of a symmetric `(n, n)` matrix, the largest first."""
    n = len(gram)
    if gram.device.type == "cpu" and 2 * rank < n and gram.isfinite().all():
        # LAPACK can leave the others out: 2.5 times as fast at a quarter of 2560. torch cannot.
        try:
            vectors = scipy.linalg.eigh(gram.numpy(), subset_by_index=[n - rank, n - 1])[1]
            return torch.from_numpy(vectors).flip(1)
        except scipy.linalg.LinAlgError:
            pass  # its iteration did not converge; torch takes another one
    return torch.linalg.eigh(gram)[1][:, n - rank :].flip(1)


def svd(
    matrix: Tensor,
    rank: int,
    input_covariance: Tensor | None = None,
    output_covariance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best `left (c_out, r) @ right (r, c_in)` approximation of `matrix (c_out, c_in)`.

    Without a covariance best means the Frobenius norm (Eckart and Young); with
    `input_covariance (c_in, c_in)` it means the expected squared error of the layer's outputs, and
    with `output_covariance (c_out, c_out)` that error is weighed by what each output is worth. The
    singular values are shared evenly: column `i` of `left` is as long as row `i` of `right`.
    Computed and returned in float64.

    Raises:
        RankError: the rank is below 1 or above the smaller side of the matrix.
    """
    c_out, c_in = matrix.shape
    check_rank("svd", (rank,), (c_out, c_in, 1, 1))
    matrix = matrix.detach().double()
    # At full rank the product is exact whatever the weighting, best without one.
    if rank == min(c_out, c_in):
        input_covariance = output_covariance = None
    outer, valued = weigh_outputs(matrix, output_covariance)
    left, right = _leading_product(valued, rank, input_covariance)
    return _evenly(unweigh_outputs(left, outer), right)


def weigh_outputs(weight: Tensor, covariance: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """`G^(1/2)` and `G^(1/2) W`, for a weight with its outputs first; the weight alone without `G`.

    Whatever makes `||G^(1/2) W - W'||` small makes `||G^(1/2) (W - G^(-1/2) W')||` small, so every
    method can weigh the outputs by factorizing this instead and passing the factor with the outputs
    through `unweigh_outputs`.
    """
    if covariance is None:
        return None, weight
    root = covariance_root(covariance).to(weight)
    return root, (root @ weight.flatten(1)).view_as(weight)


def unweigh_outputs(factor: Tensor, root: Tensor | None) -> Tensor:
    """`G^(-1/2) A` for the factor `A` that holds the outputs, along its first dimension."""
    if root is None:
        return factor
    return torch.linalg.solve(root, factor.flatten(1)).view_as(factor)


def _leading_product(
    matrix: Tensor, rank: int, input_covariance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`U (m, r)` with orthonormal columns and `U^T W`, best under the input covariance."""
    weighted = matrix
    if input_covariance is not None:
        weighted = matrix @ covariance_factor(input_covariance).to(matrix)
    # With U the leading left vectors of the weighted matrix, U U^T W is the weighted optimum: no
    # inverse of the covariance is needed, however ill-conditioned it is.
    left = leading_left_vectors(weighted, rank)
    return left, left.T @ matrix


def _evenly(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with column `i` of `left` as long as row `i` of `right`."""
    columns, rows = left.norm(dim=0), right.norm(dim=1)
    length = (columns * rows).sqrt()
    return (
        left * torch.where(columns > 0, length / columns, 0),
        right * torch.where(rows > 0, length / rows, 0)[:, None],
    )


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
    as `torch.nn.functional.unfold` orders them; each of the `k_w` columns of an output is then
    weighed by the patches it really sees, while correlations between columns are left out.
    `output_covariance (c_out, c_out)` weighs the outputs of every column alike.

    Raises:
        RankError: the rank is below 1 or above `min(c_out k_w, c_in k_h)`.
    """
    c_out, c_in, k_h, k_w = weight.shape
    check_rank("spatial_svd", (rank,), (c_out, c_in, k_h, k_w))
    weight = weight.detach().double()
    if rank == min(c_out * k_w, c_in * k_h):  # exact anyway, see `svd`
        input_covariance = output_covariance = None
    outer, valued = weigh_outputs(weight, output_covariance)
    matrix = valued.permute(0, 3, 1, 2).reshape(c_out * k_w, c_in * k_h)
    left, right = _leading_product(matrix, rank, input_covariance)
    left = unweigh_outputs(left.view(c_out, k_w, rank), outer)
    left, right = _evenly(left.flatten(0, 1), right)
    horizontal = left.view(c_out, k_w, rank).permute(0, 2, 1).unsqueeze(2)
    return horizontal, right.reshape(rank, c_in, k_h, 1)
