"""When a run has collapsed, and should stop before it overwrites what was good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from nas_gan.settings import check_above, check_at_least

KERNELS = ("kernel/real", "kernel/fake")


@dataclass
class CollapseAlarm:
    """Follows the FID and the mean kernels of a run.

    Attributes:
        fid_factor: an FID so many times the best one is a sign of collapse; None looks at none.
        kernel_margin: a mean kernel within this of 0 or 1 is one; None looks at none.
        patience: signs in a row of one kind that raise the alarm.
        best_fid: the smallest FID so far.

    Raises:
        InvalidValueError: a value is out of range.
    """

    fid_factor: float | None = None
    kernel_margin: float | None = None
    patience: int = 3
    best_fid: float = math.inf
    _in_a_row: dict[str, int] = field(default_factory=dict, init=False)
    _said: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_above("alarm_fid_factor", self.fid_factor, 1)
        check_above("alarm_kernel_margin", self.kernel_margin, 0)
        if self.kernel_margin is not None:
            check_above("alarm_kernel_margin", 0.5 - self.kernel_margin, 0)
        check_at_least("alarm_patience", self.patience, 1)

    def observe(self, step: int, scalars: Mapping[str, float]) -> None:
        """Follow the scalars after `step` steps; those that nothing is told of stay as they are."""
        fid = scalars.get("fid")
        if self.fid_factor is not None and fid is not None:
            self._count(
                "fid",
                fid > self.fid_factor * self.best_fid,
                f"step {step}: FID {fid:.4g}, over {self.fid_factor:g} times the best, "
                f"{self.best_fid:.4g}",
            )
            self.best_fid = min(self.best_fid, fid)
        if self.kernel_margin is None:
            return
        for name in KERNELS:
            if name in scalars:
                near = min(scalars[name], 1 - scalars[name]) <= self.kernel_margin
                said = f"step {step}: mean {name} {scalars[name]:.4g}, which is near 0 or 1"
                self._count(name, near, said)

    def _count(self, kind: str, sign: bool, said: str) -> None:
        self._in_a_row[kind] = self._in_a_row.get(kind, 0) + 1 if sign else 0
        self._said[kind] = said

    @property
    def suspicious(self) -> bool:
        """Whether the last look showed a sign, so that what is saved should not be overwritten."""
        return any(self._in_a_row.values())

    @property
    def reason(self) -> str | None:
        """Why the run should stop, or None."""
        for kind, n in self._in_a_row.items():
            if n >= self.patience:
                return f"{self._said[kind]} ({n} times in a row)"
        return None
