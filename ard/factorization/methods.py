"""The factorization methods by name: one file for each, and one line here.

Methods from outside this package join them by `register`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ard.errors import RankError
from ard.factorization.cp import CP
from ard.factorization.method import Method
from ard.factorization.spatial_svd import SPATIAL_SVD
from ard.factorization.svd import SVD
from ard.factorization.tensor_train import TENSOR_TRAIN
from ard.factorization.tucker import TUCKER2

# What competes on every layer unless a caller asks for other methods. Tensor train does not: of the
# choices that are left on the shipped generator it has 2 of 116 (`competition` in
# benchmarks/factorization.py), and tables of latencies that were measured without it would not do.
_COMPETING = (TUCKER2, SPATIAL_SVD, SVD, CP)
COMPETITORS = tuple(method.name for method in _COMPETING)
# The order is that of tables, legends and help texts.
METHODS: dict[str, Method] = {method.name: method for method in (*_COMPETING, TENSOR_TRAIN)}

if TYPE_CHECKING:
    MethodName = str
else:
    # Settings of commands take names of this type, whose values are the choices of an option.
    MethodName = Literal[tuple(METHODS)]


def register(method: Method) -> None:
    """Make a method known by its name, to plans, tables, pictures and `compress_generator`.

    With an executor that computes in other processes, register it in each of them.

    Raises:
        RankError: another method has that name, or a plan could not hold the name.
    """
    if not (method.name.isascii() and method.name.isidentifier()):
        raise RankError(f"the name of a method is one word; got {method.name!r}")
    if METHODS.setdefault(method.name, method) is not method:
        raise RankError(f"there is a method {method.name!r} already; choose another name")
