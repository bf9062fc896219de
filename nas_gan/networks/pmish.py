"""Parametric Mish: as its formula, to be traced, and in few passes over memory, to be run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Up to this beta, tanh has reached 1 in float32 where the sigmoid underflows.
QUICK_BETA = 8.0
# Below the logarithm of the smallest float32 above 0; keeps products with it finite.
LOG_MIN = -104.0


def pmish(x: Tensor, beta: Tensor) -> Tensor:
    """`x * tanh(softplus(beta * x) / beta)`, elementwise; `beta = 1` is Mish.

    Written with `logsigmoid` (`softplus(a) = -logsigmoid(-a)`), which never overflows and exports
    to an operator that is several times faster in ONNX Runtime.
    """
    if _can_be_quick(x, beta):
        if torch.is_grad_enabled() and (x.requires_grad or beta.requires_grad):
            y, *_ = _PMish.apply(x, beta)
            return y
        return _tanh_(_complement(x, beta).log_(), beta).mul_(x)
    # Signs and the division act on the scalar, which saves three passes over x.
    return x * torch.tanh(F.logsigmoid(x * -beta) * (-1 / beta))


def _can_be_quick(x: Tensor, beta: Tensor) -> bool:
    # In a graph that is being made the operators count, and not their speed here.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    # Subclasses, such as fake tensors, and proxies for tensors hold no values.
    if type(x) is not Tensor or not x.is_cpu or x.dtype != torch.float32:
        return False
    return bool((beta.detach().abs() <= QUICK_BETA).all())


def _complement(x: Tensor, beta: Tensor) -> Tensor:
    """`1 - sigmoid(beta * x)`, whose logarithm is `-softplus(beta * x)`.

    It rounds to 1 where softplus is below 6e-8, and underflows where `pmish` is x. torch's
    `logsigmoid` would be exact there, but is slower on a CPU.
    """
    return (x * -beta).sigmoid_()


def _tanh_(log: Tensor, beta: Tensor) -> Tensor:
    """`tanh(-log / beta)` in place, as `2 sigmoid(2 a) - 1`, which is faster on a CPU.

    A logarithm of 0, minus infinity, gives the right limit.
    """
    return log.mul_(-2 / beta).sigmoid_().mul_(2).sub_(1)


class _PMish(torch.autograd.Function):
    """`pmish` with a gradient in closed form.

    What the gradient needs is returned too, so that transforms of torch.func see all of it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        complement = _complement(x, beta)
        log = complement.log()
        finite = log.clamp(min=LOG_MIN)
        t = _tanh_(log, beta)
        return x * t, complement, finite, t

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, by_y: Tensor, *_: None) -> tuple[Tensor, Tensor | None]:
        x, beta, complement, log, t = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again, so from the inputs alone
            complement, log = torch.sigmoid(x * -beta), F.logsigmoid(x * -beta)
            t = torch.tanh(log * (-1 / beta))
        inner = by_y * x * (1 - t * t)  # by softplus / beta
        by_x = inner - inner * complement
        by_beta = None
        if ctx.needs_input_grad[1]:
            shape = beta.shape
            by_beta = (by_x * x).sum_to_size(shape)
            by_beta = (by_beta + (inner * log).sum_to_size(shape) / beta) / beta
        return (by_x + by_y * t).sum_to_size(x.shape), by_beta
