"""The errors that `edge_bench` raises on bad input; a command prints one line and exits with 1."""

from __future__ import annotations

import re

_BREAKS = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")


class EdgeBenchError(Exception):
    """Base class of every error that `edge_bench` raises on purpose.

    Args:
        message: What was asked for, what was found, and what to do about it.
        setting: Name of the argument that the message is about. The text of the error then begins
            with this name, and a command shows it as its option.
    """

    def __init__(self, message: str = "", *, setting: str | None = None) -> None:
        # What is quoted from a file may hold line breaks, and an error is one line.
        message = _BREAKS.sub(lambda found: repr(found[0])[1:-1], message)
        super().__init__(message)
        self.message, self.setting = message, setting

    def __str__(self) -> str:
        return self.message if self.setting is None else f"{self.setting} {self.message}"


class InvalidValueError(EdgeBenchError, ValueError):
    """An argument has a value that cannot be used."""


class BundleError(EdgeBenchError, ValueError):
    """A path is not a bundle, a model or an engine, or its files are damaged."""


class RunnerError(EdgeBenchError, RuntimeError):
    """A runtime is missing, or refuses the model or its input."""
