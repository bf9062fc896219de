"""The gradient of architecture parameters, amended for how the weights will respond.

Architecture parameters `a` shall lower the search loss `S(a, w)` at weights `w*(a)` that minimise
the training loss `T(a, w)`. The implicit function theorem gives the exact slope

    dS/da  -  T_aw  T_ww^-1  S_w        (T_aw, T_ww: second derivatives of T; S_w: slope of S)

whose inverse Hessian is out of reach. Amended Gradient Estimation (Bi, Hu, Xie, Chen, Wei, Tian;
arXiv 1910.11831) puts a multiple of the Hessian itself in its place:

    dS/da  -  coefficient * T_aw  T_ww  S_w

At a minimum of T the Hessian has no negative eigenvalue, so both agree in sign along every
eigendirection, and the coefficient sets the eigenvalue `coefficient ** -0.5` at which they
are equal. Its unit is therefore one over the square of a curvature: start small.

Both products are exact (backward through the backward pass, which never builds a Hessian), where
the published code takes differences of gradients at weights moved by 0.01: those also move the
architecture parameters, the power iterations and the batch statistics, and need four more passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nas_gan.errors import InvalidValueError


def check_coefficient(value: float) -> float:
    """The amending coefficient, if it can be one.

    Raises:
        InvalidValueError: it is negative or not finite.
    """
    if not 0 <= value < math.inf:
        raise InvalidValueError(
            f"the amending coefficient must be 0 (off) or above, and finite; got {value}"
        )
    return value


def amended_gradient(
    search_loss: Tensor,
    train_loss: Tensor,
    alphas: Sequence[Tensor],
    weights: Sequence[Tensor],
    coefficient: float,
    *,
    mean: Callable[[Sequence[Tensor]], list[Tensor]] = list,
) -> list[Tensor]:
    """The amended slope of `search_loss` with respect to each of `alphas`, in their shapes.

    `train_loss` must hold the graph of both `alphas` and `weights`; what it does not depend on
    counts as zero. `mean` averages gradients over processes and can be differentiated
    (`nas_gan.training.distributed.mean_over_processes`).
    """
    n = len(alphas)
    first = mean(_gradients(search_loss, [*alphas, *weights]))
    slopes, v = first[:n], first[n:]  # S_a, S_w
    train_slopes = mean(_gradients(train_loss, weights, create_graph=True))  # T_w
    h = mean(_gradients(_inner(train_slopes, v), weights, retain_graph=True))  # T_ww S_w
    correction = mean(_gradients(_inner(train_slopes, h), alphas))  # T_aw T_ww S_w
    return [s - coefficient * c for s, c in zip(slopes, correction, strict=True)]


def _gradients(
    value: Tensor,
    inputs: Sequence[Tensor],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> list[Tensor]:
    return list(
        torch.autograd.grad(
            value,
            inputs,
            create_graph=create_graph,
            retain_graph=retain_graph,
            materialize_grads=True,
        )
    )


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
