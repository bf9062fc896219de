"""The adversarial losses by name."""

from __future__ import annotations

from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from nas_gan.errors import InvalidValueError
from nas_gan.losses.base import AdversarialLoss
from nas_gan.losses.kernels import ONE_GAUSSIAN, CramerKernel, GaussianKernel, StudentKernel
from nas_gan.losses.mmd import KernelMMD, RandomScaleMMD
from nas_gan.losses.parts import GradientPenalty, GradientScaling, Parts, WeightClipping
from nas_gan.losses.repulsive import RepulsiveMMD
from nas_gan.losses.scores import HingeLoss, LabelLoss, WassersteinLoss

FIVE_GAUSSIANS = GaussianKernel((1.0, 2.0**0.5, 2.0, 8.0**0.5, 4.0))
FIVE_STUDENTS = StudentKernel()
# Under a gradient penalty, the kernel of the witness has tails of its own.
WITNESS_STUDENTS = StudentKernel((0.25, 0.5, 0.9, 2.0, 25.0))
# The weight with which the repulsive loss was published.
REPULSIVE_PENALTY = Parts(penalty=GradientPenalty(0.1, ONE_GAUSSIAN))


def _penalised(kernel: GaussianKernel | StudentKernel) -> Parts:
    return Parts(penalty=GradientPenalty(1.0, kernel))


LOSSES: dict[str, AdversarialLoss] = {
    # July 2024: the loss of the published compression results.
    "published": RepulsiveMMD("sqrt", "sq_l2_mean", 1e-3, 1),
    # October 2024: the newest published version.
    "latest": RepulsiveMMD("none", "sqrt_l1_offdiag", 1e-4, None),
    # April 2024: the main CIFAR-10 and STL-10 runs; and the release of ICASSP 2024.
    "april_2024": RepulsiveMMD("sqrt", extra_weight=0.0),
    "icassp_2024": RepulsiveMMD("none", extra_weight=0.0),
    # Losses that treat every score by itself.
    "logistic": LabelLoss(),
    "least_squares": LabelLoss("least_squares"),
    "soft_labels": LabelLoss(real=(0.7, 1.0), fake=(0.0, 0.3)),
    "hinge": HingeLoss(),
    "wasserstein": WassersteinLoss(parts=Parts(penalty=GradientPenalty())),
    "wasserstein_clip": WassersteinLoss(parts=Parts(clipping=WeightClipping())),
    # Attractive discrepancies.
    "mmd": KernelMMD(),
    "mmd_g": KernelMMD(FIVE_GAUSSIANS),
    "mmd_g_gp": KernelMMD(FIVE_GAUSSIANS, parts=_penalised(FIVE_GAUSSIANS)),
    "mmd_t": KernelMMD(FIVE_STUDENTS),
    "mmd_t_gp": KernelMMD(FIVE_STUDENTS, parts=_penalised(WITNESS_STUDENTS)),
    "mgb": KernelMMD(bounded=True),
    "mgb_gp": KernelMMD(bounded=True, parts=_penalised(ONE_GAUSSIAN)),
    "cramer": KernelMMD(CramerKernel()),
    "mmd_g_mix": KernelMMD(FIVE_GAUSSIANS, mixing=1.0),
    "sgm": KernelMMD(mixing=0.2),
    # Repulsive discrepancies.
    "rep": KernelMMD(cross_weight=0.0),
    "rep_gp": KernelMMD(cross_weight=0.0, parts=REPULSIVE_PENALTY),
    "rep_ds": KernelMMD(cross_weight=0.0, parts=Parts(scaling=GradientScaling(offset=1.0))),
    "rmb": KernelMMD(cross_weight=0.0, bounded=True),
    "rmb_gp": KernelMMD(cross_weight=0.0, bounded=True, parts=REPULSIVE_PENALTY),
    "rmb_ds": KernelMMD(cross_weight=0.0, bounded=True, parts=Parts(scaling=GradientScaling())),
    # Kernels of random scale.
    "rand_g": RandomScaleMMD(),
    "rgb": RandomScaleMMD(real_to_normal=0.0, bounded=True),
    "rand_g_mix": RandomScaleMMD(mixing=0.2),
    "sym_rg_mix": RandomScaleMMD(fake_to_normal=-1.0, g_fake_to_normal=1.0, mixing=0.2),
    "sym_rg": RandomScaleMMD(real_to_normal=0.5, fake_to_normal=0.5, center=0.5),
    "instance_noise": RandomScaleMMD(noise=0.2),
}
# Other names of the same losses.
ALIASES = {
    "bce": "logistic",
    "non_saturating": "logistic",
    "lsgan": "least_squares",
    "wgan": "wasserstein_clip",
    "wgan_gp": "wasserstein",
    "attractive": "mmd",
    "fixed_g": "mmd_g",
    "fixed_t": "mmd_t",
    "fixed_g_mix": "mmd_g_mix",
    "repulsive": "rep",
    "rep_mmd_g": "rep",
    "rep_b": "rmb",
    "rep_mmd_b": "rmb",
    "sym_rand_g": "sym_rg",
    "ins_noise": "instance_noise",
}


def make_loss(name: str, **changes: Any) -> AdversarialLoss:
    """A new adversarial loss by its name.

    Most come from MMD-GAN with repulsive loss (Wang, Sun, Halgamuge; ICLR 2019), the default ones
    from MMD-PMish-NAS (IEEE Access 2024).

    Args:
        name: A key of `nas_gan.losses.LOSSES` or of `nas_gan.losses.ALIASES`, such as `latest`,
            `hinge` or `wgan_gp`.
        **changes: Fields of the loss to change, such as `sigma=2.0`.

    Returns:
        A loss that shares no state with any other.

    Raises:
        InvalidValueError: No loss has this name, the loss has no such field, or a value is out of
            range.
    """
    known = LOSSES.get(ALIASES.get(name, name))
    if known is None:
        near = get_close_matches(name, [*LOSSES, *ALIASES], n=1)
        offer = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidValueError(
            f"loss {name!r} is not known; {offer}choose one of {', '.join(LOSSES)}"
        )
    settings = [f.name for f in fields(known) if f.init]
    for key in changes:
        if key not in settings:
            raise InvalidValueError(
                f"loss {name!r} has no setting {key!r}; it has {', '.join(settings)}"
            )
    # Always a new instance, since some losses keep state between steps.
    return replace(known, **changes)
