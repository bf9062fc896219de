"""Processes that this one starts, and that never outlive it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nas_gan.interrupts import PARENT, held_back

# What a command gets to save its state, as from most schedulers.
GRACE_S = 20.0


@contextmanager
def child_process(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """A process that is ended if the block fails, as by an interrupt.

    It gets SIGTERM first, and SIGKILL if it takes too long. One of our own commands also ends when
    this process is killed, on Linux.

    Args:
        command: the program and its arguments.
        env: its environment; by default that of this process.
        options: those of `subprocess.Popen`.
    """
    env = {**(os.environ if env is None else env), PARENT: str(os.getpid())}
    process = None
    try:
        with held_back():  # or an interrupt could come before the process has a name here
            process = subprocess.Popen(command, env=env, **options)
        yield process
        process.wait()
    except BaseException:
        if process is not None:
            _end(process)
        raise
    finally:
        for stream in (process and (process.stdin, process.stdout, process.stderr)) or ():
            if stream is not None:
                stream.close()


def run_child(
    command: Sequence[str], *, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a child process to its end, as `subprocess.run` does.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds, and was ended.
    """
    with child_process(command, **options) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_S)
    except BaseException as error:  # too slow, or the user cannot wait
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
