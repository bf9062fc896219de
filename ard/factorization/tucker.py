"""Tucker-2: a kernel factorized along its two channel modes."""

from __future__ import annotations

import tensorly as tl
import torch
from tensorly.decomposition import partial_tucker
from torch import Tensor

from ard.factorization.ranks import check_rank
from ard.factorization.svd import covariance_root, leading_left_vectors

# HOOI starts from the HOSVD, which is already close: on trained kernels the error moves by less
# than 1 % after the first few sweeps.
N_ITER_MAX = 10
TOL = 1e-5


def tucker2(
    weight: Tensor,
    rank: tuple[int, int],
    input_covariance: Tensor | None = None,
    n_iter_max: int = N_ITER_MAX,
) -> tuple[Tensor, Tensor, Tensor]:
    """`weight (c_out, c_in, k_h, k_w)` as a small core between two channel factors.

    Returns `core (r_out, r_in, k_h, k_w)`, `out_factor (c_out, r_out)` and `in_factor (c_in, r_in)`
    with `weight ~ core x_0 out_factor x_1 in_factor`, computed by higher-order orthogonal iteration
    (De Lathauwer et al., 2000). Both factors have orthonormal columns. With
    `input_covariance (c_in, c_in)`, the second moment of the input channels, the iteration runs on
    the whitened kernel. Computed and returned in float64.

    Raises:
        RankError: a rank is below 1 or above its number of channels.
    """
    c_out, c_in, k_h, k_w = weight.shape
    check_rank("tucker2", rank, (c_out, c_in, k_h, k_w))
    weight = weight.detach().double()
    root = None if input_covariance is None else covariance_root(input_covariance).to(weight)
    whitened = weight if root is None else torch.einsum("oihw,ij->ojhw", weight, root)

    # An unfolding of the projected kernel has no more than r_other k_h k_w independent vectors. A
    # larger rank is filled up with zeros, which is exact and keeps the shape that was asked for.
    r_out, r_in = min(rank[0], rank[1] * k_h * k_w), min(rank[1], rank[0] * k_h * k_w)
    core, out_factor, in_factor = _hooi(whitened, (r_out, r_in), n_iter_max)
    if root is not None:
        # (W C^1/2) V V^T C^-1/2: the inverse goes into the factor, and QR takes its condition out.
        in_factor, triangle = torch.linalg.qr(torch.linalg.solve(root, in_factor))
        core = torch.einsum("oihw,ji->ojhw", core, triangle)
    return (
        _pad(core, (*rank, k_h, k_w)),
        _pad(out_factor, (c_out, rank[0])),
        _pad(in_factor, (c_in, rank[1])),
    )


def _hooi(weight: Tensor, rank: tuple[int, int], n_iter_max: int) -> tuple[Tensor, Tensor, Tensor]:
    unfoldings = weight.flatten(1), weight.transpose(0, 1).flatten(1)
    factors = [leading_left_vectors(u, r) for u, r in zip(unfoldings, rank, strict=True)]
    core = torch.einsum("oihw,or,is->rshw", weight, *factors)
    if rank != tuple(weight.shape[:2]):  # at full rank the bases are complete and nothing is lost
        # Our own start replaces the SVD of tensorly's; the SVDs inside its sweeps are economy ones
        # of an unfolding that is already projected, (c, r k_h k_w).
        with tl.backend_context("numpy", local_threadsafe=True):
            start = (core.cpu().numpy(), [factor.cpu().numpy() for factor in factors])
            array = weight.cpu().numpy()
            (found, found_factors), _ = partial_tucker(
                array, rank, modes=[0, 1], n_iter_max=n_iter_max, init=start, tol=TOL
            )
        core, *factors = (torch.from_numpy(a).to(weight) for a in (found, *found_factors))
    return core, factors[0], factors[1]


def _pad(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) == shape:
        return tensor
    padded = tensor.new_zeros(shape)
    padded[tuple(slice(n) for n in tensor.shape)] = tensor
    return padded
