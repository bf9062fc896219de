"""Checkpoints: architecture as data, weights and provenance.

Nothing is unpickled beyond what `torch.load(weights_only=True)` allows, so a checkpoint cannot
run code. Four kinds of file are read: the native `.pt`, the same content as `.safetensors`, the
published MMD-NAS checkpoints, and any file that holds the state dict of a generator which the
caller builds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas_gan.errors import CheckpointError, InvalidValueError
from nas_gan.files import atomic_path
from nas_gan.networks.genotype import MMD_NAS, Genotype
from nas_gan.networks.interface import GeneratorInterface, interface_of
from nas_gan.networks.limits import limited
from nas_gan.networks.models import build_model
from nas_gan.networks.normal_form import NormalForm, normal_form_
from nas_gan.networks.searched import GeneratorConfig
from nas_gan.networks.structure import apply_structure
from nas_gan.reading import is_number, parse_json
from nas_gan.remote.fetching import local_file
from nas_gan.weights.files import load_file, safetensors_metadata, save_torch
from nas_gan.weights.fitting import load_weights
from nas_gan.weights.foreign import by_position, described, find_generator

FORMAT = "ard-gan checkpoint 1"
MMD_NAS_KIND = "mmd-nas"
EXTERNAL_KIND = "external"
# A network of so many parameters is built whatever its file holds: 256 MB. A larger one is at most
# so many times as large as its file, which holds a compressed one; `_SLACK` is for rounding.
_SMALL, _COMPRESSED, _SLACK = 1 << 26, 256, 1 << 16
_DESCRIPTIVE = ("architecture", "discriminator_config", "provenance", "structure")
_FIELDS = ("generator", "discriminator", *_DESCRIPTIVE)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        architecture: How to build the generator: `{"kind": name, option: value, ...}` with a
            family of `nas_gan.networks.models` and its options, or `{"kind": "external"}` for a
            network of the caller's own.
        generator: State dict of the generator, with averaged weights.
        discriminator: State dict of the discriminator that it was trained with, if the file has
            one.
        discriminator_config: How to build that discriminator: a family and its options.
        provenance: Where the weights come from, as plain values: data set, resolution, steps, seed
            and the like.
        structure: The plain layers that replace each factorized layer, by the name of the layer;
            empty for a dense generator.
    """

    architecture: dict[str, Any]
    generator: dict[str, Tensor]
    discriminator: dict[str, Tensor] | None = None
    discriminator_config: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    structure: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def interface(self) -> GeneratorInterface:
        """What its generator takes and returns, found without memory for its weights.

        Raises:
            InvalidValueError: the architecture is unknown or external.
        """
        with torch.device("meta"):
            return interface_of(build_model(self.architecture))

    @property
    def holds_discriminator(self) -> bool:
        """Whether the file has the discriminator with which the generator was trained."""
        return self.discriminator is not None and self.discriminator_config is not None


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint to a file, atomically.

    Args:
        checkpoint: What to write.
        path: The file; the suffix `.safetensors` selects that format, any other one torch's.
    """
    # Through JSON, so that a file only holds plain values: a str subclass such as
    # torch.__version__ would make it unreadable under weights_only.
    described = {name: getattr(checkpoint, name) for name in _DESCRIPTIVE}
    checkpoint = replace(checkpoint, **json.loads(json.dumps(described)))
    if path.suffix == ".safetensors":
        _save_safetensors(checkpoint, path)
        return
    save_torch({"format": FORMAT, **{name: getattr(checkpoint, name) for name in _FIELDS}}, path)


def _save_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    from safetensors.torch import save

    tensors = {f"generator.{name}": tensor for name, tensor in checkpoint.generator.items()}
    for name, tensor in (checkpoint.discriminator or {}).items():
        tensors[f"discriminator.{name}"] = tensor
    described = {name: getattr(checkpoint, name) for name in _DESCRIPTIVE}
    metadata = {"format": FORMAT, "description": json.dumps(described)}
    # The format refuses tensors that share memory, as tied layers do.
    plain = {name: t.contiguous().clone() for name, t in tensors.items()}
    data = save(plain, safetensors_metadata(plain, metadata))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load_checkpoint(
    path: Path,
    *,
    genotype: Genotype = MMD_NAS,
    activation: str | None = None,
    state_key: str | None = None,
) -> Checkpoint:
    """Read a checkpoint from a file, or a shipped one by its name.

    A native file, a checkpoint of the published MMD-NAS code and the state dict of any generator
    can be read, whatever else lies in the file: its averaged weights are preferred, and its
    discriminator, optimizers and losses are left out. No code in the file runs.

    Args:
        path: A file, an address such as `Path("s3://bucket/ckpt.pt")`, or the name of a shipped
            checkpoint as in `Path("zoo:fashion_mnist")`.
        genotype: The architecture of a published checkpoint, whose file does not name it.
        activation: The activation of a published checkpoint; by default PMish if the file holds
            learned activations, otherwise ReLU.
        state_key: The names that lead to the generator in a file of another project, joined by
            dots, as in `state_dict.generator`, or positions in a list, as in `nets.0`; by default
            it is found. A native file needs none.

    Returns:
        The content of the file, with float32 weights on the CPU. In a file of another project,
        `provenance["weights"]` says in words which part of it was taken.

    Raises:
        CheckpointError: The file is missing, empty or damaged, holds objects that could run code,
            has weights that are not finite, or has nothing at `state_key`; or more than one part
            of it may be the generator.
    """
    path = local_file(path)
    content, metadata = load_file(path)
    if metadata.get("format") == FORMAT:
        content = _described(content, metadata, path)
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        checkpoint = _native(content, path)
    elif isinstance(content := by_position(content), Mapping):
        checkpoint = _foreign(content, path, genotype, activation, state_key)
    else:
        raise CheckpointError(f"{path}: not a checkpoint but a {described(content)}")
    check_finite(checkpoint.generator, path)
    check_finite(checkpoint.discriminator or {}, path)
    return checkpoint


def _described(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path
) -> dict[str, Any]:
    """The content of a native safetensors file."""
    parts = {
        part: {
            name.removeprefix(f"{part}."): t
            for name, t in tensors.items()
            if name.startswith(f"{part}.")
        }
        for part in ("generator", "discriminator")
    }
    try:
        described = dict(parse_json(metadata["description"], "description", finite=False))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description is missing or damaged") from error
    return {
        "format": FORMAT,
        **described,
        "generator": parts["generator"],
        "discriminator": parts["discriminator"] or None,
    }


def _native(content: Mapping[str, Any], path: Path) -> Checkpoint:
    missing = [name for name in _FIELDS if name not in content]
    if missing:
        raise CheckpointError(f"{path}: incomplete checkpoint, {', '.join(missing)} missing")
    for name in _FIELDS:
        optional = name.startswith("discriminator")
        if not isinstance(content[name], Mapping) and not (optional and content[name] is None):
            found = type(content[name]).__name__
            raise CheckpointError(f"{path}: {name} should be a dict, found {found}; train it again")
    _check_described(content, path)
    discriminator = content["discriminator"]
    return Checkpoint(
        generator=_as_floats(content["generator"], path),
        discriminator=None if discriminator is None else _as_floats(discriminator, path),
        **{name: content[name] for name in _DESCRIPTIVE},
    )


def _check_described(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a description with a value that no file of ours has."""
    for name, layers in content["structure"].items():
        if not isinstance(name, str) or not isinstance(layers, list | tuple):
            raise CheckpointError(f"{path}: structure {name!r} is not a list of plain layers")
    provenance = content["provenance"]
    for name in ("dataset", "loss", "fit", "background"):
        if not isinstance(provenance.get(name, ""), str | None):
            raise CheckpointError(f"{path}: provenance {name} is {provenance[name]!r}, not a text")
    resolution = provenance.get("resolution", 1)
    if resolution is not None and (type(resolution) is not int or resolution < 1):
        raise CheckpointError(f"{path}: provenance resolution is {resolution!r}, not a width")


def _as_floats(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, with every floating-point type as float32."""
    if not state or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items()):
        raise CheckpointError(
            f"{path}: neither a checkpoint of this project nor a state dict of tensors"
        )
    return {name: _as_float(name, t, path) for name, t in state.items()}


def _as_float(name: str, tensor: Tensor, path: Path) -> Tensor:
    if tensor.is_meta:
        raise CheckpointError(f"{path}: {name} has a shape and no values; save it from the CPU")
    if tensor.is_complex():
        raise CheckpointError(f"{path}: {name} holds complex numbers; weights are real")
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.float() if tensor.is_floating_point() else tensor


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that hold a NaN or an infinity.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise CheckpointError(
                f"{path}: {name} has {bad} NaN or infinite values of {tensor.numel()}; "
                "the training run diverged, use an earlier checkpoint"
            )


def _foreign(
    content: Mapping[Any, Any],
    path: Path,
    genotype: Genotype,
    activation: str | None,
    state_key: str | None,
) -> Checkpoint:
    """A checkpoint of the published MMD-NAS code, or of any other project."""
    try:
        part = find_generator(content, state_key)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error.message} ({path})" if error.setting else f"{path}: {error}",
            setting=error.setting,
        ) from error
    weights = _as_floats(part.state, path)
    if not weights.keys() >= {"l1.weight", "to_rgb.0.weight", "to_rgb.2.weight"}:
        taken = {"source": path.name, "weights": part.description}
        return Checkpoint({"kind": EXTERNAL_KIND}, weights, provenance=taken)
    learned = any(name.endswith("activation_fn.beta") for name in weights)
    weights = {name.replace(".activation_fn.", "."): t for name, t in weights.items()}
    try:
        config = _infer_config(weights, genotype, activation or ("pmish" if learned else "relu"))
    except (ValueError, LookupError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path}: its layers have the names of the published net, but their shapes are not "
            f"those of that net ({error})"
        ) from error
    if config.latent_parts == 2:
        # One version of the published code built a third input layer that it never used.
        weights = {name: t for name, t in weights.items() if not name.startswith("l3.")}
    weights = {name: t.reshape(1) if name.endswith(".beta") else t for name, t in weights.items()}
    provenance = {"source": path.name, "averaged": part.averaged}
    for name in ("epoch", "best_fid"):
        value = content.get(name)
        value = value.item() if isinstance(value, np.generic) else value
        if is_number(value):
            provenance[name] = float(value)  # type: ignore[arg-type]
    return Checkpoint({"kind": MMD_NAS_KIND, **config.to_dict()}, weights, provenance=provenance)


def _infer_config(
    weights: Mapping[str, Tensor], genotype: Genotype, activation: str
) -> GeneratorConfig:
    channels = weights["to_rgb.0.weight"].numel()
    features, part = weights["l1.weight"].shape
    # Latents have 120 values; a third of that is the three-way split of the CIFAR-10 net.
    parts = (
        3 if "l3.weight" in weights and weights["l3.weight"].shape[1] == part and part != 60 else 2
    )
    return GeneratorConfig(
        genotype=genotype,
        bottom_width=math.isqrt(features // channels),
        latent_dim=part * parts,
        latent_parts=parts,
        gf_dim=channels,
        activation=activation,
        image_channels=weights["to_rgb.2.weight"].shape[0],
        n_classes=0,
    )


def build_generator(
    checkpoint: Checkpoint, build: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """Build the generator of a checkpoint, dense or compressed, and load its weights.

    Args:
        checkpoint: What `load_checkpoint` returned.
        build: Makes the bare network of a checkpoint whose architecture is external.

    Returns:
        The generator in evaluation mode on the CPU. The families of this package have
        `latent_dim`, `image_shape`, `(c, h, w)`, and `n_classes`, which is 0 unless the generator
        is conditional.

    Raises:
        CheckpointError: The architecture is not known, or the weights do not fit it.
    """
    kind = checkpoint.architecture.get("kind")
    if build is not None:
        generator = build()
    elif kind not in (None, EXTERNAL_KIND):
        try:
            with limited(_allowed(checkpoint.generator)):
                generator = build_model(checkpoint.architecture)
        except InvalidValueError as error:
            raise CheckpointError(
                f"the checkpoint's architecture cannot be built: {error}"
            ) from error
    else:
        raise CheckpointError(
            "must say how to build the network, as package.module:build; the file is a state dict "
            "without an architecture",
            setting="model",
        )
    form = checkpoint.architecture.get("normal_form")
    if form is not None:
        normal_form_(generator, NormalForm.from_dict(form))
    if checkpoint.structure:
        # Every one of its weights is in the file.
        stored = sum(tensor.numel() for tensor in checkpoint.generator.values())
        generator = apply_structure(generator, checkpoint.structure, stored + _SLACK)
    load_weights(generator, checkpoint.generator)
    return generator.eval()


def _allowed(weights: Mapping[str, Tensor]) -> int:
    """How many parameters the network of these weights may have before it is compressed."""
    return max(_SMALL, _COMPRESSED * sum(tensor.numel() for tensor in weights.values()))


def build_saved_discriminator(checkpoint: Checkpoint) -> nn.Module | None:
    """The discriminator with which the generator was trained, or None if the file has none.

    Args:
        checkpoint: What `load_checkpoint` returned. A configuration without a `kind` is that of
            the published network.

    Returns:
        The discriminator in evaluation mode on the CPU, or None if the checkpoint has none.

    Raises:
        CheckpointError: The configuration is not known, or the weights do not fit it.
    """
    if checkpoint.discriminator is None or checkpoint.discriminator_config is None:
        return None
    try:
        with limited(_allowed(checkpoint.discriminator)):
            discriminator = build_model(
                {"kind": MMD_NAS_KIND, **checkpoint.discriminator_config}, "discriminator"
            )
    except InvalidValueError as error:
        raise CheckpointError(f"the checkpoint's discriminator cannot be built: {error}") from error
    load_weights(discriminator, checkpoint.discriminator)
    return discriminator.eval()
