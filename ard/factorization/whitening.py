"""Weighting errors by the inputs of a layer and by the effect of its outputs on the image.

With the second moment `C = E[x x^T]` of the inputs, the expected squared error of the outputs of a
matrix is `||(W - W') C^(1/2)||_F^2`. With the second moment `G = E[g g^T]` of the gradients of the
image with respect to the outputs as well, `||G^(1/2) (W - W') C^(1/2)||_F^2` estimates the squared
error of the image. So a method factorizes the whitened kernel `G^(1/2) W C^(1/2)`, and the inverse
roots are multiplied into the factors with the inputs and the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensorly.tenalg import mode_dot
from torch import Tensor

from ard.factorization.backend import torch_backend

# Added to the covariance, as a fraction of its mean eigenvalue, so that a channel that is always
# zero in the sample gets a small weight instead of none.
RIDGE = 1e-6


def covariance_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance `(n, n)` plus a ridge, in float64."""
    covariance = covariance.detach().double()
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    values = values.clamp(min=0)
    # An all-zero covariance carries no information, so all directions get the same weight.
    ridge = RIDGE * float(values.mean()) or 1.0
    return (vectors * (values + ridge).sqrt()) @ vectors.T


def covariance_factor(covariance: Tensor) -> Tensor:
    """A square matrix `L` such that `L L^T` is the covariance `(n, n)` plus a ridge, in float64.

    `W L` has the same singular values and left singular vectors as `W C^(1/2)`, and a Cholesky
    factor is ten times as fast as a root. If the covariance is not positive definite despite the
    ridge, the result is its root.
    """
    covariance = covariance.detach().double()
    ridge = RIDGE * float(covariance.diagonal().mean()) or 1.0
    factor, failed = torch.linalg.cholesky_ex(
        covariance + ridge * torch.eye(len(covariance)).to(covariance)
    )
    return covariance_root(covariance) if int(failed) else factor


@dataclass(frozen=True, eq=False)
class Whitening:
    """The roots of a kernel's covariances; None on a side whose covariance is unknown.

    Attributes:
        inputs: `C^(1/2) (c_in, c_in)`.
        outputs: `G^(1/2) (c_out, c_out)`.
    """

    inputs: Tensor | None = None
    outputs: Tensor | None = None

    @staticmethod
    def of(
        weight: Tensor, input_covariance: Tensor | None, output_covariance: Tensor | None
    ) -> Whitening:
        """Roots in the type and on the device of `weight`."""
        inputs, outputs = (
            None if covariance is None else covariance_root(covariance).to(weight)
            for covariance in (input_covariance, output_covariance)
        )
        return Whitening(inputs, outputs)

    @torch_backend()
    def whiten(self, kernel: Tensor) -> Tensor:
        """`G^(1/2) W C^(1/2)` for a kernel `(c_out, c_in, ...)`."""
        for mode, root in enumerate((self.outputs, self.inputs)):
            if root is not None:
                kernel = mode_dot(kernel, root, mode)
        return kernel

    def unwhiten_inputs(self, factor: Tensor) -> Tensor:
        """`C^(-1/2) A` for the factor `A (c_in, ...)` with the inputs."""
        return _solve(self.inputs, factor)

    def unwhiten_outputs(self, factor: Tensor) -> Tensor:
        """`G^(-1/2) A` for the factor `A (c_out, ...)` with the outputs."""
        return _solve(self.outputs, factor)


def _solve(root: Tensor | None, factor: Tensor) -> Tensor:
    if root is None:
        return factor
    return torch.linalg.solve(root, factor.flatten(1)).view(factor.shape)
