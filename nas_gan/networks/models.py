"""Every network by name: plain data in, a module out.

A network is described by a dictionary `{"kind": "dcgan", "gf_dim": 128, ...}`, as in a checkpoint.
`kind` is a family of `MODELS`; the rest are options of its generator or discriminator, which all
have defaults. Families that are lists of layers (all but the searched ones) also have the options
in `SLOT_OPTIONS`.

Generators have `latent_dim`, `n_classes` (0 unless conditional) and `image_shape (c, h, w)`, which
`nas_gan.networks.interface.interface_of` reads. They are called with latents
`(n, latent_dim + n_classes)`, whose last columns are the one-hot label.
Discriminators are called with images and, if conditional, one-hot labels `(n, n_classes)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from nas_gan.errors import InvalidValueError, NasGanError, unknown_name
from nas_gan.networks.activations import SYMMETRIC, UNIT
from nas_gan.networks.baselines import dcgan, dense, mmd_gan
from nas_gan.networks.baselines.layers import Slots
from nas_gan.networks.baselines.network import LayeredDiscriminator, LayeredGenerator, NetworkSpec
from nas_gan.networks.genotype import ADVERSARIAL_NAS, DiscriminatorGenotype, Genotype
from nas_gan.networks.limits import check_options, limited
from nas_gan.networks.searched import (
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    InitName,
    build_discriminator,
    initialize_,
)
from nas_gan.networks.searched_discriminator import (
    SearchedDiscriminatorConfig,
    build_searched_discriminator,
)
from nas_gan.networks.spectral import normalise_network_, spectral_norm_

Role = Literal["generator", "discriminator"]
SpectralNorm = Literal["operator", "kernel", "none"]
# Options of every net that is a list of layers; the last is only for discriminators.
SLOT_OPTIONS = (
    "hidden_activation",
    "output_activation",
    "activation_init",
    "activation_sharing",
    "spectral_norm",
)
# (options, init, rng) -> the module, with weights drawn from rng if it is not None
Build = Callable[[Mapping[str, Any], InitName, torch.Generator | None], nn.Module]


@dataclass(frozen=True)
class Part:
    """One side of a family.

    Attributes:
        build: makes the network from its options.
        options: the names of its options.
        init: the default distribution of its weights.
    """

    build: Build
    options: tuple[str, ...]
    init: InitName


@dataclass(frozen=True)
class ModelFamily:
    """A generator and the discriminator that it was published with.

    Attributes:
        summary: a description in one line.
        generator: None if the family only has a discriminator.
        discriminator: the other side.
    """

    summary: str
    generator: Part | None
    discriminator: Part


def build_model(
    architecture: Mapping[str, Any],
    role: Role = "generator",
    *,
    init: InitName | None = None,
    rng: torch.Generator | None = None,
) -> nn.Module:
    """Build the network that a dictionary describes.

    Args:
        architecture: `{"kind": name of a family, option: value, ...}`.
        role: `generator` or `discriminator`.
        init: Distribution of the initial weights; by default that of the family.
        rng: Source of the initial weights. Without one, torch draws its own defaults, which is
            enough for a network that a state dict will fill.

    Returns:
        The network in training mode. A generator has `latent_dim`, `n_classes` and `image_shape`.
        Spectral norm is applied after the weights have been drawn.

    Raises:
        InvalidValueError: The family or an option is not known, a value is out of range, or the
            network is larger than `nas_gan.networks.limits` allows.
    """
    part = find_part(architecture.get("kind"), role)
    options = {name: value for name, value in architecture.items() if name != "kind"}
    for name in options:
        if name not in part.options:
            raise unknown_name(f"option of the {architecture['kind']} {role}", name, part.options)
    check_options(options)
    for name in _COUNTS & options.keys():
        value = options[name]
        if value is not None and type(value) is not int:
            raise InvalidValueError(
                f"{name} of the {architecture['kind']} {role} is a whole number; got {value!r}"
            )
    try:
        with limited():
            return part.build(options, init or part.init, rng)
    except NasGanError:
        raise
    except (TypeError, LookupError, AttributeError, ValueError, ArithmeticError) as error:
        # A value of a wrong type; values out of range have an error of their own.
        raise InvalidValueError(
            f"the {architecture['kind']} {role} has an option of a wrong type: {error!r}"
        ) from error
    except (RuntimeError, MemoryError) as error:  # torch on sizes that do not fit each other
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidValueError(
            f"the {architecture['kind']} {role} cannot be built: {reason}"
        ) from error


def describe_pair(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The descriptions of the generator and the discriminator, read from flat settings.

    `model` names the family, and `discriminator` another one for that side. Options that both have
    (`image_size`, `n_classes` and so on) go to both; options of activation slots have a counterpart
    for the discriminator with the prefix `d_`. Missing options and those that are None have the
    default of the family, and settings that no network has are ignored.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    generator = {n: given[n] for n in (*_SHARED, *_GENERATORS, *_SLOTS) if n in given}
    discriminator = {n: given[n] for n in (*_SHARED, *_DISCRIMINATORS) if n in given}
    discriminator |= {n: given[f"d_{n}"] for n in _SLOTS if f"d_{n}" in given}
    model = given.get("model", "mmd-nas")
    return (
        {"kind": model, **generator},
        {"kind": given.get("discriminator", model), **discriminator},
    )


_COUNTS = {
    *("image_size", "image_channels", "n_classes", "latent_dim", "latent_parts"),
    *("bottom_width", "gf_dim", "df_dim", "n_outputs"),
}
_SHARED = ("image_size", "image_channels", "n_classes", "activation_init", "activation_sharing")
_SLOTS = ("hidden_activation", "output_activation")
_GENERATORS = ("latent_dim", "gf_dim")
_DISCRIMINATORS = ("df_dim", "n_outputs", "spectral_norm", "product_of_norms")


def find_part(kind: object, role: Role) -> Part:
    """The generator or the discriminator of a family.

    Raises:
        InvalidValueError: There is no such family, or it has no network for this role.
    """
    if not isinstance(kind, str) or kind not in MODELS:
        raise unknown_name("model", kind, MODELS)
    part: Part | None = getattr(MODELS[kind], role)
    if part is None:
        with_one = [name for name, family in MODELS.items() if getattr(family, role) is not None]
        raise InvalidValueError(f"{kind} has no {role}; choose one of {', '.join(with_one)}")
    return part


def _layered(role: Role, recipe: Callable[..., NetworkSpec], init: InitName, classes: int) -> Part:
    """A part whose network is the list of layers that `recipe(**options)` returns.

    `classes` is the family's own number of classes, for descriptions that name none.
    """
    own = tuple(inspect.signature(recipe).parameters)
    slots = SLOT_OPTIONS if role == "discriminator" else SLOT_OPTIONS[:-1]

    def build(options: Mapping[str, Any], init: InitName, rng: torch.Generator | None) -> nn.Module:
        given = {name: value for name, value in options.items() if name in own}
        spec = recipe(**{"n_classes": classes, **given})
        slots = Slots(
            hidden=options.get("hidden_activation"),
            output=options.get("output_activation", "default"),
            interval=SYMMETRIC if role == "generator" else UNIT,
            init=options.get("activation_init", "default"),
            sharing=options.get("activation_sharing", "unit"),
        )
        network = (LayeredGenerator if role == "generator" else LayeredDiscriminator)(spec, slots)
        if rng is not None:
            initialize_(network, init, rng)
        if isinstance(network, LayeredDiscriminator):
            _normalise(network, options.get("spectral_norm"), rng)
        return network

    return Part(build, (*own, *slots), init)


def _normalise(
    network: LayeredDiscriminator, method: SpectralNorm | None, rng: torch.Generator | None
) -> None:
    """Add spectral norm to a discriminator in place; None is the default of its layers.

    If no layer has one by default, it is added to all of them, with a norm of 1.
    """
    if method not in (None, "operator", "kernel", "none"):
        raise unknown_name("spectral_norm", method, ("operator", "kernel", "none"))
    if method == "none":
        return
    for name, shape, constant in network.normed:
        spectral_norm_(
            network.get_submodule(name),
            method=method or "operator",
            input_size=shape[1:] or None,
            constant=constant,
            rng=rng,
        )
    if method is not None and not network.normed:
        example = [torch.zeros(1, *network.image_shape)]
        example += [torch.zeros(1, network.n_classes)] if network.n_classes else []
        normalise_network_(network, *example, method=method, rng=rng)


def _nas_generator(**defaults: Any) -> Part:
    """The generator that a genotype describes; `defaults` replace missing options."""

    def build(options: Mapping[str, Any], init: InitName, rng: torch.Generator | None) -> nn.Module:
        generator = Generator(GeneratorConfig.from_dict({**defaults, **options}))
        if rng is not None:
            initialize_(generator, init, rng)
        return generator

    return Part(build, tuple(f.name for f in fields(GeneratorConfig)), "xavier_uniform")


def _nas_discriminator(**defaults: Any) -> Part:
    """The discriminator of AutoGAN, with which both searched generators were trained."""

    def build(options: Mapping[str, Any], init: InitName, rng: torch.Generator | None) -> nn.Module:
        values: dict[str, Any] = {"n_classes": 0, **defaults, **options}
        return build_discriminator(DiscriminatorConfig(**values), init, rng)

    return Part(build, tuple(f.name for f in fields(DiscriminatorConfig)), "xavier_uniform")


def _build_searched(
    options: Mapping[str, Any], init: InitName, rng: torch.Generator | None
) -> nn.Module:
    values = {"n_classes": 0, **options}
    rows = tuple(tuple(row) for row in values.pop("genotype")["rows"])
    config = SearchedDiscriminatorConfig(DiscriminatorGenotype(rows), **values)
    return build_searched_discriminator(config, init, rng)


def _family(
    summary: str,
    generator: Callable[..., NetworkSpec],
    discriminator: Callable[..., NetworkSpec],
    *,
    classes: int,
    init: InitName = "torch",
) -> ModelFamily:
    return ModelFamily(
        summary,
        _layered("generator", generator, init, classes),
        _layered("discriminator", discriminator, init, classes),
    )


def _as_data(genotype: Genotype) -> dict[str, Any]:
    return asdict(genotype)


_SEARCHED = Part(
    _build_searched, tuple(f.name for f in fields(SearchedDiscriminatorConfig)), "xavier_uniform"
)
MODELS: dict[str, ModelFamily] = {
    "mmd-nas": ModelFamily(
        "MMD-PMish-NAS (IEEE Access 2024)",
        _nas_generator(),
        _nas_discriminator(),
    ),
    "adversarial-nas": ModelFamily(
        "AdversarialNAS (CVPR 2020)",
        _nas_generator(genotype=_as_data(ADVERSARIAL_NAS), activation="relu"),
        _nas_discriminator(df_dim=128, n_outputs=1),
    ),
    "searched": ModelFamily("the discriminator of a searched genotype", None, _SEARCHED),
    "dcgan": _family(
        "DCGAN for 64 px", dcgan.generator, dcgan.discriminator, init="dcgan", classes=0
    ),
    "wgan": _family(
        "WGAN: the DCGAN networks, with the discriminator as critic",
        dcgan.generator,
        dcgan.discriminator,
        init="dcgan",
        classes=0,
    ),
    "attention-dcgan": _family(
        "DCGAN with a self-attention block in both networks",
        partial(dcgan.generator, attention=True),
        partial(dcgan.discriminator, attention=True),
        init="dcgan",
        classes=0,
    ),
    "celeba-dcgan": _family(
        "DCGAN for CelebA with activation slots, twice as wide and without biases",
        partial(dcgan.generator, output_bias=False),
        partial(dcgan.discriminator, df_dim=128, outer_bias=False),
        init="dcgan",
        classes=0,
    ),
    "mnist-dcgan": _family(
        "small DCGAN for 28 px", dcgan.mnist_generator, dcgan.mnist_discriminator, classes=0
    ),
    "maxout-gan": _family(
        "linear generator, maxout discriminator",
        dense.maxout_gan_generator,
        dense.maxout_gan_discriminator,
        classes=0,
    ),
    "mnist-condgan": _family(
        "conditional GAN of linear layers, with activation slots",
        dense.mlp_generator,
        dense.mlp_discriminator,
        classes=10,
    ),
    "dense-cgan": _family(
        "conditional GAN of linear layers with batch norm",
        partial(dense.mlp_generator, batch_norm=True),
        partial(dense.mlp_discriminator, factors=(2, 1), dropout=0.0),
        classes=10,
    ),
    "maxout-cgan": _family(
        "conditional GAN with a branch for labels and a maxout discriminator",
        dense.maxout_cgan_generator,
        dense.maxout_cgan_discriminator,
        classes=10,
    ),
    "mmd-gan": _family(
        "MMD-GAN with repulsive loss (ICLR 2019) for 32, 48 and 64 px",
        mmd_gan.generator,
        mmd_gan.discriminator,
        init="mmd_gan",
        classes=0,
    ),
    "layers": _family(
        "any net, its lists of layers written down", NetworkSpec, NetworkSpec, classes=0
    ),
}
