"""Using `tensorly` with torch tensors, whatever backend the rest of the program uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorly as tl


@contextmanager
def torch_backend() -> Iterator[None]:
    """A context manager and decorator within which `tensorly` works on torch tensors.

    `tensorly.backend_context` sets the backend of every thread when it ends; this one affects only
    its own thread.
    """
    previous = tl.get_backend()
    tl.set_backend("pytorch", local_threadsafe=True)
    try:
        yield
    finally:
        tl.set_backend(previous, local_threadsafe=True)
