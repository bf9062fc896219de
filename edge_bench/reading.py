"""Files from outside, read within stated limits; names in them stay in their folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import struct
import tokenize
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edge_bench.errors import BundleError

# Manifests, lists of layers and tables of times are kilobytes.
MAX_TEXT_BYTES = 64 << 20
# How deep lists and tables may lie in each other, and how long a whole number may be.
MAX_DEPTH = 64
MAX_DIGITS = 40
AGAIN = "export the bundle again"

# What numpy raises for the damaged head of an array, some of it from the parser of Python.
_DAMAGED = (
    ValueError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    ArithmeticError,
    MemoryError,
    struct.error,
)


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file; a pipe or a device, which may have no end, is refused unread.

    Raises:
        FileNotFoundError: there is no such file.
        BundleError: it is no file, or must not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{path}: cannot be opened ({reason})") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BundleError(f"{path}: not a regular file; give the path of a file")
    return os.fdopen(handle, "rb")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        FileNotFoundError: there is no such file.
        BundleError: it is too large, no regular file, or no text.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_TEXT_BYTES:
            raise BundleError(f"{path}: {size:,} bytes; at most {MAX_TEXT_BYTES:,} are read")
        content = file.read(MAX_TEXT_BYTES)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: not text in UTF-8 (byte {error.start + 1}); {AGAIN}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file, without a number that is not finite.

    Raises:
        FileNotFoundError: there is no such file.
        BundleError: it is not such a file, or beyond a limit.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except RecursionError:
        raise BundleError(f"{path}: nested more than {MAX_DEPTH} deep; {AGAIN}") from None
    except ValueError as error:
        raise BundleError(f"{path}: not JSON ({error}); {AGAIN}") from None
    if not isinstance(value, dict):
        raise BundleError(f"{path}: a JSON object is expected; {AGAIN}")
    _check_plain(value, path)
    return value


def _check_plain(value: Any, path: Path) -> None:
    level: list[tuple[Any, Any]] = [("", value)]
    for _ in range(MAX_DEPTH):
        inner: list[tuple[Any, Any]] = []
        for key, item in level:
            if isinstance(item, dict):
                inner += item.items()
            elif isinstance(item, list):
                inner += [(key, each) for each in item]
            elif type(item) is int and abs(item) >= 10**MAX_DIGITS:
                raise BundleError(f"{path}: {key}: over {MAX_DIGITS} digits in a number; {AGAIN}")
            elif isinstance(item, float) and not math.isfinite(item):
                raise BundleError(f"{path}: {key}: {item} is not a finite number; {AGAIN}")
        if not inner:
            return
        level = inner
    raise BundleError(f"{path}: nested more than {MAX_DEPTH} deep; {AGAIN}")


def read_npy(path: Path) -> NDArray[Any]:
    """The array in an `.npy` file, which must be as large as it declares.

    Raises:
        BundleError: it is not such a file, or holds objects.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version} of the format is not read")
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(file)
            whole = all(type(n) is int and n >= 0 for n in shape)
            declared = math.prod(shape) * dtype.itemsize
            if not whole or dtype.hasobject or declared != size - file.tell() or not declared:
                raise ValueError(f"an array {shape} of {dtype} in {size:,} bytes")
            file.seek(0)
            found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return found
    except BundleError:
        raise
    except (*_DAMAGED, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: not an .npy file ({reason}); {AGAIN}") from None


def inside(folder: Path, name: object, source: Path) -> Path:
    """`folder / name`, which `source` names; it must not reach into other folders.

    Raises:
        BundleError: the name is not that of a file of the folder, or a link leads out of it.
    """
    good = (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
        and len(name.encode("utf-8", "surrogateescape")) <= 255
    )
    if not good:
        raise BundleError(f"{source}: {str(name)[:60]!r} is not a name inside the bundle; {AGAIN}")
    path = folder / str(name)
    if _leads_out(path, folder):
        raise BundleError(f"{path}: a link that leads out of the bundle; copy the file instead")
    return path


def _leads_out(path: Path, folder: Path) -> bool:
    try:
        return path.is_symlink() and folder.resolve() not in path.resolve().parents
    except (OSError, RuntimeError):  # a link to itself
        return True


def sha256(path: Path) -> str:
    """Hex digest of a file's content.

    Raises:
        FileNotFoundError: there is no such file.
        BundleError: it is no regular file.
    """
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file that must be there and hold something.

    Raises:
        BundleError: it is missing, empty or no regular file.
    """
    try:
        with open_file(path) as file:
            empty = not os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file; copy or export the bundle again") from None
    if empty:
        raise BundleError(f"{path}: the file is empty; copy or export the bundle again")
    return sha256(path)
