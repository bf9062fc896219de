"""The published recipe including its faults, for comparison only.

Convolutions get a CP decomposition from a random start. Linear layers get a CP of the matrix, whose
two factors are scaled as if there were four. The replacement layers are those of
`ard.assembly.surgery`, with correct strides and paddings; only the way to find the factors differs.

Reference: the adaptive rank decomposition of MMD-PMish-NAS, re-implemented from its description.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import tensorly as tl
import torch
from tensorly.decomposition import parafac
from torch import Tensor, nn

from ard.assembly.surgery import assemble
from ard.errors import NonFiniteError, PlanError, RankError
from ard.factorization.cp import CP, cp_kernels
from ard.factorization.svd import SVD, leading_left_vectors
from ard.layers import describe_layer
from ard.plan import Factorization, RankPlan
from nas_gan.networks.layer_types import Layer
from nas_gan.networks.structure import replace_modules
from nas_gan.seeds import RANDOM_STATE_BITS, folded

N_ITER_MAX = 100
TOL = 1e-8


@dataclass(frozen=True, eq=False)
class PublishedFactors:
    """The replacement layers by name, and the plan that the recipe ended up with.

    The latter differs from the requested plan if a decomposition broke down and its rank was
    halved.
    """

    modules: Mapping[str, nn.Module]
    plan: RankPlan


def published_generator(
    generator: nn.Module, plan: RankPlan, *, seed: int, linear_fault: bool
) -> nn.Module:
    """A copy of `generator` factorized by the published recipe; see `published_factors`."""
    factors = published_factors(generator, plan, seed=seed, linear_fault=linear_fault)
    return replace_modules(generator, factors.modules)


def published_factors(
    generator: nn.Module, plan: RankPlan, *, seed: int, linear_fault: bool
) -> PublishedFactors:
    """Factorize the layers of a plan by the published recipe: `cp(r)`, or `svd(r)` for Linear.

    Args:
        generator: the dense generator; it is not changed.
        plan: the factorization of each layer.
        seed: with the layer's place in the plan, the seed of its random start.
        linear_fault: scale the factors of linear layers as published, instead of correctly.

    Raises:
        PlanError: a layer is not in the generator, or the recipe has no such choice for it.
        NonFiniteError: a weight is NaN or infinite.
    """
    modules: dict[str, nn.Module] = {}
    found: dict[str, Factorization] = {}
    for index, (name, choice) in enumerate(plan.items()):
        try:
            module = generator.get_submodule(name)
        except AttributeError as error:
            raise PlanError(f"the generator has no layer {name!r}: {error}") from error
        method = (SVD if isinstance(module, nn.Linear) else CP).name
        other = not isinstance(choice, Factorization) or choice.method != method
        if not isinstance(module, nn.Linear | nn.Conv2d) or other:
            raise PlanError(
                f"{name}: the published recipe is cp for a Conv2d and svd for a Linear; "
                f"got {choice} for a {type(module).__name__}"
            )
        if not module.weight.isfinite().all():
            raise NonFiniteError(f"{name}: a weight is NaN or infinite and cannot be factorized")
        try:
            describe_layer(name, module).check(choice)
            modules[name], found[name] = _factorize(
                module, cast(Factorization, choice), [seed, index], linear_fault
            )
        except RankError as error:
            raise PlanError(f"{name}: {error}") from error
    return PublishedFactors(modules, RankPlan(found))


def _factorize(
    module: Layer, choice: Factorization, seed: list[int], linear_fault: bool
) -> tuple[nn.Module, Factorization]:
    (rank,) = choice.rank
    if isinstance(module, nn.Linear):
        left, right = published_matrix_factors(module.weight, rank, fault=linear_fault)
        kernels = [right[:, :, None, None], left[:, :, None, None]]
        return assemble(module, SVD.name, [kernels]), choice
    if module.groups > 1:
        raise RankError("the published recipe does not support groups")
    start = int(np.random.default_rng(seed).integers(2**31))
    factors = published_cp(module.weight, rank, start)
    replacement = assemble(module, CP.name, [cp_kernels((None, factors))])
    return replacement, Factorization(CP.name, (factors[0].shape[1],))


def published_cp(weight: Tensor, rank: int, seed: int) -> list[Tensor]:
    """CP factors of a kernel `(c_out, c_in, k_h, k_w)` as published, in the weight's precision.

    They are computed by `tensorly`'s alternating least squares: random start, 100 sweeps, tolerance
    1e-8, columns of unit length with weights `lambda`, orthogonalised before every sweep. Then each
    of the four factors is multiplied by `lambda^(1/4)`. If a factor is not finite or a system
    cannot be solved, the rank is halved, with the same seed. The number of columns of the factors
    is the final rank.

    Raises:
        RankError: the rank does not fit, or even rank 1 broke down.
    """
    c_out, c_in, k_h, k_w = weight.shape
    CP.check_rank((rank,), (c_out, c_in, k_h, k_w))
    array = weight.detach().cpu().numpy()
    left = rank
    while left >= 1:
        factors = _parafac(array, left, seed)
        if factors is not None:
            return [torch.from_numpy(factor).to(weight) for factor in factors]
        left //= 2
    raise RankError(
        f"the published CP of a {tuple(weight.shape)} kernel broke down at rank {rank} and at "
        "every half of it"
    )


def _parafac(array: np.ndarray, rank: int, seed: int) -> list[np.ndarray] | None:
    """One attempt; None if it broke down."""
    with tl.backend_context("numpy", local_threadsafe=True), warnings.catch_warnings():
        # It divides by columns of zero length and overflows if it diverges, as published.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            weights, factors = parafac(
                array,
                rank,
                init="random",
                n_iter_max=N_ITER_MAX,
                tol=TOL,
                normalize_factors=True,
                orthogonalise=True,
                random_state=folded(seed, RANDOM_STATE_BITS),
            )
        except np.linalg.LinAlgError:
            return None
        spread = [factor * np.abs(weights) ** 0.25 for factor in factors]
        spread[0] = spread[0] * np.sign(weights)
    return spread if all(np.isfinite(factor).all() for factor in spread) else None


def published_matrix_factors(matrix: Tensor, rank: int, *, fault: bool) -> tuple[Tensor, Tensor]:
    """The factors `(c_out, r)` and `(r, c_in)` of a linear layer's weight `(c_out, c_in)`.

    The recipe runs CP on the matrix and multiplies both factors by `lambda^(1/4)`, which is the
    formula for four factors: the size of each component becomes `lambda^(1/2)` instead of `lambda`.
    Without the fault, both factors are multiplied by `lambda^(1/2)`.

    Alternating least squares on a matrix with normalised columns diverges in some versions of
    `tensorly` (0.10 gives NaN or a singular system), and if it converges, the best result is the
    truncated SVD. So the components here are those of the SVD: unit columns, with the singular
    values as `lambda`. The fault is then the same on every machine, and the only one.

    Raises:
        RankError: the rank is below 1 or above the smaller side of the matrix.
    """
    c_out, c_in = matrix.shape
    SVD.check_rank((rank,), (c_out, c_in, 1, 1))
    left = leading_left_vectors(matrix.detach().double(), rank)  # (c_out, r), unit columns
    right = left.T @ matrix.detach().double()  # (r, c_in)
    sizes = right.norm(dim=1)  # lambda
    scale = sizes ** (1 / 4 if fault else 1 / 2)
    return left * scale, right * (scale / sizes.clamp(min=math.ulp(0.0)))[:, None]
