"""What `nas_gan` raises on bad input. Command lines print these as one line and exit with 1."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class NasGanError(Exception):
    """Base of every error that `nas_gan` raises on purpose.

    Args:
        message: what was asked for, what was found, and what to do about it.
        setting: the argument or the field of a configuration that the message is about. The text
            then begins with its name, and a command line shows it as the option that sets it.
    """

    def __init__(self, message: str = "", *, setting: str | None = None) -> None:
        super().__init__(message)
        self.message, self.setting = message, setting

    def __str__(self) -> str:
        return self.message if self.setting is None else f"{self.setting} {self.message}"


class InvalidValueError(NasGanError, ValueError):
    """An argument, a configuration key or a loss input has a value that cannot be used."""


class UsageError(NasGanError):
    """Options that do not go together; a command line exits with 2, as for a wrong option."""


class CheckpointError(NasGanError, ValueError):
    """A file is not a checkpoint, or does not fit the network that it should fill."""


class MissingDataError(NasGanError, FileNotFoundError):
    """A data set, reference statistics or pretrained weights are not where they were looked for."""


class DivergedError(NasGanError, ArithmeticError):
    """Training or sampling produced a NaN or an infinity."""


def unknown_name(what: str, name: object, choices: Iterable[str]) -> InvalidValueError:
    """The error for a name that is not among `choices`; it offers the nearest one."""
    choices = list(choices)
    near = get_close_matches(str(name), choices, n=1)
    offer = f"did you mean {near[0]}? " if near else ""
    return InvalidValueError(
        f"{what} {name!r} is not known; {offer}choose one of {', '.join(choices)}"
    )
