"""What recovered plans lead one to expect of others: their upper ends against allowed damages.

In units of the budget, the upper end of the interval of a plan after `m` rounds of recovery is
modelled as

    v(a, m) = c + k m^-q a^p + noise,    noise ~ N(0, s² (k m^-q a^p + FLOOR)²)

`a` is the sum of the plan's single-layer damages, `k` says what one round of recovery leaves of it,
`p` how much worse layers do together, `q` what further rounds gain, and `c` shifts everything: the
width of the interval, or what training gains even where nothing was lost. `k`, `p` and `q` lie on a
grid. Given all three, `c` and `s` have their conjugate prior, so every weight and every probability
is exact, and nothing is drawn.

Most of the noise is the plan's own and stays with it. So a plan that was measured after `m` rounds
is expected to continue from there:

    v(a, m') = c + (v(a, m) - c) (m' / m)^-q + noise,    noise ~ N(0, AGAIN² (v(a, m) - c + FLOOR)²)

with `c` at its mean; what the rounds of one plan gained says in the same way which `q` is likely.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtr

# The grid, with log-normal priors: k about 0.5 within a factor of e, p about 1.1 within 1.4; and a
# normal one: q about 0.4 within 0.2.
FACTORS = np.geomspace(0.005, 50, 49)
EXPONENTS = np.geomspace(0.35, 3.5, 13)
PACES = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.8])
FACTOR, FACTOR_SPREAD = 0.5, 1.0
EXPONENT, EXPONENT_SPREAD = 1.1, 0.35
PACE, PACE_SPREAD = 0.4, 0.2
# Noise relative to k m^-q a^p + FLOOR, known as if from this many earlier plans; and that of a
# further round of the same plan.
NOISE, FLOOR, EARLIER = 0.12, 0.2, 4.0
AGAIN = 0.08
# Curves less likely than the likeliest by this factor are left out.
NEGLIGIBLE = 1e-4
# Standard deviation of the shift c relative to s.
SHIFT = 2.0


@dataclass(frozen=True)
class Known:
    """What is known of a plan.

    Attributes:
        damage: the sum of its single-layer damages.
        uppers: the upper end of its interval after each of its rounds of recovery; none before the
            first.
        behind: the rounds that made the weights with which its first one began.
    """

    damage: float
    uppers: tuple[float, ...] = ()
    behind: int = 0

    @property
    def rounds(self) -> int:
        """All rounds that made its weights."""
        return self.behind + len(self.uppers)


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
    known: Sequence[Known],
    plans: Sequence[Known],
    rounds: Sequence[int],
    budget: float,
    scale: float,
) -> Outlook:
    """What the outcomes of some plans say of others, and of further rounds of their own.

    Args:
        known: the plans that were measured.
        plans: the `m` plans in question.
        rounds: `(m,)` after how many rounds of recovery in all, more than are known; 0 for a plan
            that gets no more, which has no chance.
        budget: the allowed upper end.
        scale: what damages and upper ends are measured in, above 0: the budget, if it is.
    """
    grid = np.meshgrid(FACTORS, EXPONENTS, PACES)
    k, p, q = (values.reshape(-1, 1) for values in grid)
    log_weights = -0.5 * (np.log(k / FACTOR) / FACTOR_SPREAD) ** 2
    log_weights -= 0.5 * (np.log(p / EXPONENT) / EXPONENT_SPREAD) ** 2
    log_weights -= 0.5 * ((q - PACE) / PACE_SPREAD) ** 2
    a = np.array([plan.damage for plan in known]).reshape(1, -1) / scale
    v = np.array([plan.uppers[-1] for plan in known]).reshape(1, -1) / scale
    m = np.array([float(plan.rounds) for plan in known]).reshape(1, -1)
    curve = k * m**-q * a**p  # (n, plans)
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
    for plan in known:
        pairs = itertools.pairwise(plan.uppers)
        for done, (upper, later) in enumerate(pairs, start=plan.behind + 1):
            mean, deviation = continued(upper / scale, shift, (done + 1) / done, q)
            log_weights -= 0.5 * ((later / scale - mean) / deviation) ** 2 + np.log(deviation)
    weights = np.exp(log_weights - log_weights.max()).ravel()
    likely = weights > NEGLIGIBLE
    weights = weights[likely]
    k, p, q, shift, variance, precision = (
        values[likely] for values in (k, p, q, shift, variance, precision)
    )
    within = np.empty((len(k), len(plans)))
    for i, (plan, after) in enumerate(zip(plans, rounds, strict=True)):
        if not after:  # it gets no more
            within[:, i] = 0.0
            continue
        if plan.uppers:
            last, ratio = plan.uppers[-1] / scale, after / plan.rounds
            mean, deviation = continued(last, shift, ratio, q)
            chance = ndtr((budget / scale - mean) / deviation)
        else:
            at = k * float(after) ** -q * (plan.damage / scale) ** p
            deviation = np.sqrt(variance * ((at + FLOOR) ** 2 + 1 / precision))
            chance = stdtr(freedom, (budget / scale - at - shift) / deviation)
        within[:, i] = chance.ravel()
    return Outlook(weights / weights.sum(), within)


def continued(
    upper: float, shift: np.ndarray, ratio: float, pace: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation of an upper end after `ratio` times as many rounds, `(n, 1)`."""
    above = np.maximum(upper - shift, 0)
    mean = np.minimum(shift, upper) + above * ratio**-pace
    return mean, AGAIN * (above + FLOOR)
