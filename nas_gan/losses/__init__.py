"""Adversarial losses as functions of discriminator scores, with their penalties and clipping."""

from nas_gan.losses.base import AdversarialLoss
from nas_gan.losses.kernels import (
    LOWER_BOUND,
    UPPER_BOUND,
    CramerKernel,
    GaussianKernel,
    Kernel,
    StudentKernel,
    gaussian,
    kernel_means,
    mmd2,
    off_diagonal_mean,
    paired,
    squared_distances,
)
from nas_gan.losses.mmd import KernelMMD, RandomScaleMMD
from nas_gan.losses.parts import (
    GradientPenalty,
    GradientScaling,
    ImageNoise,
    Parts,
    WeightClipping,
)
from nas_gan.losses.registry import ALIASES, LOSSES, make_loss
from nas_gan.losses.repulsive import (
    SQRT_FLOOR,
    RepulsiveMMD,
    attractive_loss,
    bounded_repulsive_loss,
)
from nas_gan.losses.scores import HingeLoss, LabelLoss, WassersteinLoss

__all__ = [
    "ALIASES",
    "LOSSES",
    "LOWER_BOUND",
    "SQRT_FLOOR",
    "UPPER_BOUND",
    "AdversarialLoss",
    "CramerKernel",
    "GaussianKernel",
    "GradientPenalty",
    "GradientScaling",
    "HingeLoss",
    "ImageNoise",
    "Kernel",
    "KernelMMD",
    "LabelLoss",
    "Parts",
    "RandomScaleMMD",
    "RepulsiveMMD",
    "StudentKernel",
    "WassersteinLoss",
    "WeightClipping",
    "attractive_loss",
    "bounded_repulsive_loss",
    "gaussian",
    "kernel_means",
    "make_loss",
    "mmd2",
    "off_diagonal_mean",
    "paired",
    "squared_distances",
]
