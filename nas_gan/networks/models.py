"""Every network by its name: plain data in, a module out.

A dictionary such as `{"kind": "dcgan", "gf_dim": 128}` describes a network; a checkpoint holds one.
`kind` names a family of `MODELS`. The other entries are options of its generator or discriminator,
all of which have defaults. The families that are lists of layers, which are all but the searched
ones, also share the options in `SLOT_OPTIONS`.

Generators have the attributes `latent_dim`, `n_classes` (0 if unconditional) and `image_shape`,
`(c, h, w)`. They are called with latents `(n, latent_dim + n_classes)`, whose last columns are the
one-hot label. Discriminators are called with images and, if conditional, one-hot labels
`(n, n_classes)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from nas_gan.errors import InvalidValueError, unknown_name
from nas_gan.networks.activations import SYMMETRIC, UNIT
from nas_gan.networks.baselines import dcgan, dense, mmd_gan
from nas_gan.networks.baselines.layers import Slots
from nas_gan.networks.baselines.network import LayeredDiscriminator, LayeredGenerator, NetworkSpec
from nas_gan.networks.genotype import ADVERSARIAL_NAS, DiscriminatorGenotype, Genotype
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
# Options of every network that is a list of layers; the last is for discriminators only.
SLOT_OPTIONS = (
    "hidden_activation",
    "output_activation",
    "activation_init",
    "activation_sharing",
    "spectral_norm",
)
# (options, init, rng) -> the module; its weights are drawn if there is an rng
Build = Callable[[Mapping[str, Any], InitName, torch.Generator | None], nn.Module]


@dataclass(frozen=True)
class Part:
    """One side of a family.

    Attributes:
        build: Builds the network from its options.
        options: The names of the options.
        init: The distribution of the initial weights by default.
    """

    build: Build
    options: tuple[str, ...]
    init: InitName


@dataclass(frozen=True)
class ModelFamily:
    """A generator and the discriminator that it was published with.

    Attributes:
        summary: A description in one line.
        generator: The generator, or None if the family has only a discriminator.
        discriminator: The discriminator.
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
        InvalidValueError: The family or an option is not known, or a value is out of range.
    """
    part = find_part(architecture.get("kind"), role)
    options = {name: value for name, value in architecture.items() if name != "kind"}
    for name in options:
        if name not in part.options:
            raise unknown_name(f"option of the {architecture['kind']} {role}", name, part.options)
    try:
        return part.build(options, init or part.init, rng)
    except (KeyError, TypeError, AttributeError) as error:
        # A value of the wrong type; values that are merely out of range raise errors of their own.
        raise InvalidValueError(
            f"the {architecture['kind']} {role} has an option of a wrong type: {error!r}"
        ) from error


def describe_pair(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The descriptions of the generator and the discriminator, read from flat settings.

    `model` names the family, and `discriminator` another family for the discriminator. Settings
    that both sides take, such as `image_size` and `n_classes`, go to both. The options of the
    generator's activation slots have counterparts that begin with `d_`. Settings that are missing
    or None are left to the family, and names that no network has as an option are ignored.
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


_SHARED = ("image_size", "image_channels", "n_classes", "activation_init", "activation_sharing")
_SLOTS = ("hidden_activation", "output_activation")
_GENERATORS = ("latent_dim", "gf_dim")
_DISCRIMINATORS = ("df_dim", "n_outputs", "spectral_norm")


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


def _layered(role: Role, recipe: Callable[..., NetworkSpec], init: InitName = "torch") -> Part:
    """A part whose network is the list of layers that `recipe(**options)` returns."""
    own = tuple(inspect.signature(recipe).parameters)
    slots = SLOT_OPTIONS if role == "discriminator" else SLOT_OPTIONS[:-1]

    def build(options: Mapping[str, Any], init: InitName, rng: torch.Generator | None) -> nn.Module:
        spec = recipe(**{name: value for name, value in options.items() if name in own})
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
    """Apply spectral norm to a discriminator, in place.

    With None, the layers that ask for it get it. If a method is given and no layer asks for it, all
    layers get it, and their norms become 1.
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
    """The generator that a genotype describes; `defaults` replace options that are left out."""

    def build(options: Mapping[str, Any], init: InitName, rng: torch.Generator | None) -> nn.Module:
        generator = Generator(GeneratorConfig.from_dict({**defaults, **options}))
        if rng is not None:
            initialize_(generator, init, rng)
        return generator

    return Part(build, tuple(f.name for f in fields(GeneratorConfig)), "xavier_uniform")


def _nas_discriminator(**defaults: Any) -> Part:
    """The discriminator of AutoGAN, with which both searched generators were trained."""

    def build(options: Mapping[str, Any], init: InitName, rng: torch.Generator | None) -> nn.Module:
        return build_discriminator(DiscriminatorConfig(**{**defaults, **options}), init, rng)

    return Part(build, tuple(f.name for f in fields(DiscriminatorConfig)), "xavier_uniform")


def _build_searched(
    options: Mapping[str, Any], init: InitName, rng: torch.Generator | None
) -> nn.Module:
    values = dict(options)
    rows = tuple(tuple(row) for row in values.pop("genotype")["rows"])
    config = SearchedDiscriminatorConfig(DiscriminatorGenotype(rows), **values)
    return build_searched_discriminator(config, init, rng)


def _family(
    summary: str,
    generator: Callable[..., NetworkSpec],
    discriminator: Callable[..., NetworkSpec],
    init: InitName = "torch",
) -> ModelFamily:
    return ModelFamily(
        summary,
        _layered("generator", generator, init),
        _layered("discriminator", discriminator, init),
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
    "dcgan": _family("DCGAN for 64 px", dcgan.generator, dcgan.discriminator, "dcgan"),
    "wgan": _family(
        "WGAN: the DCGAN networks, with the discriminator as critic",
        dcgan.generator,
        dcgan.discriminator,
        "dcgan",
    ),
    "attention-dcgan": _family(
        "DCGAN with a self-attention block in both networks",
        partial(dcgan.generator, attention=True),
        partial(dcgan.discriminator, attention=True),
        "dcgan",
    ),
    "celeba-dcgan": _family(
        "DCGAN for CelebA with activation slots, twice as wide and without biases",
        partial(dcgan.generator, output_bias=False),
        partial(dcgan.discriminator, df_dim=128, outer_bias=False),
        "dcgan",
    ),
    "mnist-dcgan": _family(
        "small DCGAN for 28 px", dcgan.mnist_generator, dcgan.mnist_discriminator
    ),
    "maxout-gan": _family(
        "linear generator, maxout discriminator",
        dense.maxout_gan_generator,
        dense.maxout_gan_discriminator,
    ),
    "mnist-condgan": _family(
        "conditional GAN of linear layers, with activation slots",
        dense.mlp_generator,
        dense.mlp_discriminator,
    ),
    "dense-cgan": _family(
        "conditional GAN of linear layers with batch norm",
        partial(dense.mlp_generator, batch_norm=True),
        partial(dense.mlp_discriminator, factors=(2, 1), dropout=0.0),
    ),
    "maxout-cgan": _family(
        "conditional GAN with a branch for labels and a maxout discriminator",
        dense.maxout_cgan_generator,
        dense.maxout_cgan_discriminator,
    ),
    "mmd-gan": _family(
        "MMD-GAN with repulsive loss (ICLR 2019) for 32, 48 and 64 px",
        mmd_gan.generator,
        mmd_gan.discriminator,
        "mmd_gan",
    ),
    "layers": _family("any network, described layer by layer", NetworkSpec, NetworkSpec),
}
