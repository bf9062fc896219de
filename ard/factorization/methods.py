"""The registry of factorization methods: one file per method, and one line here.

Methods from outside this package are added by `register`.
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

# The methods that compete on every layer by default. Tensor train is not among them: on the shipped
# generator it wins only 2 of 116 choices (`competition` in benchmarks/factorization.py), and
# existing latency tables lack it.
_COMPETING = (TUCKER2, SPATIAL_SVD, SVD, CP)
COMPETITORS = tuple(method.name for method in _COMPETING)
# In the order of tables, legends and help texts.
METHODS: dict[str, Method] = {method.name: method for method in (*_COMPETING, TENSOR_TRAIN)}

if TYPE_CHECKING:
    MethodName = str
else:
    # A type of its own, so that command lines offer the names as choices.
    MethodName = Literal[tuple(METHODS)]


def register(method: Method) -> None:
    """Register a method, for plans, tables, figures and `compress_generator`.

    With an executor that runs other processes, register the method in each of them.

    Raises:
        RankError: another method has that name, or the name cannot be used in a plan.
    """
    if not (method.name.isascii() and method.name.isidentifier()):
        raise RankError(f"the name of a method must be one word; got {method.name!r}")
    if METHODS.setdefault(method.name, method) is not method:
        raise RankError(f"there is a method {method.name!r} already; choose another name")
