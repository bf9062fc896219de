"""Files of tensors: reading them without running code, by what they are and not by their suffix."""

from __future__ import annotations

import argparse
import io
import pathlib
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_gan.errors import CheckpointError, MissingDataError, UnreadableError, named
from nas_gan.files import atomic_path
from nas_gan.reading import open_file, plain_name, read_json
from nas_gan.weights.file_kinds import (
    holds_classes,
    is_json,
    is_safetensors,
    other_kind,
    why_refused,
)
from nas_gan.weights.integrity import DIGEST, check_archive, check_content, check_digest, digest_of

_dtypes = [np.dtype(code) for code in "?bhilqBHILQefd"]
# numpy 1 and 2 pickle them by different names of one function, which a value returns itself.
_scalar = np.float64(0).__reduce__()[0]
_array = np.zeros(1).__reduce__()[0]
# What lies beside the weights in files of many projects: scores and states of random numbers as
# numpy values, options, paths. These classes only hold values; none acts when it is filled.
_HARMLESS: list[Any] = [
    np.dtype,
    np.ndarray,
    *{dtype.type for dtype in _dtypes},
    *{type(dtype) for dtype in _dtypes},
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    argparse.Namespace,
    *((pathlib.PurePosixPath, f"pathlib.{name}PosixPath") for name in ("", "Pure", "_local.")),
    *((pathlib.PureWindowsPath, f"pathlib.{name}WindowsPath") for name in ("", "Pure", "_local.")),
]
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
    MemoryError,
    RecursionError,
    OSError,
    NotImplementedError,
    struct.error,
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_REFUSED = ("unsupported global", "unsupported class", "unrecognized function", "allowlisted")


def save_torch(content: Mapping[str, Any], path: Path) -> None:
    """Write a file for `torch.load` atomically, with a digest of its content."""
    content = {**content, DIGEST: digest_of(content)}
    # Through memory: if the disk becomes full, torch raises a RuntimeError about offsets, while our
    # own write raises the OSError that says "no space left".
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_torch(path: Path) -> Any:
    """Read what `save_torch` or `torch.save` wrote, on the CPU, without running code of the file.

    Content of `save_torch` is compared with its digest.

    Raises:
        CheckpointError: the file is damaged or of another kind, holds more than plain values
            and tensors, or declares far larger tensors than it has bytes.
    """
    _check_regular(path)
    check_archive(path)
    content = _load_torch(path)
    check_content(content, path)
    if isinstance(content, dict) and DIGEST in content:
        stated = content.pop(DIGEST)
        check_digest(content, stated, path)
    return content


def _check_regular(path: Path) -> None:
    """Refuse a pipe or a device, which may have no end, before it is opened."""
    try:
        open_file(path).close()
    except (UnreadableError, MissingDataError) as error:
        raise CheckpointError(str(error)) from error


def _load_torch(path: Path) -> Any:
    if kind := other_kind(path):
        raise CheckpointError(f"{path}: it is {kind}")
    with path.open("rb") as opened:
        head = opened.read(2)
    # Anything else torch would take for a tar archive, and unpack.
    if head != b"PK" and head[:1] != b"\x80":
        raise CheckpointError(
            f"{path}: it is damaged or not a PyTorch file; save a state dict of plain tensors"
        )
    try:
        # An open file, because torch refuses what it wrote itself under the suffix .safetensors.
        with (
            path.open("rb") as file,
            torch.serialization.safe_globals(_HARMLESS),
            warnings.catch_warnings(),
        ):
            for message in ("Detected pickle protocol", "Validating sparse", "TypedStorage is"):
                warnings.filterwarnings("ignore", message=message)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_why_unreadable(path, str(error).lower())}") from error
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: damaged or cut short; copy or train it again") from error


def _why_unreadable(path: Path, message: str) -> str:
    """What is wrong with a pickle that torch refused with `message`, and what to do."""
    other_protocol = "unsupported operand" in message
    if any(words in message for words in _REFUSED) or (other_protocol and holds_classes(path)):
        return why_refused(path)
    if other_protocol and _begins_as_torch(path):
        return (
            "its pickle protocol cannot be read without running code, or it is damaged; save it "
            "again with torch.save and no pickle_protocol"
        )
    return "it is damaged or not a PyTorch file; save a state dict of plain tensors"


def load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata.

    Raises:
        CheckpointError: the file is damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    _check_regular(path)
    if kind := other_kind(path):
        raise CheckpointError(f"{path}: it is {kind}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, *_DAMAGED) as error:
        raise CheckpointError(
            f"{path}: damaged or not a safetensors file; copy it again"
        ) from error
    check_content(tensors, path)
    if DIGEST in metadata:
        stated = metadata.pop(DIGEST)
        check_digest([tensors, metadata], stated, path)
    return tensors, metadata


def safetensors_metadata(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> dict[str, str]:
    """The metadata of a safetensors file, with the digest of its content."""
    return {**metadata, DIGEST: digest_of([tensors, metadata])}


def load_file(path: Path) -> tuple[Any, dict[str, str]]:
    """The content of a file of tensors of any kind, and the metadata of a safetensors file.

    Args:
        path: what torch or safetensors wrote, under any suffix, or the index of a model whose
            tensors are in several files beside it.

    Raises:
        CheckpointError: the file is missing, empty, damaged or of another kind, or holds objects
            that could run code.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; give the path of a .pt or .safetensors file")
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; {_offer(path)}")
    _check_regular(path)
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or train it again")
    if is_safetensors(path):
        return load_safetensors(path)
    if is_json(path):
        return _load_shards(path), {}
    is_torch = _begins_as_torch(path)
    if path.suffix == ".safetensors" and not is_torch:
        return load_safetensors(path)
    return load_torch(path), {}


def _offer(folder: Path) -> str:
    suffixes = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors")
    names = sorted(file.name for file in folder.iterdir() if file.suffix in suffixes)
    indices = sorted(file.name for file in folder.glob("*.index.json"))
    names = [*indices, *(name for name in names if not (indices and _SHARD.search(name)))]
    if not names:
        return "give the path of a .pt or .safetensors file"
    return f"give the path of one of its files: {named(names)}"


def _begins_as_torch(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x04")


def _load_shards(index: Path) -> dict[str, Any]:
    """The tensors of all files that an index names."""
    try:
        names = read_json(index)["weight_map"]
        files = sorted(set(names.values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: it is JSON, and not the index of a model in several files; give the file "
            "of the weights"
        ) from error
    merged: dict[str, Any] = {}
    for name in files:
        try:
            plain_name(name, str(index))
        except UnreadableError as error:
            raise CheckpointError(str(error)) from error
        file = index.with_name(name)
        if file.is_file() and is_json(file):
            raise CheckpointError(
                f"{index}: {name!r} is not the name of a file beside it with tensors"
            )
        content, _ = load_file(file)
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{index}: {name} holds no tensors by name")
        merged |= content
    return merged
