"""Tucker-2: a kernel factorized along its two channel modes."""

from __future__ import annotations

import torch
from torch import Tensor

from ard.factorization.ranks import check_rank
from ard.factorization.svd import (
    covariance_root,
    leading_left_vectors,
    unweigh_outputs,
    weigh_outputs,
)

# HOOI starts from the HOSVD, which is already close: on trained kernels the error moves by less
# than 1 % after the first few sweeps.
N_ITER_MAX = 10
TOL = 1e-5  # of the norm of the kernel


def tucker2(
    weight: Tensor,
    rank: tuple[int, int],
    input_covariance: Tensor | None = None,
    n_iter_max: int = N_ITER_MAX,
    output_covariance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`weight (c_out, c_in, k_h, k_w)` as a small core between two channel factors.

    Returns `core (r_out, r_in, k_h, k_w)`, `out_factor (c_out, r_out)` and `in_factor (c_in, r_in)`
    with `weight ~ core x_0 out_factor x_1 in_factor`, computed by higher-order orthogonal iteration
    (De Lathauwer et al., 2000). Both factors have orthonormal columns. With
    `input_covariance (c_in, c_in)`, the second moment of the input channels, or
    `output_covariance (c_out, c_out)`, that of the image's gradients with respect to the output
    channels, the iteration runs on the kernel whitened on that side. Computed and returned in
    float64.

    Raises:
        RankError: a rank is below 1 or above its number of channels.
    """
    c_out, c_in, k_h, k_w = weight.shape
    check_rank("tucker2", rank, (c_out, c_in, k_h, k_w))
    weight = weight.detach().double()
    root = None if input_covariance is None else covariance_root(input_covariance).to(weight)
    outer, whitened = weigh_outputs(weight, output_covariance)
    if root is not None:
        whitened = torch.einsum("oihw,ij->ojhw", whitened, root)

    # An unfolding of the projected kernel has no more than r_other k_h k_w independent vectors. A
    # larger rank is filled up with zeros, which is exact and keeps the shape that was asked for.
    r_out, r_in = min(rank[0], rank[1] * k_h * k_w), min(rank[1], rank[0] * k_h * k_w)
    core, out_factor, in_factor = _hooi(whitened, (r_out, r_in), n_iter_max)
    if root is not None:
        # (W C^1/2) V V^T C^-1/2: the inverse goes into the factor, and QR takes its condition out.
        in_factor, triangle = torch.linalg.qr(torch.linalg.solve(root, in_factor))
        core = torch.einsum("oihw,ji->ojhw", core, triangle)
    if outer is not None:
        out_factor, triangle = torch.linalg.qr(unweigh_outputs(out_factor, outer))
        core = torch.einsum("oihw,po->pihw", core, triangle)
    return (
        _pad(core, (*rank, k_h, k_w)),
        _pad(out_factor, (c_out, rank[0])),
        _pad(in_factor, (c_in, rank[1])),
    )


def _hooi(weight: Tensor, rank: tuple[int, int], n_iter_max: int) -> tuple[Tensor, Tensor, Tensor]:
    """Core and bases by alternating projections, started with the HOSVD.

    Written out because `tensorly`'s `partial_tucker` takes an SVD of the whole projected unfolding
    where `leading_left_vectors` takes the eigenvectors of its small Gram matrix, and because this
    runs on whichever device the kernel is.
    """
    out_basis = leading_left_vectors(weight.flatten(1), rank[0])
    in_basis = leading_left_vectors(weight.transpose(0, 1).flatten(1), rank[1])
    core = torch.einsum("oihw,or,is->rshw", weight, out_basis, in_basis)
    if rank == tuple(weight.shape[:2]):  # the bases are complete and nothing is lost
        return core, out_basis, in_basis
    for _ in range(n_iter_max):
        previous = core.norm()
        by_input = torch.einsum("oihw,is->oshw", weight, in_basis)
        out_basis = leading_left_vectors(by_input.flatten(1), rank[0])
        by_output = torch.einsum("oihw,or->irhw", weight, out_basis)
        in_basis = leading_left_vectors(by_output.flatten(1), rank[1])
        core = torch.einsum("irhw,is->rshw", by_output, in_basis)
        # The bases are orthonormal: what the core gains in norm, the error loses.
        if core.norm() - previous <= TOL * weight.norm():
            break
    return core, out_basis, in_basis


def _pad(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) == shape:
        return tensor
    padded = tensor.new_zeros(shape)
    padded[tuple(slice(n) for n in tensor.shape)] = tensor
    return padded
