"""Checkpoints: architecture as data, weights and provenance.

Nothing is unpickled beyond what `torch.load(weights_only=True)` allows, so a checkpoint cannot
run code. Four kinds of file are read: the native `.pt`, the same content as `.safetensors`, the
published MMD-NAS checkpoints, and a bare state dict for a generator that the caller builds.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
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
from nas_gan.networks.interface import GeneratorInterface, interface_of, latent_dim_of
from nas_gan.networks.models import build_model
from nas_gan.networks.searched import GeneratorConfig
from nas_gan.networks.structure import apply_structure
from nas_gan.zoo import local_path

FORMAT = "ard-gan checkpoint 1"
MMD_NAS_KIND = "mmd-nas"
EXTERNAL_KIND = "external"
_DESCRIPTIVE = ("architecture", "discriminator_config", "provenance", "structure")
_FIELDS = ("generator", "discriminator", *_DESCRIPTIVE)
# Published checkpoints hold their best scores as numpy scalars, whose classes only hold numbers.
# numpy 1 and 2 pickle them by different names of one function, which a scalar returns itself.
_numpy_scalar = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    np.dtype,
    np.float64,
    np.float32,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
]


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


def save_torch(content: Mapping[str, Any], path: Path) -> None:
    """Write a file for `torch.load` atomically."""
    # Through memory: if the disk becomes full, torch raises a RuntimeError about offsets, while our
    # own write raises the OSError that says "no space left".
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _save_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    from safetensors.torch import save

    tensors = {f"generator.{name}": tensor for name, tensor in checkpoint.generator.items()}
    for name, tensor in (checkpoint.discriminator or {}).items():
        tensors[f"discriminator.{name}"] = tensor
    described = {name: getattr(checkpoint, name) for name in _DESCRIPTIVE}
    metadata = {"format": FORMAT, "description": json.dumps(described)}
    # The format refuses tensors that share memory, as tied layers do.
    data = save({name: t.contiguous().clone() for name, t in tensors.items()}, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load_checkpoint(
    path: Path, *, genotype: Genotype = MMD_NAS, activation: str | None = None
) -> Checkpoint:
    """Read a checkpoint from a file, or a shipped one by its name.

    A native `.pt` or `.safetensors` file, a checkpoint of the published MMD-NAS code and a bare
    state dict can be read. No code in the file runs.

    Args:
        path: A file, or the name of a shipped checkpoint as in `Path("zoo:fashion_mnist")`.
        genotype: The architecture of a published checkpoint, whose file does not name it.
        activation: The activation of a published checkpoint; by default PMish if the file holds
            learned activations, otherwise ReLU.

    Returns:
        The content of the file, with float32 weights on the CPU.

    Raises:
        CheckpointError: The file is missing, empty or damaged, holds objects that could run code,
            or has weights that are not finite.
    """
    path = local_path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; give the path of a .pt or .safetensors file")
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; give the path of a .pt or .safetensors file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or train it again")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        checkpoint = _native(content, path)
    elif isinstance(content, Mapping):
        checkpoint = _foreign(content, path, genotype, activation)
    else:
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    check_finite(checkpoint.generator, path)
    check_finite(checkpoint.discriminator or {}, path)
    return checkpoint


# What torch.load raises for truncated and corrupted files, besides UnpicklingError.
_DAMAGED = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    AssertionError,
    OverflowError,
    struct.error,
)
_REFUSED = ("unsupported global", "unsupported class", "unrecognized function", "allowlisted")


def load_torch(path: Path) -> Any:
    """Read what `save_torch` or `torch.save` wrote, on the CPU, without running code of the file.

    Raises:
        CheckpointError: the file is damaged, or holds more than plain values and tensors.
    """
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(words in str(error).lower() for words in _REFUSED):
            reason = "it holds Python objects that could run code, and is not loaded"
        else:
            reason = "it is damaged or not a PyTorch file"
        raise CheckpointError(f"{path}: {reason}; save a state dict of plain tensors") from error
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: damaged or cut short; copy or train it again") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: damaged or not a safetensors file; copy it again"
        ) from error
    if metadata.get("format") != FORMAT:
        return tensors
    parts = {
        part: {
            name.removeprefix(f"{part}."): t
            for name, t in tensors.items()
            if name.startswith(f"{part}.")
        }
        for part in ("generator", "discriminator")
    }
    try:
        described = json.loads(metadata["description"])
    except (KeyError, json.JSONDecodeError) as error:
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
    discriminator = content["discriminator"]
    return Checkpoint(
        generator=_as_floats(content["generator"], path),
        discriminator=None if discriminator is None else _as_floats(discriminator, path),
        **{name: content[name] for name in _DESCRIPTIVE},
    )


def _as_floats(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, with every floating-point type as float32."""
    if not state or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items()):
        raise CheckpointError(
            f"{path}: neither a checkpoint of this project nor a state dict of tensors"
        )
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


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
    content: Mapping[str, Any], path: Path, genotype: Genotype, activation: str | None
) -> Checkpoint:
    """A checkpoint of the published MMD-NAS code, or a bare state dict."""
    state: Any = content
    for name in ("avg_gen_state_dict", "gen_state_dict"):
        if isinstance(content.get(name), Mapping):
            state = content[name]
            break
    state = _as_floats(state, path)
    weights = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if not weights.keys() >= {"l1.weight", "to_rgb.0.weight", "to_rgb.2.weight"}:
        return Checkpoint({"kind": EXTERNAL_KIND}, state, provenance={"source": path.name})
    learned = any(name.endswith("activation_fn.beta") for name in weights)
    weights = {name.replace(".activation_fn.", "."): t for name, t in weights.items()}
    try:
        config = _infer_config(weights, genotype, activation or ("pmish" if learned else "relu"))
    except (InvalidValueError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: its layers have the names of the published net, but their shapes are not "
            f"those of that net ({error})"
        ) from error
    if config.latent_parts == 2:
        # One version of the published code built a third input layer that it never used.
        weights = {name: t for name, t in weights.items() if not name.startswith("l3.")}
    weights = {name: t.reshape(1) if name.endswith(".beta") else t for name, t in weights.items()}
    provenance = {"source": path.name, "averaged": "avg_gen_state_dict" in content}
    for name in ("epoch", "best_fid"):
        if name in content and content[name] is not None and np.isscalar(content[name]):
            provenance[name] = float(content[name])
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
    )


def build_generator(
    checkpoint: Checkpoint, build: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """Build the generator of a checkpoint, dense or compressed, and load its weights.

    Args:
        checkpoint: What `load_checkpoint` returned.
        build: Makes the bare network of a checkpoint whose architecture is external.

    Returns:
        The generator in evaluation mode on the CPU. It has `latent_dim`; the families of this
        package also have `image_shape`, `(c, h, w)`, and `n_classes`, which is 0 unless the
        generator is conditional.

    Raises:
        CheckpointError: The architecture is not known, the weights do not fit it, or `build`
            returned a module without `latent_dim`.
    """
    kind = checkpoint.architecture.get("kind")
    if build is not None:
        generator = build()
        try:
            latent_dim_of(generator)
        except InvalidValueError as error:
            raise CheckpointError(f"what was built is not a generator: {error}") from error
    elif kind not in (None, EXTERNAL_KIND):
        try:
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
    if checkpoint.structure:
        generator = apply_structure(generator, checkpoint.structure)
    load_weights(generator, checkpoint.generator)
    return generator.eval()


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights into `module`, in place.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape; the first ones are named.
    """
    expected = module.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is not in the network" for name in state if name not in expected]
    problems += [
        f"{name} is {tuple(state[name].shape)}, the network needs {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError(
            f"the weights do not fit the network: {'; '.join(problems[:3])}{more}"
        )
    module.load_state_dict(dict(state))


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
        discriminator = build_model(
            {"kind": MMD_NAS_KIND, **checkpoint.discriminator_config}, "discriminator"
        )
    except InvalidValueError as error:
        raise CheckpointError(f"the checkpoint's discriminator cannot be built: {error}") from error
    load_weights(discriminator, checkpoint.discriminator)
    return discriminator.eval()
