"""Ctrl-C and SIGTERM, which mean the same: save what there is, say one line, and end.

`python -m ard.compress` imports the package `ard`, then everything at the head of the command, and
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
    if before:
        _signals.forget()
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


@contextmanager
def held_back() -> Iterator[None]:
    """An interrupt inside is raised at the end, so that what is inside happens whole.

    Whoever presses Ctrl-C twice does not want to wait: the second one is raised at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _signals.held += 1
    try:
        yield
    finally:
        _signals.held -= 1
        _raise_kept()


@contextmanager
def let_through() -> Iterator[None]:
    """Inside a block that holds interrupts back, let them through after all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _signals.held = _signals.held, 0
    try:
        _raise_kept()
        yield
    finally:
        _signals.held = before


class _Signals:
    """What has arrived and is not raised yet, and when SIGTERM was raised last."""

    def __init__(self) -> None:
        self.held = 0
        self.forget()

    def forget(self) -> None:
        """Start anew, as for the next command in this process."""
        self.process = os.getpid()
        self.kept: int | None = None
        self.terminated_at = -float("inf")
        self.process = os.getpid()


_signals = _Signals()
# GNU timeout sends SIGTERM twice, to the process and to its group.
_SAME_S = 1.0


def _raise(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _signals.process:  # a forked worker, which its owner ends
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if _signals.held and not (number == signal.SIGINT == _signals.kept):
        _signals.kept = number
        return
    _raise_now(number)


def _raise_kept() -> None:
    if _signals.kept is not None and not _signals.held:
        number, _signals.kept = _signals.kept, None
        _raise_now(number)


def _raise_now(number: int) -> None:
    _signals.kept = None
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if not _is_recent():
        _signals.terminated_at = time.monotonic()
        raise Terminated


def _is_recent() -> bool:
    return time.monotonic() - _signals.terminated_at <= _SAME_S


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
    module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")  # -m ard.compress, or -mard.compress
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
