"""The progressive upper bound of the repulsive loss (IEEE Access 2024, training strategy)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from nas_gan.errors import InvalidValueError

Procedure = Literal["fixed", "saturate", "saturate_linear", "geometric"]


@dataclass
class UpperBoundSchedule:
    """Raises the bound from `start` towards `end` during training.

    `saturate` multiplies it by `increase` (`saturate_linear` adds `increase`) each time
    `patience` validations in a row have not improved the best FID; `geometric` follows the
    progress of the run and needs no validation; `fixed` never moves.
    """

    procedure: Procedure = "saturate"
    start: float = 4.0
    end: float = 64.0
    increase: float = 2.0
    patience: int = 6
    value: float = field(init=False)
    best_fid: float = field(init=False, default=math.inf)
    counter: int = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.start <= self.end:
            raise InvalidValueError(
                f"upper bound must rise from above 0; got {self.start} to {self.end}"
            )
        smallest = 1 if self.procedure == "saturate" else 0
        if self.procedure.startswith("saturate") and not self.increase > smallest:
            raise InvalidValueError(
                f"{self.procedure} raises the bound by an increase above {smallest}; "
                f"got {self.increase}"
            )
        self.value = self.start
        self.counter = self.patience

    def validated(self, fid: float) -> None:
        """Follow the FID of one validation."""
        if fid < self.best_fid:
            self.best_fid, self.counter = fid, self.patience
            return
        self.counter -= 1
        if self.counter > 0 or self.procedure not in ("saturate", "saturate_linear"):
            return
        multiplied = self.procedure == "saturate"
        raised = self.value * self.increase if multiplied else self.value + self.increase
        self.value, self.counter = min(raised, self.end), self.patience

    def progressed(self, fraction: float) -> None:
        """Follow the finished fraction of the run, 0 to 1."""
        if self.procedure == "geometric":
            self.value = self.start * (self.end / self.start) ** min(fraction, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """What changes during training, as plain values."""
        return {"value": self.value, "best_fid": self.best_fid, "counter": self.counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.value, self.best_fid = state["value"], state["best_fid"]
        self.counter = state["counter"]
