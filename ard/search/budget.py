"""The budget as the user writes it: `0.5` is a rise in FID, `5%` one relative to the dense net."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ard.errors import BudgetError


@dataclass(frozen=True)
class FidBudget:
    """An allowed rise in FID.

    >>> FidBudget.parse("5%").absolute(fid_dense=40.0)
    2.0
    >>> FidBudget.parse("0.5").absolute(fid_dense=40.0)
    0.5
    """

    value: float
    relative: bool
    text: str

    @staticmethod
    def parse(text: str) -> FidBudget:
        """Read a budget.

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
                f"--fid-budget {text!r} is not a budget; give a rise in FID such as 0.5, or a "
                "share of the dense generator's such as 5%"
            )
        return FidBudget(value / 100 if relative else value, relative, stripped)

    def absolute(self, fid_dense: float) -> float:
        """The allowed rise for a dense generator that scores `fid_dense`."""
        return self.value * fid_dense if self.relative else self.value

    def explain(self, fid_dense: float, feature_space: str) -> str:
        """Both readings of the budget in one line, for the screen."""
        absolute = self.absolute(fid_dense)
        share = absolute / fid_dense if fid_dense > 0 else math.inf
        return (
            f"budget {self.text}: a rise of {absolute:.4g} over {fid_dense:.4g}, "
            f"{100 * share:.3g} % of the dense generator's, in {feature_space} features"
        )
