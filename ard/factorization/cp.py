"""CP (PARAFAC): a kernel as a sum of rank-one terms."""

from __future__ import annotations

import torch
from torch import Tensor

from ard.errors import RankError
from ard.factorization.ranks import check_rank, max_rank
from ard.factorization.svd import covariance_root, spatial_svd

N_ITER_MAX = 50
TOL = 1e-6
# Ridge on the normal equations of a kernel scaled to unit norm. It keeps them solvable when terms
# are zero or parallel, and prices the large cancelling terms towards which CP likes to drift.
RIDGE = 1e-7


def cp(
    weight: Tensor,
    rank: int,
    input_covariance: Tensor | None = None,
    n_iter_max: int = N_ITER_MAX,
) -> list[Tensor]:
    """`weight (c_out, c_in, k_h, k_w)` as `sum_r a_r x b_r x u_r x v_r`.

    Returns `[(c_out, r), (c_in, r), (k_h, r), (k_w, r)]`; in each term the four columns are equally
    long. Found by alternating least squares in float64 from a start without random numbers: the
    spatial SVD of the kernel, whose terms are each split into rank-one ones. At `max_rank` the
    factors are written down exactly instead. `input_covariance (c_in, c_in)` is the second moment
    of the input channels; the fit is then made on the whitened kernel.

    Raises:
        RankError: the rank is below 1 or above `max_rank`, or the iteration broke down.
    """
    shape = weight.shape
    c_out, c_in, k_h, k_w = shape
    check_rank("cp", (rank,), (c_out, c_in, k_h, k_w))
    weight = weight.detach().double()
    if (rank,) == max_rank("cp", (c_out, c_in, k_h, k_w)):
        return spread_norms(_one_term_per_fibre(weight))
    root = None if input_covariance is None else covariance_root(input_covariance).to(weight)
    whitened = weight if root is None else torch.einsum("oihw,ij->ojhw", weight, root)
    norm = whitened.norm()
    if norm == 0:
        return [weight.new_zeros(n, rank) for n in shape]
    problem = f"cp({rank}) of a {tuple(shape)} kernel"
    try:
        factors = _als(whitened / norm, _split_spatial_svd(whitened / norm, rank), n_iter_max)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # missing in its stub
        raise RankError(f"{problem}: {error}") from error
    if not all(factor.isfinite().all() for factor in factors):
        raise RankError(f"{problem} diverged; choose another rank or another method")
    if root is not None:
        factors[1] = torch.linalg.solve(root, factors[1])
    factors[0] = factors[0] * norm
    return spread_norms(factors)


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


def _als(weight: Tensor, factors: list[Tensor], n_iter_max: int) -> list[Tensor]:
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
        a = _least_squares(torch.einsum("ohwr,hr,wr->or", by_input, u, v), b, u, v)
        by_output = torch.einsum("oihw,or->ihwr", weight, a)
        b = _least_squares(torch.einsum("ihwr,hr,wr->ir", by_output, u, v), a, u, v)
        u = _least_squares(torch.einsum("ihwr,ir,wr->hr", by_output, b, v), a, b, v)
        projection = torch.einsum("ihwr,ir,hr->wr", by_output, b, u)
        v = _least_squares(projection, a, b, u)
        # |W - W'|^2 = |W|^2 - 2 <W, W'> + |W'|^2 with |W| = 1
        power = (a.T @ a) * (b.T @ b) * (u.T @ u) * (v.T @ v)
        previous, error = error, float((1 - 2 * (projection * v).sum() + power.sum()).abs().sqrt())
        if previous is not None and abs(previous - error) < TOL:
            break
    return [a, b, u, v]


def _least_squares(projection: Tensor, *others: Tensor) -> Tensor:
    """The factor that fits best while the three others stay; `projection (n, r)` is the MTTKRP."""
    gram = torch.eye(projection.shape[1]).to(projection) * RIDGE
    gram = gram + torch.stack([factor.T @ factor for factor in others]).prod(dim=0)
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
