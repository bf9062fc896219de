"""Baseline rules for plans: the published rule, uniform, energy, EVBMF, random and greedy.

Each rule is a function that returns a `RankPlan` or a list of them, so that baselines are measured
by the same `sweep` as our own plans. A layer stays dense if its choice would not make it smaller.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from ard.costs.cost import LayerCost
from ard.errors import BudgetError, NonFiniteError, PlanError
from ard.factorization.methods import METHODS
from ard.layers import LayerProfile
from ard.measuring.sensitivity import SensitivityTable
from ard.plan import DENSE, Factorization, RankPlan, Replacement
from ard.search.allocation import Option, monotone
from ard.search.recorded import ScoredChoice

# The weights of size against quality in the published tables.
PUBLISHED_PENALTIES = (1.0, 1 / 5, 1 / 10, 1 / 15, 1 / 20)
Matrix = NDArray[np.float64]


# -- the published rule


def penalty_rule(
    rows: Sequence[ScoredChoice], penalty: float, fid_dense: float
) -> dict[str, ScoredChoice | None]:
    """The row of each layer with the least `(1 + penalty (1 - CR / 100)) FID`, or None for dense.

    This is the rule of the published adaptive rank decomposition. It treats each layer separately,
    with no budget and no score of the whole plan. A large penalty favours small layers, a small one
    the best score. As published, FID and CR (the reduction in percent) are rounded to two decimals,
    CR is at least 0, ranks are compared in ascending order, the first minimum wins, and dense comes
    last.

    Raises:
        BudgetError: the penalty is negative or not finite.
    """
    if not (math.isfinite(penalty) and penalty >= 0):
        raise BudgetError(f"the penalty must be 0 or more; got {penalty}")
    chosen: dict[str, ScoredChoice | None] = {}
    for layer in dict.fromkeys(row.layer for row in rows):
        of_layer = sorted((r for r in rows if r.layer == layer), key=lambda r: r.order)
        costs = [
            (1 + penalty * (1 - max(round(r.reduction_pct, 2), 0) / 100)) * round(r.value, 2)
            for r in of_layer
        ]
        best = min(range(len(costs)), key=costs.__getitem__)
        dense = (1 + penalty) * round(fid_dense, 2)
        chosen[layer] = of_layer[best] if costs[best] <= dense else None
    return chosen


def reduction_pct(layer: LayerProfile, choice: Replacement) -> float:
    """The reduction of a layer's parameters, with bias, in percent to two decimals."""
    return round(100 * (1 - layer.params(choice) / layer.params()), 2)


def penalty_plans(
    table: SensitivityTable,
    layers: Sequence[LayerProfile],
    penalties: Sequence[float] = PUBLISHED_PENALTIES,
) -> list[RankPlan]:
    """The plans of the published rule for a measured table, one per penalty."""
    profiles = {layer.name: layer for layer in layers}
    rows = [
        ScoredChoice(
            row.layer,
            row.choice,
            row.score.value,
            reduction_pct(profiles[row.layer], row.choice),
        )
        for row in table.rows
    ]
    return [
        RankPlan(
            {
                name: row.choice
                for name, row in penalty_rule(rows, penalty, table.dense.value).items()
                if row is not None and isinstance(row.choice, Factorization)
            }
        )
        for penalty in penalties
    ]


# -- rules based on shapes


def uniform_rank(layers: Sequence[LayerProfile], rank: int, method: str) -> RankPlan:
    """The same rank everywhere, limited to the largest rank of each layer.

    A layer that `method` does not fit, such as a linear layer, uses the first method that fits.

    Raises:
        PlanError: the rank is below 1.
    """
    if rank < 1:
        raise PlanError(f"a rank must be at least 1; got {rank}")
    choices = {}
    for layer in layers:
        if (fitting := _fitting(layer, method)) is not None:
            ranks = tuple(min(rank, largest) for largest in layer.max_rank(fitting))
            choices[layer.name] = Factorization(fitting, ranks)
    return _only_smaller(layers, choices)


def uniform_ratio(layers: Sequence[LayerProfile], fraction: float, method: str) -> RankPlan:
    """Every layer keeps about the same fraction of its weights.

    Raises:
        PlanError: the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise PlanError(f"a fraction must be between 0 and 1; got {fraction}")
    choices = {}
    for layer in layers:
        if (fitting := _fitting(layer, method)) is not None:
            ranks = METHODS[fitting].rank_for_fraction(layer.shape, fraction)
            choices[layer.name] = Factorization(fitting, ranks)
    return _only_smaller(layers, choices)


def random_plans(
    layers: Sequence[LayerProfile],
    choices: Mapping[str, Sequence[Factorization]],
    n: int,
    rng: torch.Generator,
) -> list[RankPlan]:
    """`n` different plans; every layer draws uniformly from dense and its `choices`.

    Raises:
        PlanError: there are fewer than `n` different plans besides the dense one.
    """
    options = {layer.name: tuple(dict.fromkeys(choices.get(layer.name, ()))) for layer in layers}
    possible = math.prod(len(of_layer) + 1 for of_layer in options.values()) - 1
    if n > possible:
        raise PlanError(f"asked for {n} different plans; the choices make only {possible}")
    drawn: dict[RankPlan, None] = {}
    while len(drawn) < n:
        picks = {
            name: int(torch.randint(len(of_layer) + 1, (), generator=rng))
            for name, of_layer in options.items()
        }
        plan = RankPlan({name: options[name][i - 1] for name, i in picks.items() if i > 0})
        if plan != DENSE:
            drawn[plan] = None
    return list(drawn)


# -- rules based on weights


def energy_threshold(
    layers: Sequence[LayerProfile], weights: Mapping[str, Tensor], energy: float, method: str
) -> RankPlan:
    """The smallest ranks that keep a fraction `energy` of the sum of squared singular values.

    Tucker-2 uses the unfoldings along the output and the input channels, spatial SVD its own
    matrix.

    Args:
        layers: the layers to factorize.
        weights: their weights as torch stores them, by name.
        energy: the fraction to keep, in (0, 1].
        method: the factorization method.

    Raises:
        PlanError: the energy is not in (0, 1], or the method has no unfolding, as `cp` has none.
        NonFiniteError: a weight is NaN or infinite.
    """
    if not 0 < energy <= 1:
        raise PlanError(f"an energy must be in (0, 1]; got {energy}")
    choices = {}
    for layer in layers:
        if (fitting := _fitting(layer, method)) is not None:
            matrices = _unfoldings(layer, weights[layer.name], fitting)
            choices[layer.name] = Factorization(
                fitting, tuple(energy_rank(matrix, energy) for matrix in matrices)
            )
    return _only_smaller(layers, choices)


def energy_rank(matrix: Matrix, energy: float) -> int:
    """The smallest rank, at least 1, that keeps a fraction `energy` of the squared singular values.

    >>> energy_rank(np.diag([3.0, 4.0]), 16 / 25)
    1
    """
    held = np.cumsum(np.linalg.svd(matrix, compute_uv=False) ** 2)
    # A fraction that is met exactly must not be missed by a rounding error.
    return int(np.searchsorted(held, (energy - 1e-12) * held[-1])) + 1 if held[-1] > 0 else 1


def evbmf(
    layers: Sequence[LayerProfile],
    weights: Mapping[str, Tensor],
    method: str,
    weakening: float = 1.0,
) -> RankPlan:
    """Ranks by `evbmf_rank`, on the same matrices as in `energy_threshold`.

    A `weakening` below 1 keeps a larger rank, `r + (1 - weakening) (largest - r)`, as in MUSCO
    (Gusak et al., 2019).

    Raises:
        PlanError: the weakening is not in (0, 1], or the method is `cp`.
        NonFiniteError: a weight is NaN or infinite.
    """
    if not 0 < weakening <= 1:
        raise PlanError(f"a weakening factor must be in (0, 1]; got {weakening}")
    choices = {}
    for layer in layers:
        if (fitting := _fitting(layer, method)) is not None:
            ranks = []
            for matrix in _unfoldings(layer, weights[layer.name], fitting):
                rank = max(1, evbmf_rank(matrix))
                ranks.append(round(rank + (1 - weakening) * (min(matrix.shape) - rank)))
            choices[layer.name] = Factorization(fitting, tuple(ranks))
    return _only_smaller(layers, choices)


def evbmf_rank(matrix: Matrix, noise_variance: float | None = None) -> int:
    """The rank of a noisy matrix by empirical variational Bayes matrix factorization.

    The global solution has a closed form: a singular value is kept if it exceeds
    `sigma sqrt(M (1 + tau) (1 + alpha / tau))`. If no noise variance `sigma^2` is given, it is the
    one with the least free energy. The rank may be 0, for pure noise.

    References: Nakajima, Sugiyama, Babacan and Tomioka, "Global analytic solution of fully-observed
    variational Bayesian matrix factorization", JMLR 14 (2013), theorem 2 and section 5.

    Raises:
        PlanError: a given noise variance is not positive.
    """
    if noise_variance is not None and not noise_variance > 0:
        raise PlanError(f"a noise variance must be positive; got {noise_variance}")
    n_rows, n_columns = sorted(matrix.shape)  # L <= M
    alpha = n_rows / n_columns
    values = np.linalg.svd(matrix, compute_uv=False) ** 2 / n_columns  # (L,), gamma^2 / M
    if values[0] <= 0:
        return 0
    tau = _smallest_tau(alpha)
    threshold = (1 + tau) * (1 + alpha / tau)
    if noise_variance is None:
        noise_variance = _noise_variance(values, alpha, threshold)
    # Singular values at the level of rounding errors of the largest do not count.
    rounding = max(matrix.shape) * float(np.finfo(np.float64).eps)
    return int(np.sum((values > threshold * noise_variance) & (values > rounding**2 * values[0])))


def _smallest_tau(alpha: float) -> float:
    """The root of `Phi(tau) + Phi(tau / alpha)`, with `Phi(z) = log(1 + z) / z - 1/2`."""

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    return float(brentq(lambda tau: phi(tau) + phi(tau / alpha), 1e-9, 10.0, xtol=1e-12))


def _noise_variance(values: Matrix, alpha: float, threshold: float) -> float:
    """The noise variance with the least free energy; `values` are descending `gamma^2 / M`."""
    n_rows = len(values)
    most = min(math.ceil(n_rows / (1 + alpha)) - 1, n_rows)  # no higher rank can be optimal
    upper = values.mean()
    lower = max(values[most] / threshold, values[most:].mean()) if most < n_rows else 0.0
    lower = min(max(lower, 1e-14 * upper), upper)

    def free_energy(log_variance: float) -> float:
        x = values / math.exp(log_variance)
        energy = float(np.sum(x - np.log(x + 1e-300)))
        kept = x[x > threshold]
        b = kept - (1 + alpha)
        tau = (b + np.sqrt(b**2 - 4 * alpha)) / 2
        return energy + float(np.sum(np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau))

    # The free energy has a local minimum per rank, so the bounded search starts around the lowest
    # point of a grid.
    grid: list[float] = np.linspace(math.log(lower), math.log(upper), 256).tolist()
    best = min(range(len(grid)), key=lambda i: free_energy(grid[i]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    if bounds[0] == bounds[1]:
        return float(upper)
    found = minimize_scalar(free_energy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x if found.fun < free_energy(grid[best]) else grid[best])


# -- a rule based on single-layer scores


def greedy(
    table: SensitivityTable, layers: Sequence[LayerProfile], cost: LayerCost, target: float
) -> RankPlan:
    """The plan with a total cost of at most `target` and the lowest common limit on damage.

    Every layer takes its cheapest row whose rise, made monotone in cost, is within a threshold that
    all layers share. The threshold is found by bisection: in the end all layers do about the same
    damage, whatever they save. This is the greedy compression-ratio selection of AIMET.

    Raises:
        BudgetError: not even the cheapest rows reach the target.
    """
    curves = [_options(layer, table, cost) for layer in layers]

    def within(threshold: float) -> list[Option]:
        """The cheapest option of each layer within the threshold; ties go to the least damage."""
        return [
            min((o for o in curve if o.damage <= threshold), key=lambda o: (o.cost, o.damage))
            for curve in curves
        ]

    def saved(threshold: float) -> float:
        return -sum(option.cost for option in within(threshold))

    thresholds = sorted({option.damage for curve in curves for option in curve})
    found = bisect_left(thresholds, -target, key=saved)  # a larger threshold never costs more
    if found == len(thresholds):
        least = sum(min(option.cost for option in curve) for curve in curves)
        raise BudgetError(
            f"a cost of {target:g} cannot be reached; the cheapest rows together cost {least:g}"
        )
    chosen = within(thresholds[found])
    return RankPlan(
        {
            layer.name: option.choice
            for layer, option in zip(layers, chosen, strict=True)
            if option.choice is not None
        }
    )


def _options(layer: LayerProfile, table: SensitivityTable, cost: LayerCost) -> list[Option]:
    """The dense option and one per row of the layer, with rises made monotone and not negative."""
    rows = sorted(table.of_layer(layer.name), key=lambda row: -cost(layer, row.choice))
    damages = monotone([row.score.rise for row in rows])
    return [
        Option(None, cost(layer, None), 0.0),
        *(
            Option(row.choice, cost(layer, row.choice), max(damage, 0.0))
            for row, damage in zip(rows, damages, strict=True)
        ),
    ]


# -- shared


def _fitting(layer: LayerProfile, method: str) -> str | None:
    """`method` if it fits, else the first method that does; None for a grouped layer."""
    if layer.groups > 1:  # the published rules assume one matrix per layer
        return None
    methods = layer.methods()
    return method if method in methods else next(iter(methods), None)


def _only_smaller(layers: Sequence[LayerProfile], choices: dict[str, Factorization]) -> RankPlan:
    sizes = {layer.name: layer for layer in layers}
    return RankPlan(
        {
            name: choice
            for name, choice in choices.items()
            if sizes[name].params(choice) < sizes[name].params()
        }
    )


def _unfoldings(layer: LayerProfile, weight: Tensor, method: str) -> list[Matrix]:
    """The matrices whose ranks are the ranks of `method`, in float64."""
    array = weight.detach().cpu().double().numpy()
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{layer.name}: the weight holds NaN or infinite values")
    if layer.transposed:
        array = array.swapaxes(0, 1)
    unfoldings = METHODS[method].unfoldings
    if unfoldings is None:
        raise PlanError(f"{layer.name}: no unfolding of a kernel has the rank of {method}")
    kernel = torch.from_numpy(array.reshape(layer.shape))
    return [matrix.numpy() for matrix in unfoldings(kernel)]
