"""Ctrl-C and SIGTERM, which mean the same: save what there is, say one line, and end.

`python -m edge_bench` imports the package, then everything at the head of the command, and
only then calls what catches an interrupt. The package therefore sees to the time in between.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# 128 + the number of the signal, as a shell says it.
INTERRUPTED, TERMINATED = 130, 143
# The environment variable by which one of our commands tells another who started it.
PARENT = "ARD_GAN_PARENT"
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
_ENDINGS = {signal.SIGINT: ("interrupted", INTERRUPTED), signal.SIGTERM: ("terminated", TERMINATED)}
_PR_SET_PDEATHSIG = 1


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which schedulers, spot machines and `docker stop` say what Ctrl-C says."""


def end_quietly_on_interrupt(package: str) -> None:
    """From now on Ctrl-C and SIGTERM end a command of this package with one line.

    Nothing happens if a host program imports the package, or if they are ignored, as Ctrl-C is
    behind nohup. A command that another of our commands has started ends with it, however that
    one ends.
    """
    if not _is_command_of(package):
        return
    for number, default in _DEFAULTS.items():
        if signal.getsignal(number) == default:
            signal.signal(number, _end)
    _end_with_parent()


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt and SIGTERM raises Terminated.

    Signals that are ignored, or that a host program handles, are left alone.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number, default in _DEFAULTS.items():
            if signal.getsignal(number) in (default, _end, _end_late):
                before[number] = default
                signal.signal(number, _raise)
    try:
        yield
    finally:
        late = signal.SIGTERM in before and _is_recent()
        for number, default in before.items():
            signal.signal(number, _end_late if late and number == signal.SIGTERM else default)
        if late:
            atexit.register(_pass_over)


def interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that an error comes from, if any.

    A module in native code that is interrupted while it is imported says that it cannot be.
    """
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None or isinstance(seen, KeyboardInterrupt):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


_terminated_at = -float("inf")
# GNU timeout sends SIGTERM twice, to the process and to its group.
_SAME_S = 1.0


def _raise(number: int, frame: FrameType | None) -> None:
    global _terminated_at
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if not _is_recent():
        _terminated_at = time.monotonic()
        raise Terminated


def _is_recent() -> bool:
    return time.monotonic() - _terminated_at <= _SAME_S


def _end_late(number: int, frame: FrameType | None) -> None:
    """Let the second SIGTERM pass while a command ends because of the first."""
    if not _is_recent():
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _pass_over() -> None:
    """As the interpreter ends, it gives signals back to the system, which kills."""
    if signal.getsignal(signal.SIGTERM) == _end_late:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _is_command_of(package: str) -> bool:
    """Whether `python -m package...` is just looking for its module: then `-m` stands for it."""
    if sys.argv[:1] != ["-m"]:
        return False
    module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")  # -m edge_bench, or -medge_bench
    return module.partition(".")[0] == package


def _end(number: int, frame: FrameType | None) -> None:
    # An exception would end up as a traceback of whatever is being imported, or be swallowed by it.
    word, code = _ENDINGS[signal.Signals(number)]
    with contextlib.suppress(OSError):
        os.write(2, f"{word}: nothing was done yet; run the same command again\n".encode())
    os._exit(code)


def _end_with_parent() -> None:
    """Let the kernel end this process when the command that started it ends, even by SIGKILL."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if str(os.getppid()) != parent:  # it has ended already
        os._exit(TERMINATED)
