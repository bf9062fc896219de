"""`tensorly` on torch tensors, whichever backend the rest of the program has chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorly as tl


@contextmanager
def torch_backend() -> Iterator[None]:
    """Have `tensorly` take torch tensors within a block, or within a function that this decorates.

    Its own `backend_context` sets the backend of every thread when it ends; this one touches
    nothing but the thread that it runs in.
    """
    previous = tl.get_backend()
    tl.set_backend("pytorch", local_threadsafe=True)
    try:
        yield
    finally:
        tl.set_backend(previous, local_threadsafe=True)
