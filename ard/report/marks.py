"""How each method and each form looks in figures."""

from __future__ import annotations

from ard.factorization.method import Mark
from ard.factorization.methods import METHODS

# The gates that take the place of activations, in one colour: their damages are compared less often
# with one another than with those of the layers.
_GATES = {
    "gate": Mark("#56606b", "P", "cross"),
    "hard_gate": Mark("#56606b", "X", "x"),
    "swish_gate": Mark("#56606b", "*", "star"),
}


def marks() -> dict[str, Mark]:
    """The mark of every method that is registered now, then of every form, by name."""
    return {**{name: method.mark for name, method in METHODS.items()}, **_GATES}
