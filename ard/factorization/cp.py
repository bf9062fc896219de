"""CP (PARAFAC): a kernel as a sum of rank-one terms whose size is bounded.

A CP fit whose terms are large and cancel each other is useless, even if its error is small: a small
change of a factor, by rounding or by training, changes the kernel a lot. Such fits are not rare.
Some kernels have no best approximation at all, and the terms grow without bound (de Silva and Lim,
"Tensor rank and the ill-posedness of the best low-rank approximation problem", 2008). Here the
power of the terms is compared with that of the kernel, and the fit is repeated with a rising
penalty on the power until it is within a bound.

References: Phan, Sobolev, Sozykin, Ermilov, Gusak, Tichavsky, Glukhov, Oseledets and Cichocki,
"Stable low-rank tensor decomposition for compression of convolutional neural network", ECCV 2020.
"""

from __future__ import annotations

import math

import torch
from tensorly.cp_tensor import CPTensor, cp_norm, cp_normalize
from tensorly.tenalg import khatri_rao, mode_dot
from torch import Tensor
from torch.nn import functional as F

from ard.errors import RankError
from ard.factorization.backend import torch_backend
from ard.factorization.method import C_IN, C_OUT, Covariances, Factor, Mark, Method
from ard.factorization.ranks import Rank, is_pointwise
from ard.factorization.spatial_svd import spatial_svd
from ard.factorization.whitening import Whitening

# Sweeps of one fit. Extrapolated ones need about half as many as plain ones.
N_ITER_MAX = 28
# A fit is finished when a sweep lowers its error by less than this fraction.
TOL = 1e-4
# How far a sweep starts beyond the last one, as a multiple of the last change: at first, and its
# growth per sweep that lowered the error. It may grow up to a limit that grows more slowly; after a
# sweep that raised the error both fall.
STEP, STEP_GROWTH, STEP_LIMIT, LIMIT_GROWTH = 0.5, 1.1, 1.0, 1.02
# Ridge on the normal equations of a kernel scaled to unit norm. It keeps them solvable when terms
# are zero or parallel.
RIDGE = 1e-7
# The largest sum of the squared norms of all terms, as a multiple of the squared norm of the
# kernel. For orthogonal terms it is 1. Plain fits of trained kernels had 0.3 to 4; kernels without
# a best fit exceed any bound.
MAX_DEGENERACY = 10.0
# Prices per unit of that sum, tried in this order before the one that always meets the bound.
PRICES = (0.0, 1e-4, 1e-3, 1e-2)
# For a kernel of this many weights the sweeps take seconds per rank on a CPU, and eight times as
# long with twice the channels: 128 x 128 x 5 x 5 competes, 256 x 256 x 3 x 3 does not.
MAX_WEIGHTS = 2**19


@torch_backend()
def cp(
    weight: Tensor,
    rank: int,
    input_covariance: Tensor | None = None,
    n_iter_max: int = N_ITER_MAX,
    output_covariance: Tensor | None = None,
    max_degeneracy: float = MAX_DEGENERACY,
) -> CPTensor:
    """`weight (c_out, c_in, k_h, k_w)` as `sum_r a_r x b_r x u_r x v_r`.

    Computed by alternating least squares in float64 from a deterministic start: the spatial SVD of
    the kernel, each of whose terms is split into rank-one terms. At the largest rank, exact factors
    are constructed instead. `input_covariance (c_in, c_in)` is the second moment of the input
    channels and `output_covariance (c_out, c_out)` that of the image's gradients with respect to
    the output channels; with them, the fit is made on the kernel whitened on that side.

    The squared norms of the terms add up to at most `max_degeneracy` times that of the (whitened)
    kernel, at some cost in error if a closer fit would need larger terms. The rank is never
    changed.

    Returns:
        The factors `[(c_out, r), (c_in, r), (k_h, r), (k_w, r)]` with weights of one; in each term
        the four columns are equally long.

    Raises:
        RankError: the rank is below 1 or above the largest one, the bound is below 1, or the
            iteration broke down.
    """
    c_out, c_in, k_h, k_w = shape = tuple(weight.shape)
    CP.check_rank((rank,), (c_out, c_in, k_h, k_w))
    if not max_degeneracy >= 1:
        raise RankError(
            f"max_degeneracy must be at least 1, as for orthogonal terms; got {max_degeneracy}"
        )
    weight = weight.detach().double()
    if (rank,) == CP.max_rank((c_out, c_in, k_h, k_w)):
        return spread_norms((None, _one_term_per_fibre(weight)))
    sides = Whitening.of(weight, input_covariance, output_covariance)
    whitened = sides.whiten(weight)
    norm = whitened.norm()
    if norm == 0:
        return CPTensor((None, [weight.new_zeros(n, rank) for n in shape]))
    problem = f"cp({rank}) of a {shape} kernel"
    try:
        factors = _bounded_als(whitened / norm, rank, n_iter_max, max_degeneracy)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # missing in its stub
        raise RankError(f"{problem}: {error}") from error
    if not all(factor.isfinite().all() for factor in factors):
        raise RankError(f"{problem} diverged; choose another rank or another method")
    factors[0] = sides.unwhiten_outputs(factors[0]) * norm
    factors[1] = sides.unwhiten_inputs(factors[1])
    return spread_norms((None, factors))


@torch_backend()
def degeneracy(cp_tensor: CPTensor, norm: float | None = None) -> float:
    """How much the terms cancel each other: `sum_r ||term_r||^2 / norm^2`.

    The result is 1 for orthogonal terms and at least `1 / r`. If it is far above 1, the tensor is a
    small difference of large terms.

    Args:
        cp_tensor: `(weights, factors)`, with factors `(length, r)`.
        norm: the norm of the tensor that was fitted; by default that of `cp_tensor` itself.
    """
    weights, factors = cp_tensor
    cp_tensor = (weights, [factor.double() for factor in factors])
    sizes, _ = cp_normalize(cp_tensor)
    return float(sizes.square().sum() / (cp_norm(cp_tensor) if norm is None else norm) ** 2)


@torch_backend()
def spread_norms(cp_tensor: CPTensor) -> CPTensor:
    """The same sum of rank-one terms with the `n` columns of every term equally long.

    A term of magnitude `m` gives each of its `n` columns the length `m^(1/n)`, whatever `n` is: two
    factors of a matrix get a square root, four factors of a kernel a fourth root. Its weight is 1.
    """
    sizes, factors = cp_normalize(cp_tensor)
    return CPTensor((None, [factor * sizes ** (1 / len(factors)) for factor in factors]))


def _one_term_per_fibre(weight: Tensor) -> list[Tensor]:
    """Terms made of the weight's fibres along its longest mode, one per term, and unit vectors."""
    mode = weight.shape.index(max(weight.shape))
    others = [n for i, n in enumerate(weight.shape) if i != mode]
    index = torch.cartesian_prod(*(torch.arange(n) for n in others)).T  # (3, r)
    units = iter(
        torch.eye(n, dtype=weight.dtype, device=weight.device)[:, i.to(weight.device)]
        for n, i in zip(others, index, strict=True)
    )
    fibres = weight.movedim(mode, 0).flatten(1)  # (longest, r)
    return [fibres if i == mode else next(units) for i in range(weight.ndim)]


def _bounded_als(weight: Tensor, rank: int, n_iter_max: int, max_degeneracy: float) -> list[Tensor]:
    """Fit a kernel of unit norm, and refit it at rising prices while its terms are too large.

    With a price `p` the iteration minimises `||W - W'||^2 + p sum_r ||term_r||^2`, one factor at a
    time. With that factor zero, the objective is 1, so the sum is at most `1 / p` after every step.
    """
    factors = alternating_least_squares(weight, spatial_svd_terms(weight, rank), n_iter_max)
    for price in (*(p for p in PRICES if p < 1 / max_degeneracy), 1 / max_degeneracy):
        if price > 0:
            factors = alternating_least_squares(weight, factors, n_iter_max, price)
        if degeneracy((None, factors), norm=1.0) <= max_degeneracy:
            break
    return factors


@torch_backend()
def alternating_least_squares(
    weight: Tensor,
    factors: list[Tensor],
    n_iter_max: int,
    price: float = 0.0,
    *,
    extrapolated: bool = True,
) -> list[Tensor]:
    """Alternating least squares on a kernel of unit norm: the sweeps of `tensorly`'s `parafac`.

    Each sweep starts beyond the last one, in the direction in which that moved, and from the last
    one itself if that raised the error (extrapolation with restarts: Harshman, "Foundations of the
    PARAFAC procedure", 1970). The error never rises. Without `extrapolated`, the sweeps are those
    of `parafac` alone.

    `parafac` has no price on terms, and forms the Khatri-Rao product of three modes, up to
    `(c_out c_in k, r)`, for each mode of each sweep. By contracting the long channel mode first and
    sharing the result, the same sweeps take 23 to 36 times less processor time (`engines` in
    benchmarks/factorization.py).
    """
    step, limit = STEP, STEP_LIMIT
    start, error = factors, math.inf
    for number in range(n_iter_max):
        found, found_error = _sweep(weight, start, price)
        if number and found_error > error:  # too far: once more from the best factors
            step, limit = step / 2, max(step / 2, STEP / 2)
            start = factors
            continue
        changes = [new - old for new, old in zip(found, factors, strict=True)]
        converged = error - found_error < TOL * error if number else False
        factors, error = found, found_error
        if converged:
            break
        if number and extrapolated:
            start = [new + step * change for new, change in zip(found, changes, strict=True)]
            step, limit = min(step * STEP_GROWTH, limit), limit * LIMIT_GROWTH
        else:
            start = found
    return factors


def _sweep(weight: Tensor, factors: list[Tensor], price: float) -> tuple[list[Tensor], float]:
    """One round of least squares over the four factors, and what it minimises, as a root."""
    a, b, u, v = factors
    kernels = khatri_rao([u, v])  # (k_h k_w, r)
    by_input = mode_dot(weight, b.T, 1).flatten(2)  # (c_out, r, k_h k_w)
    a = _least_squares(torch.einsum("orx,xr->or", by_input, kernels), price, b, u, v)
    by_output = mode_dot(weight, a.T, 0)  # (r, c_in, k_h, k_w)
    b = _least_squares(torch.einsum("rix,xr->ir", by_output.flatten(2), kernels), price, a, u, v)
    by_both = torch.einsum("rihw,ir->rhw", by_output, b)
    u = _least_squares(torch.einsum("rhw,wr->hr", by_both, v), price, a, b, v)
    projection = torch.einsum("rhw,hr->wr", by_both, u)
    v = _least_squares(projection, price, a, b, u)
    # |W - W'|^2 = |W|^2 - 2 <W, W'> + |W'|^2 with |W| = 1
    square = 1 - 2 * (projection * v).sum() + cp_norm((None, [a, b, u, v])) ** 2
    if price:
        squares = [factor.square().sum(dim=0) for factor in (a, b, u, v)]
        square = square + price * torch.stack(squares).prod(dim=0).sum()
    return [a, b, u, v], float(square.abs().sqrt())


def _least_squares(projection: Tensor, price: float, *others: Tensor) -> Tensor:
    """The best factor while the three others are fixed; `projection (n, r)` is the MTTKRP.

    The diagonal of the Gram matrix of the others holds the power of each term per unit of this
    factor's column, so the price of a term's power is a multiple of that diagonal.
    """
    gram = torch.stack([factor.T @ factor for factor in others]).prod(dim=0)
    gram.diagonal().mul_(1 + price).add_(RIDGE)
    return torch.linalg.solve(gram, projection.T).T


@torch_backend()
def spatial_svd_terms(weight: Tensor, rank: int) -> list[Tensor]:
    """The `rank` largest rank-one terms of the spatial SVD, the largest first.

    A term of the spatial SVD is a `(c_out, k_w)` matrix times a `(c_in, k_h)` matrix; the SVDs of
    the two give up to `k_w k_h` rank-one terms.
    """
    c_out, c_in, k_h, k_w = weight.shape
    outer = min(rank, c_out * k_w, c_in * k_h)
    horizontal, vertical = spatial_svd(weight, outer)
    a, sigma_a, v = torch.linalg.svd(horizontal[:, :, 0].transpose(0, 1), full_matrices=False)
    b, sigma_b, u = torch.linalg.svd(vertical[..., 0], full_matrices=False)
    sizes = sigma_a[:, :, None] * sigma_b[:, None, :]  # (outer, p, q)
    order = sizes.flatten().argsort(descending=True, stable=True)[:rank]
    term = order // (sizes.shape[1] * sizes.shape[2])
    p, q = order // sizes.shape[2] % sizes.shape[1], order % sizes.shape[2]
    a_columns = a[term, :, p] * (sigma_a[term, p] * sigma_b[term, q])[:, None]
    columns = [a_columns, b[term, :, q], u[term, q], v[term, p]]  # each (r, n)
    factors = [F.pad(column.T, (0, rank - len(column))) for column in columns]
    return list(spread_norms((None, factors)).factors)


def cp_kernels(cp_tensor: CPTensor) -> list[Tensor]:
    """The kernels of the four factors in the order in which they are applied."""
    _, (a, b, u, v) = cp_tensor
    return [
        b.T[:, :, None, None],
        u.T[:, None, :, None],
        v.T[:, None, None, :],
        a[:, :, None, None],
    ]


def _kernels(kernel: Tensor, rank: Rank, known: Covariances) -> list[Tensor]:
    return cp_kernels(cp(kernel, rank[0], known.channel, output_covariance=known.output))


CP = Method(
    name="cp",
    ranks=("r",),
    factors=(
        Factor(C_IN, "r"),
        Factor("r", "r", "rows", depthwise=True),
        Factor("r", "r", "columns", depthwise=True),
        Factor("r", C_OUT),
    ),
    # With this many terms every kernel is represented exactly, by one term per fibre along its
    # largest dimension.
    max_rank_of=lambda shape: (math.prod(shape) // max(shape),),
    factorize=_kernels,
    fits=lambda shape, n_axes: n_axes == 2 and not is_pointwise(shape),
    mark=Mark("#009e73", "^", "triangle-up"),
    max_weights=MAX_WEIGHTS,
)
