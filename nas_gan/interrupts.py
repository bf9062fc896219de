"""Ctrl-C while a command is still importing, which takes seconds.

`python -m ard.compress` imports the package `ard`, then everything at the head of the command, and
only then calls what catches an interrupt. The package therefore sees to the time in between.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def end_quietly_on_interrupt(package: str) -> None:
    """From now on Ctrl-C ends the process with one line, if it is a command of this package.

    Nothing happens if a host program imports the package, or if interrupts are ignored, as behind
    nohup.
    """
    if _is_command_of(package) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def interrupt_as_usual() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command_of(package: str) -> bool:
    """Whether `python -m package...` is just looking for its module: then `-m` stands for it."""
    if sys.argv[:1] != ["-m"]:
        return False
    module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")  # -m ard.compress, or -mard.compress
    return module.partition(".")[0] == package


def _end(number: int, frame: FrameType | None) -> None:
    # An exception would end up as a traceback of whatever is being imported, or be swallowed by it.
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted: nothing was done yet; run the same command again\n")
    os._exit(INTERRUPTED)
