"""The fields of the losses as one table of settings, for presets and command lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from nas_gan.errors import InvalidValueError
from nas_gan.losses.base import AdversarialLoss
from nas_gan.losses.kernels import GaussianKernel, StudentKernel
from nas_gan.losses.mmd import KernelMMD
from nas_gan.losses.parts import GradientPenalty, GradientScaling, Parts, Place, WeightClipping
from nas_gan.losses.registry import make_loss

Label = float | tuple[float, float]


@dataclass(frozen=True)
class LossSettings:
    """What is changed of the loss that is named; None leaves a field as the loss has it."""

    lower: float | None = None
    """Floor under squared distances that the discriminator reduces, in bounded losses."""
    sigma: float | None = None
    """Width of the Gaussian kernel of the bounded repulsive pair (published, latest, ...)."""
    sigmas: tuple[float, ...] | None = None
    """Widths of the Gaussian kernels of an MMD loss (mmd_g, rep, rmb, ...)."""
    alphas: tuple[float, ...] | None = None
    """Exponents of the t kernels of an MMD loss (mmd_t)."""
    beta: float | None = None
    """Scale of the t kernels of an MMD loss."""
    cross_weight: float | None = None
    """Weight w0 of the kernel across real and fake scores in the discriminator's loss; that of the
    real scores is w0 - 1. 0 repels, 2 attracts."""
    bounded: bool | None = None
    """Whether squared distances have bounds in the discriminator's loss."""
    g_transform: Literal["none", "clamp", "sqrt"] | None = None
    """What the generator minimises: the squared MMD, its positive part, or the root of that."""
    extra: Literal["sq_l2_mean", "sqrt_l1_offdiag"] | None = None
    """Form of the kick-start term on fake scores."""
    extra_weight: float | None = None
    """Weight of the kick-start term, lambda_m; 0 leaves it out."""
    extra_epochs: int | None = None
    """Epochs, from the first, that have the kick-start term."""
    mixing: float | None = None
    """Discrepancy above which real and fake scores are mixed."""
    noise: float | None = None
    """Discrepancy above which noise is added to the scores, with kernels of random scale."""
    real_to_normal: float | None = None
    """Weight of the discrepancy between real scores and the normal distribution."""
    fake_to_normal: float | None = None
    """Weight of the discrepancy between fake scores and the normal distribution."""
    g_fake_to_normal: float | None = None
    """The same in the generator's loss."""
    center: float | None = None
    """Mean of the normal distribution of real scores; fake scores have its negative."""
    criterion: Literal["cross_entropy", "least_squares", "probability"] | None = None
    """What drives scores towards labels."""
    real: Label | None = None
    """Label of real images: a number, or two between which one is drawn for every score."""
    fake: Label | None = None
    """Label of generated images in the discriminator's loss."""
    generator_label: Label | None = None
    """Label of generated images in the generator's loss."""
    penalty_weight: float | None = None
    """Weight of the gradient penalty, which any loss can have; 0 leaves it out."""
    penalty_at: Place | None = None
    """Images at which the penalty is taken: interpolated, real or fake."""
    penalty_target: float | None = None
    """Norm of the gradient that the penalty pulls towards."""
    r1: float | None = None
    """Weight gamma of the R1 penalty, gamma / 2 times the squared norm of the gradient at real
    images (Mescheder et al. 2018)."""
    scaling_weight: float | None = None
    """Weight of the gradient scaling of SMMD, which any loss can have; 0 leaves it out."""
    scaling_offset: float | None = None
    """What is subtracted from the loss before it is scaled."""
    clip_weights: float | None = None
    """Bound to which every weight of the critic is clipped after an update; 0 leaves it out."""

    def given(self) -> dict[str, Any]:
        """The settings that are not None, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


# Settings of the parts, which every loss can have.
_PARTS = (
    *("penalty_weight", "penalty_at", "penalty_target", "r1"),
    *("scaling_weight", "scaling_offset", "clip_weights"),
)
_KERNELS = {"sigmas": GaussianKernel, "alphas": StudentKernel, "beta": StudentKernel}


def customised_loss(name: str, settings: LossSettings) -> AdversarialLoss:
    """The loss `name` with the fields that `settings` give.

    Raises:
        InvalidValueError: there is no such loss, it has no such field, or a value is out of range;
            the error is about `loss.FIELD`.
    """
    known, given = make_loss(name), settings.given()
    takes = settings_of(known)
    for key in given:
        if key not in takes:
            raise InvalidValueError(
                f"is not taken by the loss {name}; it takes {', '.join(takes)}",
                setting=f"loss.{key}",
            )
    own = [field.name for field in fields(known)]
    changes = {key: value for key, value in given.items() if key in own}
    if isinstance(known, KernelMMD):
        if "lower" in given and not given.get("bounded", known.bounded):
            raise InvalidValueError(
                f"is for bounded losses, and {name} has no bounds; set bounded too, or take rmb "
                "or mgb",
                setting="loss.lower",
            )
        kernel = {key: value for key, value in given.items() if key in _KERNELS}
        if kernel:
            base: Any = known.kernel
            changes["kernel"] = _checked(lambda: replace(base, **kernel), kernel)
    changes["parts"] = _parts(known.parts, given)
    loss: AdversarialLoss = _checked(lambda: replace(known, **changes), given)
    return loss


def settings_of(loss: AdversarialLoss) -> list[str]:
    """The names of the settings that a loss takes."""
    own = {field.name for field in fields(loss) if field.init}
    kernel = getattr(loss, "kernel", None)
    return [
        field.name
        for field in fields(LossSettings)
        if field.name in own
        or field.name in _PARTS
        or (kernel is not None and isinstance(kernel, _KERNELS.get(field.name, ())))
    ]


def _parts(parts: Parts, given: Mapping[str, Any]) -> Parts:
    for weight, others in (
        ("penalty_weight", ("penalty_at", "penalty_target")),
        ("scaling_weight", ("scaling_offset",)),
    ):
        part = parts.penalty if weight == "penalty_weight" else parts.scaling
        for key in others:
            if key in given and part is None and weight not in given:
                raise InvalidValueError(
                    f"is for a loss with this part; set {weight} too", setting=f"loss.{key}"
                )
    if "r1" in given:
        return replace(parts, penalty=_r1(parts, given), **_others(parts, given))
    penalty = _part(
        parts.penalty or GradientPenalty(),
        parts.penalty is not None,
        given,
        {"penalty_weight": "weight", "penalty_at": "at", "penalty_target": "target"},
    )
    return replace(parts, penalty=penalty, **_others(parts, given))


def _others(parts: Parts, given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "scaling": _part(
            parts.scaling or GradientScaling(),
            parts.scaling is not None,
            given,
            {"scaling_weight": "weight", "scaling_offset": "offset"},
        ),
        "clipping": _part(
            parts.clipping or WeightClipping(),
            parts.clipping is not None,
            given,
            {"clip_weights": "bound"},
        ),
    }


def _part(known: Any, is_there: bool, given: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """A part with other values; the first of `names` is its weight, and 0 leaves it out."""
    changes = {field: given[key] for key, field in names.items() if key in given}
    weight = next(iter(names.values()))
    if changes.get(weight) == 0:
        return None
    if not changes:
        return known if is_there else None
    keys = {key: given[key] for key in names if key in given}
    return _checked(lambda: replace(known, **changes), keys)


def _r1(parts: Parts, given: Mapping[str, Any]) -> GradientPenalty | None:
    for key in ("penalty_weight", "penalty_at", "penalty_target"):
        if key in given:
            raise InvalidValueError(f"is another penalty than {key}; give one", setting="loss.r1")
    if parts.penalty is not None:
        raise InvalidValueError(
            "would replace the gradient penalty that the loss has; take the loss without it",
            setting="loss.r1",
        )
    if given["r1"] == 0:
        return None
    penalty: GradientPenalty = _checked(
        # Its penalty is weight * (norm - target)^2, and R1 is gamma / 2 times the squared norm.
        lambda: GradientPenalty(given["r1"] / 2, at="real", target=0.0),
        {"r1": given["r1"]},
    )
    return penalty


def _checked(make: Any, given: Mapping[str, Any]) -> Any:
    """What `make` returns; its error names the settings that are `given`."""
    try:
        return make()
    except InvalidValueError as error:
        named = next((key for key in given if key in error.message.split()), None)
        key = named or ", loss.".join(given) or "name"
        raise InvalidValueError(f"cannot be used: {error}", setting=f"loss.{key}") from error
