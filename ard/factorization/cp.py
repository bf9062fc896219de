"""CP (PARAFAC): a kernel as a sum of rank-one terms, none of which may grow without bound.

Of two CP fits with the same error, the one whose terms are large and cancel each other is useless:
a small change of a factor, by rounding or by training, changes the kernel a lot. Such fits are not
rare, for some kernels a best one does not even exist and the terms grow for ever (de Silva and Lim,
"Tensor rank and the ill-posedness of the best low-rank approximation problem", 2008). Here the
power of the terms is measured against that of the kernel, and a fit is repeated with a price on it
until it is within a bound.

References: Phan, Sobolev, Sozykin, Ermilov, Gusak, Tichavsky, Glukhov, Oseledets and Cichocki,
"Stable low-rank tensor decomposition for compression of convolutional neural network", ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ard.errors import RankError
from ard.factorization.ranks import check_rank, max_rank
from ard.factorization.svd import (
    covariance_root,
    spatial_svd,
    unweigh_outputs,
    weigh_outputs,
)

N_ITER_MAX = 50
TOL = 1e-6
# Ridge on the normal equations of a kernel scaled to unit norm. It keeps them solvable when terms
# are zero or parallel.
RIDGE = 1e-7
# The most that the squared norms of all terms may add up to, as a multiple of the kernel's own
# squared norm. Orthogonal terms have 1; plain fits of trained kernels had 0.3 to 4, kernels without
# a best fit pass any bound.
MAX_DEGENERACY = 10.0
# Prices per unit of that sum, tried in this order before the one that is sure to meet the bound.
PRICES = (0.0, 1e-4, 1e-3, 1e-2)


def cp(
    weight: Tensor,
    rank: int,
    input_covariance: Tensor | None = None,
    n_iter_max: int = N_ITER_MAX,
    output_covariance: Tensor | None = None,
    max_degeneracy: float = MAX_DEGENERACY,
) -> list[Tensor]:
    """`weight (c_out, c_in, k_h, k_w)` as `sum_r a_r x b_r x u_r x v_r`.

    Returns `[(c_out, r), (c_in, r), (k_h, r), (k_w, r)]`; in each term the four columns are equally
    long. Found by alternating least squares in float64 from a start without random numbers: the
    spatial SVD of the kernel, whose terms are each split into rank-one ones. At `max_rank` the
    factors are written down exactly instead. `input_covariance (c_in, c_in)` is the second moment
    of the input channels and `output_covariance (c_out, c_out)` that of the image's gradients with
    respect to the output channels; the fit is then made on the kernel whitened on that side.

    The squared norms of the terms add up to at most `max_degeneracy` times that of the (whitened)
    kernel, at some cost in error where a closer fit would have needed more. The rank is never
    changed.

    Raises:
        RankError: the rank is below 1 or above `max_rank`, the bound is below 1, or the iteration
            broke down.
    """
    shape = weight.shape
    c_out, c_in, k_h, k_w = shape
    check_rank("cp", (rank,), (c_out, c_in, k_h, k_w))
    if not max_degeneracy >= 1:
        raise RankError(
            f"max_degeneracy is 1 or more, which orthogonal terms have; got {max_degeneracy}"
        )
    weight = weight.detach().double()
    if (rank,) == max_rank("cp", (c_out, c_in, k_h, k_w)):
        return spread_norms(_one_term_per_fibre(weight))
    root = None if input_covariance is None else covariance_root(input_covariance).to(weight)
    outer, whitened = weigh_outputs(weight, output_covariance)
    if root is not None:
        whitened = torch.einsum("oihw,ij->ojhw", whitened, root)
    norm = whitened.norm()
    if norm == 0:
        return [weight.new_zeros(n, rank) for n in shape]
    problem = f"cp({rank}) of a {tuple(shape)} kernel"
    try:
        factors = _bounded_als(whitened / norm, rank, n_iter_max, max_degeneracy)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # missing in its stub
        raise RankError(f"{problem}: {error}") from error
    if not all(factor.isfinite().all() for factor in factors):
        raise RankError(f"{problem} diverged; choose another rank or another method")
    if root is not None:
        factors[1] = torch.linalg.solve(root, factors[1])
    factors[0] = unweigh_outputs(factors[0], outer) * norm
    return spread_norms(factors)


def degeneracy(factors: Sequence[Tensor], norm: float | None = None) -> float:
    """How much the terms cancel each other: `sum_r ||term_r||^2 / norm^2`.

    `factors` are `n` matrices `(length, r)`, and `norm` is that of the tensor they were fitted to,
    by default that of their sum. It is 1 for orthogonal terms and at least `1 / r`; far above 1 the
    tensor is a small difference of large terms.
    """
    power = _powers(factors).prod(dim=0).sum()  # of all terms
    total = torch.stack([f.T @ f for f in factors]).prod(dim=0).sum() if norm is None else norm**2
    return float(power / total)


def cp_sensitivity(factors: Sequence[Tensor]) -> float:
    """How much noise in the factors becomes noise in the tensor: `E ||T - T'||^2 / sigma^2`.

    To first order, for independent noise of variance `sigma^2` on every entry of every factor
    `(length_n, r)`: `sum_n length_n sum_r prod_{m != n} ||a_mr||^2` (Phan et al., 2020).
    """
    powers = _powers(factors)
    return float(
        sum(
            len(factor) * torch.cat([powers[:n], powers[n + 1 :]]).prod(dim=0).sum()
            for n, factor in enumerate(factors)
        )
    )


def _powers(factors: Sequence[Tensor]) -> Tensor:
    """Squared length of every column, `(n, r)`."""
    return torch.stack([factor.double().square().sum(dim=0) for factor in factors])


def spread_norms(factors: list[Tensor]) -> list[Tensor]:
    """The same sum of rank-one terms with the `n` columns of every term equally long.

    A term of magnitude `m` gives each of its `n` columns the length `m^(1/n)`, whatever `n` is: two
    factors of a matrix get a square root, four factors of a kernel a fourth root.
    """
    norms = torch.stack([factor.norm(dim=0) for factor in factors])  # (n, r)
    magnitude = norms.log().mean(dim=0).exp()  # the n-th root of the product; 0 for a zero term
    scale = torch.where(magnitude > 0, magnitude / norms, 0)
    return [factor * s for factor, s in zip(factors, scale, strict=True)]


def _one_term_per_fibre(weight: Tensor) -> list[Tensor]:
    """The weight's fibres along its longest mode, one a term, times unit vectors."""
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
    """Fit a kernel of unit norm, and again at rising prices while its terms are too large.

    With a price `p` the iteration minimises `||W - W'||^2 + p sum_r ||term_r||^2`, one factor at a
    time. At zero for that factor this is 1, so the sum is at most `1 / p` after every step.
    """
    factors = _als(weight, _split_spatial_svd(weight, rank), n_iter_max)
    for price in (*(p for p in PRICES if p < 1 / max_degeneracy), 1 / max_degeneracy):
        if price > 0:
            factors = _als(weight, factors, n_iter_max, price)
        if degeneracy(factors, norm=1.0) <= max_degeneracy:
            break
    return factors


def _als(
    weight: Tensor, factors: list[Tensor], n_iter_max: int, price: float = 0.0
) -> list[Tensor]:
    """Alternating least squares on a kernel of unit norm; the sweeps of `tensorly`'s `parafac`.

    Written out because `parafac` forms the Khatri-Rao product of three modes, up to
    `(c_out c_in k, r)`, once for each mode of each sweep. Contracting the long channel mode first
    and sharing the result takes two products `(c k_h k_w, c) x (c, r)` a sweep, which was 24 to 33
    times faster at 128 channels and a 5 x 5 kernel, and runs on whichever device the kernel is.
    """
    a, b, u, v = factors
    error = None
    for _ in range(n_iter_max):
        by_input = torch.einsum("oihw,ir->ohwr", weight, b)
        a = _least_squares(torch.einsum("ohwr,hr,wr->or", by_input, u, v), price, b, u, v)
        by_output = torch.einsum("oihw,or->ihwr", weight, a)
        b = _least_squares(torch.einsum("ihwr,hr,wr->ir", by_output, u, v), price, a, u, v)
        u = _least_squares(torch.einsum("ihwr,ir,wr->hr", by_output, b, v), price, a, b, v)
        projection = torch.einsum("ihwr,ir,hr->wr", by_output, b, u)
        v = _least_squares(projection, price, a, b, u)
        # |W - W'|^2 = |W|^2 - 2 <W, W'> + |W'|^2 with |W| = 1
        power = (a.T @ a) * (b.T @ b) * (u.T @ u) * (v.T @ v)
        previous, error = error, float((1 - 2 * (projection * v).sum() + power.sum()).abs().sqrt())
        if previous is not None and abs(previous - error) < TOL:
            break
    return [a, b, u, v]


def _least_squares(projection: Tensor, price: float, *others: Tensor) -> Tensor:
    """The factor that fits best while the three others stay; `projection (n, r)` is the MTTKRP.

    The diagonal of the Gram matrix of the others' terms holds what a term weighs per unit of this
    factor's column, so the price of a term's power is a share of that diagonal.
    """
    gram = torch.stack([factor.T @ factor for factor in others]).prod(dim=0)
    gram.diagonal().mul_(1 + price).add_(RIDGE)
    return torch.linalg.solve(gram, projection.T).T


def _split_spatial_svd(weight: Tensor, rank: int) -> list[Tensor]:
    """Rank-one terms of the spatial SVD, the `rank` largest first.

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
    return spread_norms([_fill(column.T, rank) for column in columns])


def _fill(factor: Tensor, rank: int) -> Tensor:
    missing = rank - factor.shape[1]
    return torch.cat([factor, factor.new_zeros(len(factor), missing)], dim=1)
