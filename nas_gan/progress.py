"""How libraries tell of progress, whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# Given a description and a total, a context in which to say how many more are done.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def no_progress(description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Shows nothing."""
    return nullcontext(lambda n: None)
