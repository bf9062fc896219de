"""The two networks that a run's settings describe, as plain data for `nas_gan.networks.models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from nas_gan.errors import InvalidValueError, UnreadableError, unknown_name
from nas_gan.networks.genotype import ADVERSARIAL_NAS, MMD_NAS, DiscriminatorGenotype, Genotype
from nas_gan.networks.interface import GeneratorInterface, interface_of
from nas_gan.networks.models import MODELS, build_model, describe_pair
from nas_gan.networks.searched import DATASET_SHAPES, DiscriminatorConfig, GeneratorConfig
from nas_gan.reading import read_json, read_text
from nas_gan.training.config import TrainConfig

Architecture = dict[str, Any]
G = TypeVar("G", Genotype, DiscriminatorGenotype)
# Published genotype and activation of the generators that are described by one.
SEARCHED: dict[str, tuple[Genotype, str]] = {
    "mmd-nas": (MMD_NAS, "pmish"),
    "adversarial-nas": (ADVERSARIAL_NAS, "relu"),
}
# Width of the discriminators that know no image size, and outputs of a score.
_JUDGES = {"mmd-nas": (512, 16), "adversarial-nas": (128, 1), "searched": (80, 16)}


def describe_networks(config: TrainConfig) -> tuple[Architecture, Architecture]:
    """Generator and discriminator of a run, each as data for `build_model`.

    Raises:
        InvalidValueError: a family, a genotype or an option is not one, or a file is not there.
    """
    if config.networks is not None:
        return _read_networks(config.networks)
    for kind in (config.model, config.discriminator):
        if kind is not None and kind not in MODELS:
            raise unknown_name("model", kind, MODELS)
    settings: dict[str, Any] = asdict(config)
    if config.spectral_norm not in (None, "operator", "kernel", "none"):
        raise unknown_name("spectral_norm", config.spectral_norm, ("operator", "kernel", "none"))
    settings["activation_init"] = _activation_init(config)
    if config.model in SEARCHED:
        generator = _searched_generator(config, settings)
        # A layered discriminator needs the shape of its images.
        settings["image_size"] = 8 * generator["bottom_width"]
        settings["image_channels"] = generator["image_channels"]
    else:
        _refuse_activation(config)
        generator, _ = describe_pair(settings)
    judge = config.discriminator or config.model
    if judge in _JUDGES:
        return generator, _searched_discriminator(
            judge, config, interface_of(blueprint(generator)), settings["image_channels"]
        )
    _, discriminator = describe_pair(settings)
    return generator, discriminator


def blueprint(generator: Mapping[str, Any]) -> nn.Module:
    """The generator of a description without memory for its weights, for reading off its sizes."""
    with torch.device("meta"):
        return build_model(generator)


def _searched_generator(config: TrainConfig, settings: Mapping[str, Any]) -> Architecture:
    published, activation = SEARCHED[config.model]
    for name in ("hidden_activation", "output_activation"):
        if settings[name] is not None:
            raise InvalidValueError(
                f"the generator of {config.model} has no {name}; other models have, such as dcgan"
            )
    if config.shape not in DATASET_SHAPES:
        raise unknown_name("shape", config.shape, DATASET_SHAPES)
    bottom_width, parts = DATASET_SHAPES[config.shape]
    if config.image_size is not None:
        if config.image_size % 8:
            raise InvalidValueError(
                f"image_size {config.image_size} does not divide by 8: the generator of "
                f"{config.model} doubles its first map three times"
            )
        bottom_width = config.image_size // 8
    given = {name: settings[name] for name in ("gf_dim", "latent_dim", "image_channels")}
    options = GeneratorConfig(
        genotype=published
        if config.genotype is None
        else read_genotype(config.genotype, published),
        bottom_width=bottom_width,
        latent_parts=parts,
        activation=config.activation or activation,
        n_classes=config.n_classes or 0,
        **{name: value for name, value in given.items() if value is not None},
    )
    return {"kind": config.model, **options.to_dict()}


def _searched_discriminator(
    kind: str, config: TrainConfig, made: GeneratorInterface, channels: int | None
) -> Architecture:
    for name in ("d_hidden_activation", "d_output_activation"):
        if getattr(config, name) is not None:
            raise InvalidValueError(
                f"the discriminator of {kind} has no slot for {name}; others have, such as dcgan's"
            )
    if config.product_of_norms is not None:
        raise InvalidValueError(
            f"is for the discriminator of mmd-gan; got one of {kind}", setting="product_of_norms"
        )
    if config.spectral_norm == "operator":
        raise InvalidValueError(
            f"the discriminator of {kind} takes spectral norm kernel or none; got operator"
        )
    df_dim, n_outputs = _JUDGES[kind]
    options: Architecture = {
        "df_dim": config.df_dim or df_dim,
        "n_outputs": config.n_outputs or n_outputs,
        "spectral_norm": config.spectral_norm != "none",
        "image_channels": channels or 3,
        "n_classes": made.n_classes,
    }
    if kind == "searched":
        if config.d_genotype is None:
            raise InvalidValueError("a searched discriminator needs d_genotype, its genotype file")
        options["genotype"] = asdict(
            _from_file(
                config.d_genotype, DiscriminatorGenotype.from_npy, DiscriminatorGenotype.from_json
            )
        )
    else:
        height = made.image_shape[1]
        options["downsampling"] = DiscriminatorConfig.for_image_size(height).downsampling
    return {"kind": kind, **options}


def _refuse_activation(config: TrainConfig) -> None:
    for name, value in (("activation", config.activation), ("genotype", config.genotype)):
        if value is not None:
            raise InvalidValueError(
                f"{name} is for the searched generators ({', '.join(SEARCHED)}); the model is "
                f"{config.model}, which has hidden_activation and output_activation"
            )


def _activation_init(config: TrainConfig) -> str | dict[str, Any] | None:
    drawn = {"mean": config.activation_init_mean, "std": config.activation_init_std}
    given = {name: value for name, value in drawn.items() if value is not None}
    return (
        {"name": config.activation_init or "normal", **given} if given else config.activation_init
    )


def read_genotype(path: Path, published: Genotype = MMD_NAS) -> Genotype:
    """A genotype from its .json or .npy file; the latter indexes the table of `published`.

    Raises:
        InvalidValueError: there is no such file, or it holds something else.
    """
    return _from_file(
        path, lambda file: Genotype.from_npy(file, published.table), Genotype.from_json
    )


def _from_file(path: Path, from_npy: Callable[[Path], G], from_json: Callable[[str], G]) -> G:
    if not path.is_file():
        raise InvalidValueError(f"{path}: no such genotype file (.json or .npy)")
    if path.suffix == ".npy":
        return from_npy(path)
    try:
        return from_json(read_text(path))
    except UnreadableError as error:
        hint = "a genotype is .json or .npy"
        raise InvalidValueError(f"{str(error).removesuffix('.')}; {hint}") from error
    except InvalidValueError as error:
        raise InvalidValueError(f"{path}: {error}") from error


def _read_networks(path: Path) -> tuple[Architecture, Architecture]:
    if not path.is_file():
        raise InvalidValueError(f"{path}: no such file; give a .json with both networks")
    try:
        content = read_json(path)
        return dict(content["generator"]), dict(content["discriminator"])
    except UnreadableError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidValueError(
            f'{path}: needs {{"generator": {{...}}, "discriminator": {{...}}}}, as '
            f"nas_gan.networks.models has them ({error!r})"
        ) from error
