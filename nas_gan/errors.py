"""The errors that `nas_gan` raises on bad input; a command prints one line and exits with 1."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_BREAKS = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")


class NasGanError(Exception):
    """Base class of every error that `nas_gan` raises on purpose.

    Args:
        message: What was asked for, what was found, and what to do about it.
        setting: Name of the argument or configuration field that the message is about. The text
            of the error then begins with this name, and a command shows it as its option.
    """

    def __init__(self, message: str = "", *, setting: str | None = None) -> None:
        # What is quoted from a file may hold line breaks, and an error is one line.
        message = _BREAKS.sub(lambda found: repr(found[0])[1:-1], message)
        super().__init__(message)
        self.message, self.setting = message, setting

    def __str__(self) -> str:
        return self.message if self.setting is None else f"{self.setting} {self.message}"


class InvalidValueError(NasGanError, ValueError):
    """An argument, a configuration field or an input has a value that cannot be used."""


class UnreadableError(InvalidValueError):
    """A file holds something else than it should, or more than is ever read of such a file."""


class UsageError(NasGanError):
    """Options contradict each other; a command exits with 2, as it does for a wrong option."""


class CheckpointError(NasGanError, ValueError):
    """A file is not a checkpoint, or its weights do not fit the network."""


class MissingDataError(NasGanError, FileNotFoundError):
    """A data set, reference statistics or pretrained weights cannot be found."""


class RemoteError(NasGanError, OSError):
    """A remote file or folder cannot be reached, read or written."""


class InUseError(NasGanError, RuntimeError):
    """Another process works in a run directory or on a bundle."""


class WorkerError(NasGanError, RuntimeError):
    """Work cannot run on a cluster: Ray is missing, no node has room, or workers keep dying."""


class DivergedError(NasGanError, ArithmeticError):
    """Training or sampling produced a NaN or an infinity."""


class CollapsedError(NasGanError):
    """Training went on without a NaN, and what it trains is no longer any good."""


def named(names: Iterable[str], most: int = 5) -> str:
    """The first `most` names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def unknown_name(what: str, name: object, choices: Iterable[str]) -> InvalidValueError:
    """The error for a name that is not among `choices`; it offers the nearest one."""
    choices = list(choices)
    near = get_close_matches(str(name), choices, n=1)
    offer = f"did you mean {near[0]}? " if near else ""
    return InvalidValueError(
        f"{what} {name!r} is not known; {offer}choose one of {', '.join(choices)}"
    )
