"""Targets as users write them: `params=0.25`, `macs=0.5`, `latency=0.4`, `latency=5ms`, `fps=60@1`.

A number alone is a share of the dense network's cost. Times and frame rates are absolute, and those
of a whole network.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ard.errors import BudgetError

KEYS = ("params", "macs", "latency", "fps")
EXAMPLES = "params=0.25, macs=0.5, latency=0.4, latency=5ms or fps=60@1"
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_TIME = re.compile(r"(?P<number>.*?)(?P<unit>us|ms|s)", re.DOTALL)


@dataclass(frozen=True)
class Target:
    """A cost of the whole network that a plan has to reach.

    Attributes:
        quantity: the objective whose cost it is: params, macs or latency.
        value: the largest share of the dense cost, or milliseconds per batch.
        relative: whether it is a share.
        batch: the batch size that the target itself names; None if it names none.
        text: as the user wrote it.
    """

    quantity: str
    value: float
    relative: bool
    batch: int | None
    text: str

    @staticmethod
    def parse(text: str, setting: str | None = None) -> Target:
        """Parse a target.

        >>> Target.parse("latency=5ms").value, Target.parse("fps=50@4").limit(dense=1000.0)
        (5.0, 80.0)

        Args:
            text: KEY=VALUE, as in the examples above. `fps=60` means batches of 1.
            setting: the name of the setting that it came from, for the error message.

        Raises:
            BudgetError: the key is unknown, or the value is not one of that key.
        """
        stripped = text.strip()
        key, equals, value = (part.strip() for part in stripped.partition("="))
        try:
            if not equals or key not in KEYS:
                raise ValueError(f"a target is one of {', '.join(KEYS)}, such as {EXAMPLES}")
            return _READERS[key](key, value, stripped)
        except ValueError as error:
            raise BudgetError(f"{text!r} is not a target: {error}", setting=setting) from error

    def limit(self, dense: float) -> float:
        """The largest cost that reaches the target, for a dense network that costs `dense`."""
        return self.value * dense if self.relative else self.value


def _share(key: str, value: str, text: str) -> Target:
    number = _number(value)
    if not 0 < number < 1:
        raise ValueError(f"{key} is a share of the dense network's, above 0 and below 1")
    return Target(key, number, True, None, text)


def _latency(key: str, value: str, text: str) -> Target:
    if found := _TIME.fullmatch(value):
        number = _number(found["number"])
        if not number > 0:
            raise ValueError("a time must be above 0")
        return Target(key, number * _MILLISECONDS[found["unit"]], False, None, text)
    number = _number(value)
    if number >= 1:
        raise ValueError(
            f"a time needs a unit, as in {key}={value}ms; without one it is a share of the dense "
            "network's, below 1"
        )
    return _share(key, value, text)


def _rate(key: str, value: str, text: str) -> Target:
    number, at, batch = value.partition("@")
    rate, size = _number(number), 1
    if not rate > 0:
        raise ValueError("a frame rate must be above 0")
    if at:
        if not (batch.strip().isascii() and batch.strip().isdigit() and int(batch) >= 1):
            raise ValueError(f"behind @ comes the batch size, as in fps=60@1; got {batch!r}")
        size = int(batch)
    return Target("latency", 1000 * size / rate, False, size, text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text.strip()!r} is not a number")
    return number


_READERS = {"params": _share, "macs": _share, "latency": _latency, "fps": _rate}
