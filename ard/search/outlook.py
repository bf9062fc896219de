"""What recovered plans lead one to expect of others: their upper ends against allowed damages.

In units of the budget, the upper end of the interval of a recovered plan is modelled as

    v(a) = c + k a^p + noise,    noise ~ N(0, s² (k a^p + FLOOR)²)

`a` is the sum of the plan's single-layer damages, `k` says what recovery leaves of it, `p` how much
worse layers do together, and `c` shifts everything: the width of the interval, or what training
gains even where nothing was lost. `k` and `p` lie on a grid. Given both, `c` and `s` have their
conjugate prior, so every weight and every probability is exact, and nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

# The grid, with log-normal priors: k about 0.5 within a factor of e, p about 1.1 within 1.4.
FACTORS = np.geomspace(0.005, 50, 49)
EXPONENTS = np.geomspace(0.35, 3.5, 13)
FACTOR, FACTOR_SPREAD = 0.5, 1.0
EXPONENT, EXPONENT_SPREAD = 1.1, 0.35
# Noise relative to k a^p + FLOOR, known as if from this many earlier plans.
NOISE, FLOOR, EARLIER = 0.12, 0.2, 4.0
# Standard deviation of the shift c relative to s.
SHIFT = 2.0


@dataclass(frozen=True)
class Outlook:
    """Chances of plans to be within the budget.

    Attributes:
        weights: `(n,)` probabilities of the curves that may be true.
        within: `(n, m)` the chance of each of `m` plans under each curve. Under one curve they are
            independent.
    """

    weights: np.ndarray
    within: np.ndarray

    def expected(self, gains: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
        """The expected largest gain within the budget of some plans and one more.

        Args:
            gains: `(m,)` what each plan gains if it is within the budget, not negative.
            chosen: the plans that are tried anyway.

        Returns:
            `(m,)`: with each of the plans in addition.
        """
        return np.array([self.largest(gains, [*chosen, i]) for i in range(len(gains))])

    def largest(self, gains: np.ndarray, tried: Sequence[int]) -> float:
        """The expected largest gain within the budget of the plans that are tried."""
        total, none_yet = 0.0, self.weights
        for i in sorted(set(tried), key=lambda i: -gains[i]):
            total += gains[i] * float((none_yet * self.within[:, i]).sum())
            none_yet = none_yet * (1 - self.within[:, i])
        return total

    def of(self, plan: int) -> float:
        """The chance of one plan to be within the budget."""
        return float(self.weights @ self.within[:, plan])


def outlook(
    known: Sequence[tuple[float, float]], damages: Sequence[float], budget: float, scale: float
) -> Outlook:
    """What the outcomes of some plans say of others.

    Args:
        known: the summed damage and the upper end of the interval of each finished plan.
        damages: `(m,)` summed damages of the plans in question.
        budget: the allowed upper end.
        scale: what damages and upper ends are measured in, above 0: the budget, if it is.
    """
    k, p = (grid.reshape(-1, 1) for grid in np.meshgrid(FACTORS, EXPONENTS))
    log_weights = -0.5 * (np.log(k / FACTOR) / FACTOR_SPREAD) ** 2
    log_weights -= 0.5 * (np.log(p / EXPONENT) / EXPONENT_SPREAD) ** 2
    a, v = (np.array([pair[i] for pair in known]).reshape(1, -1) / scale for i in (0, 1))
    curve = k * a**p  # (n, trials)
    spread = curve + FLOOR
    n_known = len(known)
    # Weighted residuals; their covariance is s² (I + SHIFT² g gᵀ) with g = 1 / spread.
    g, residual = 1 / spread, (v - curve) / spread
    precision = 1 / SHIFT**2 + (g**2).sum(1, keepdims=True)  # of c, in units of 1 / s²
    shift = (g * residual).sum(1, keepdims=True) / precision
    squares = (residual**2).sum(1, keepdims=True) - precision * shift**2
    freedom = EARLIER + n_known
    variance = (EARLIER * NOISE**2 + np.maximum(squares, 0)) / freedom
    log_weights -= np.log(spread).sum(1, keepdims=True) + 0.5 * np.log(precision * SHIFT**2)
    log_weights -= 0.5 * freedom * np.log(variance)
    weights = np.exp(log_weights - log_weights.max()).ravel()
    at = k * (np.asarray(damages, float).reshape(1, -1) / scale) ** p  # (n, m)
    deviation = np.sqrt(variance * ((at + FLOOR) ** 2 + 1 / precision))
    within = stdtr(freedom, (budget / scale - at - shift) / deviation)
    return Outlook(weights / weights.sum(), within)
