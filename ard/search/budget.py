"""Budgets as users write them: `0.5` is an absolute rise, `5%` is relative to the dense score."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ard.errors import BudgetError

# Where only images of the dense generator itself are there to compare with, its distance to them is
# close to 0 and no scale. The spread of its features is one: a generator that always draws the
# average is that far away. This share of it is a budget to begin with.
SPREAD_SHARE = 0.02


@dataclass(frozen=True)
class Budget:
    """An allowed rise in a score, absolute or relative to the dense generator's score.

    >>> Budget.parse("5%").absolute(dense=40.0)
    2.0
    >>> Budget.parse("0.5").absolute(dense=40.0)
    0.5
    """

    value: float
    relative: bool
    text: str

    @staticmethod
    def parse(text: str, setting: str | None = None) -> Budget:
        """Parse a budget.

        Args:
            text: a number, with or without a percent sign.
            setting: the name of the setting that it came from, for the error message.

        Raises:
            BudgetError: it is negative, not finite, or not a number.
        """
        stripped = text.strip()
        relative = stripped.endswith("%")
        try:
            value = float(stripped.removesuffix("%"))
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise BudgetError(
                f"{text!r} is not a budget; give a rise such as 0.5, or a percentage of the dense "
                "generator's score such as 5%",
                setting=setting,
            )
        return Budget(value / 100 if relative else value, relative, stripped)

    def absolute(self, dense: float) -> float:
        """The allowed rise for a dense generator that scores `dense`.

        Raises:
            BudgetError: the budget is relative to a score that is not above 0.
        """
        if not self.relative:
            return self.value
        if not dense > 0:
            raise BudgetError(
                f"a budget of {self.text} needs a dense score above 0; the dense generator scores "
                f"{dense:.4g}, so give an absolute budget"
            )
        return self.value * dense

    def explain(self, dense: float, what: str) -> str:
        """The budget in absolute and relative terms; `what` names the metric and its features."""
        absolute = self.absolute(dense)
        share = f"{100 * absolute / dense:.3g} % of the dense generator's " if dense > 0 else ""
        return f"budget {self.text}: a rise of {absolute:.4g} over {dense:.4g}, {share}{what}"


def budget_of_spread(spread: float) -> str:
    """An absolute budget to begin with, from the total variance of the features of the images."""
    return f"{SPREAD_SHARE * spread:.2g}"
