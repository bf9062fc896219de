"""Whether the content of a file of tensors is what was written, and no larger than its bytes."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_gan.errors import CheckpointError
from nas_gan.weights.file_kinds import is_zip

# The key under which a file keeps the digest of everything else in it.
DIGEST = "content_sha256"
# What the tensors of a file may hold beyond 8 times its bytes: layers that share a weight count
# each, half precision doubles, and a few values may be repeated without being stored.
MAX_DECLARED_BYTES = 256 << 20
MAX_SHARING = 8
# Entries in the tables and lists of a file, those of an optimizer included.
MAX_ENTRIES = 1_000_000
MAX_NESTING = 64


def digest_of(content: Any) -> str:
    """SHA-256 over names, types, shapes and values of everything in tables and lists.

    The order of a table does not count.
    """
    digest = hashlib.sha256()
    _update(digest, content)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor) and value.is_meta:
        digest.update(f"no values {value.dtype} {tuple(value.shape)};".encode())
    elif isinstance(value, Tensor):
        plain = value.detach().cpu()
        plain = plain.dequantize() if plain.is_quantized else plain
        plain = plain.to_dense() if plain.layout is not torch.strided else plain
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}:".encode())
        digest.update(plain.contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        digest.update(f"array {array.dtype} {array.shape}:".encode() + array.tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"table {len(value)}:".encode())
        for key in sorted(value, key=lambda key: (type(key).__name__, repr(key))):
            digest.update(f"{key!r}:".encode(errors="surrogatepass"))
            _update(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}:".encode())
        for item in value:
            _update(digest, item)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        digest.update(f"{value!r};".encode(errors="surrogatepass"))
    else:  # what is written of it is not the same in every version of Python
        digest.update(f"{type(value).__name__};".encode())


def check_archive(path: Path) -> None:
    """Refuse an archive whose entries unpack to more than it holds.

    Raises:
        CheckpointError: they do; torch packs nothing.
    """
    if not is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch says what is wrong with it
    _check_declared(declared, path.stat().st_size, path)


def check_content(content: Any, path: Path) -> None:
    """Refuse content that would take far more memory than the file has bytes.

    Nothing is allocated: a tensor may declare any shape over a single stored value.

    Raises:
        CheckpointError: its tensors declare more than `MAX_DECLARED_BYTES` and `MAX_SHARING` times
            the bytes of the file, or it has more than `MAX_ENTRIES` entries.
    """
    declared = entries = 0
    size = path.stat().st_size
    level = [content]
    for _ in range(MAX_NESTING):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Tensor):
                declared += 0 if value.is_meta else value.numel() * value.element_size()
                _check_declared(declared, size, path)
            elif isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, list | tuple | set | frozenset):
                inner += value
            entries += 1
            if entries + len(inner) > MAX_ENTRIES:
                raise CheckpointError(
                    f"{path}: more than {MAX_ENTRIES:,} entries; save the weights alone"
                )
        if not inner:
            return
        level = inner
    raise CheckpointError(f"{path}: tables lie in each other more than {MAX_NESTING} deep")


def _check_declared(declared: int, size: int, path: Path) -> None:
    if declared > max(MAX_DECLARED_BYTES, MAX_SHARING * size):
        raise CheckpointError(
            f"{path}: its tensors declare {declared:,} bytes and the file has {size:,}; at most "
            f"{MAX_SHARING} times as many are read"
        )


def check_digest(content: Any, stated: object, path: Path) -> None:
    """Compare content with the digest that was written with it.

    Raises:
        CheckpointError: they differ.
    """
    if digest_of(content) != stated:
        raise CheckpointError(
            f"{path}: its content is not what was written, because a copy or the disk is damaged; "
            "copy or train it again"
        )
