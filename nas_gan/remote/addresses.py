"""Addresses such as `s3://bucket/run`: which paths are one, and the file system behind it.

A command line makes a `Path` of what it is given, which turns `s3://bucket/run` into
`s3:/bucket/run`; both are the same address here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_gan.errors import NasGanError, RemoteError

_ADDRESS = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/+(?P<rest>.*)", re.DOTALL)
# Their addresses hold no host, and the path begins at the root.
_LOCAL = ("file", "local")


@dataclass(frozen=True)
class Place:
    """A file or a folder on a file system of fsspec.

    Attributes:
        address: as people write it.
        files: the file system.
        path: its path there.
    """

    address: str
    files: Any
    path: str


def is_remote(path: Path) -> bool:
    """Whether a path is an address; a file or folder of that name here comes first."""
    found = _ADDRESS.fullmatch(str(path))
    return found is not None and not Path(f"{found['protocol']}:").exists()


def address_of(path: Path) -> str:
    """An address as people write it, and any other path as it is.

    >>> address_of(Path("s3://bucket/run")), address_of(Path("file:///tmp/run"))
    ('s3://bucket/run', 'file:///tmp/run')
    """
    if not is_remote(path):
        return str(path)
    found = _ADDRESS.fullmatch(str(path))
    assert found is not None
    slashes = "///" if found["protocol"] in _LOCAL else "//"
    return f"{found['protocol']}:{slashes}{found['rest'].rstrip('/')}"


def open_place(path: Path) -> Place:
    """The file system of an address.

    Raises:
        RemoteError: the protocol is not known, its driver is not installed, or it cannot be used.
    """
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    address = address_of(path)
    protocol = address.partition(":")[0]
    if protocol not in known_implementations:
        raise RemoteError(
            f"{address}: the protocol {protocol} is not known; use s3, gs or another of fsspec's"
        )
    driver = known_implementations[protocol]["class"].partition(".")[0]
    try:
        with translated(address):
            files, inside = url_to_fs(address)
    except ImportError as error:
        hint = f"pip install {driver}" if driver != "fsspec" else " ".join(str(error).split())
        raise RemoteError(
            f"{address}: the driver of {protocol} is not installed; {hint}"
        ) from error
    return Place(address, files, str(inside))


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Whatever a driver raises becomes one line that begins with the address."""
    try:
        yield
    except (NasGanError, ImportError):
        raise
    except FileNotFoundError as error:
        raise RemoteError(f"{address}: no such file or folder") from error
    except Exception as error:  # every driver has errors of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise RemoteError(f"{address}: {reason} ({type(error).__name__})") from error
