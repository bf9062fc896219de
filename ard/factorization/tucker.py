"""Tucker-2: a kernel factorized along its two channel modes."""

from __future__ import annotations

import torch
from tensorly import unfold
from tensorly.tenalg import mode_dot, multi_mode_dot
from tensorly.tucker_tensor import TuckerTensor
from torch import Tensor
from torch.nn import functional as F

from ard.factorization.backend import torch_backend
from ard.factorization.method import C_IN, C_OUT, Covariances, Factor, Mark, Method
from ard.factorization.ranks import Rank, is_pointwise
from ard.factorization.svd import leading_left_vectors
from ard.factorization.whitening import Whitening

# HOOI starts from the HOSVD, which is already close: on trained kernels the error moves by less
# than 1 % after the first few sweeps.
N_ITER_MAX = 10
TOL = 1e-5  # of the norm of the kernel


@torch_backend()
def tucker2(
    weight: Tensor,
    rank: tuple[int, int],
    input_covariance: Tensor | None = None,
    n_iter_max: int = N_ITER_MAX,
    output_covariance: Tensor | None = None,
) -> TuckerTensor:
    """`weight (c_out, c_in, k_h, k_w)` as a small core between two channel factors.

    Computed by higher-order orthogonal iteration (De Lathauwer et al., 2000) in float64. With
    `input_covariance (c_in, c_in)`, the second moment of the input channels, or
    `output_covariance (c_out, c_out)`, that of the image's gradients with respect to the output
    channels, the iteration runs on the kernel whitened on that side.

    Returns:
        The core `(r_out, r_in, k_h, k_w)` and the factors `(c_out, r_out)`, `(c_in, r_in)`,
        `(k_h, k_h)` and `(k_w, k_w)`. The first two have orthonormal columns, and the last two are
        identities.

    Raises:
        RankError: a rank is below 1 or above its number of channels.
    """
    c_out, c_in, k_h, k_w = weight.shape
    TUCKER2.check_rank(rank, (c_out, c_in, k_h, k_w))
    weight = weight.detach().double()
    sides = Whitening.of(weight, input_covariance, output_covariance)

    # An unfolding of the projected kernel has at most r_other k_h k_w independent vectors. A larger
    # rank is padded with zeros, which is exact and keeps the requested shape.
    r_out, r_in = min(rank[0], rank[1] * k_h * k_w), min(rank[1], rank[0] * k_h * k_w)
    core, (out_factor, in_factor) = _hooi(sides.whiten(weight), (r_out, r_in), n_iter_max)
    # (W C^1/2) V V^T C^-1/2: the inverse goes into the factor, and QR restores its condition.
    if sides.inputs is not None:
        in_factor, triangle = torch.linalg.qr(sides.unwhiten_inputs(in_factor))
        core = mode_dot(core, triangle, 1)
    if sides.outputs is not None:
        out_factor, triangle = torch.linalg.qr(sides.unwhiten_outputs(out_factor))
        core = mode_dot(core, triangle, 0)
    more_out, more_in = rank[0] - r_out, rank[1] - r_in
    factors = [
        F.pad(out_factor, (0, more_out)),
        F.pad(in_factor, (0, more_in)),
        *(torch.eye(k, dtype=core.dtype, device=core.device) for k in (k_h, k_w)),
    ]
    return TuckerTensor((F.pad(core, (0, 0, 0, 0, 0, more_in, 0, more_out)), factors))


def _hooi(weight: Tensor, rank: Rank, n_iter_max: int) -> tuple[Tensor, list[Tensor]]:
    """Core and bases of the two channel modes by alternating projections, from the HOSVD.

    These are the sweeps of `tensorly`'s `partial_tucker`. It uses a given SVD only for the start,
    and an economy SVD for every projected unfolding afterwards. With the eigenvectors of the small
    Gram matrices, the same sweeps take 2 to 5 times less processor time, with the larger gains at
    larger ranks (`engines` in benchmarks/factorization.py).
    """
    bases = [leading_left_vectors(unfold(weight, mode), r) for mode, r in enumerate(rank)]
    core = multi_mode_dot(weight, bases, modes=[0, 1], transpose=True)
    if rank == tuple(weight.shape[:2]):  # the bases are complete, so this is exact
        return core, bases
    for _ in range(n_iter_max):
        previous = core.norm()
        for mode in (0, 1):
            core = mode_dot(weight, bases[1 - mode].T, 1 - mode)
            bases[mode] = leading_left_vectors(unfold(core, mode), rank[mode])
        core = mode_dot(core, bases[1].T, 1)
        # The bases are orthonormal, so the error falls as the norm of the core grows.
        if core.norm() - previous <= TOL * weight.norm():
            break
    return core, bases


def _kernels(kernel: Tensor, rank: Rank, known: Covariances) -> list[Tensor]:
    core, (out_factor, in_factor, *_) = tucker2(
        kernel, (rank[0], rank[1]), known.channel, output_covariance=known.output
    )
    return [in_factor.T[:, :, None, None], core, out_factor[:, :, None, None]]


TUCKER2 = Method(
    name="tucker2",
    ranks=("r_out", "r_in"),
    factors=(Factor(C_IN, "r_in"), Factor("r_in", "r_out", "both"), Factor("r_out", C_OUT)),
    max_rank_of=lambda shape: shape[:2],
    factorize=_kernels,
    fits=lambda shape, n_axes: not is_pointwise(shape),
    mark=Mark("#0072b2", "o", "circle"),
    unfoldings=lambda kernel: (kernel.flatten(1), kernel.transpose(0, 1).flatten(1)),
)
