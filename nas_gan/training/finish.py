"""Telling somebody that a run has ended: a command, or a web address."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas_gan.errors import CollapsedError, DivergedError, InvalidValueError
from nas_gan.interrupts import Terminated
from nas_gan.remote.addresses import address_of, is_remote

# What either gets before the run ends without it.
LIMIT_S = 20.0


def check_on_finish(target: str | None) -> None:
    """Raise InvalidValueError unless it is a web address or the line of a command."""
    if target is None or _is_address(target):
        return
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise InvalidValueError(f"is no command ({error})", setting="on_finish") from error
    if not words:
        raise InvalidValueError(
            "must be a command or an address that begins with https://", setting="on_finish"
        )


@contextmanager
def telling(target: str | None, run_dir: Path) -> Iterator[None]:
    """Tell `target`, if there is one, how the block has ended; its error is raised again."""
    status, reason = "failed", ""
    try:
        yield
        status = "finished"
    except BaseException as error:
        reason = str(error) or type(error).__name__
        status = how_it_ended(error)
        raise
    finally:
        # Of the processes that torchrun starts, the first one speaks for all.
        if target is not None and os.environ.get("RANK", "0") == "0":
            tell(target, status=status, run_dir=run_dir, reason=reason)


def how_it_ended(error: BaseException) -> str:
    """The status of a run that ended with an error: collapsed, diverged, interrupted, ..."""
    kinds = {
        CollapsedError: "collapsed",
        DivergedError: "diverged",
        Terminated: "terminated",
        KeyboardInterrupt: "interrupted",
    }
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), "failed")


def tell(target: str, *, status: str, run_dir: Path, reason: str, limit: float = LIMIT_S) -> None:
    """Run the command, or post to the address; what goes wrong is one line on stderr.

    A command is a list of words, not a line of a shell, and finds `NAS_GAN_STATUS`,
    `NAS_GAN_RUN_DIR` and `NAS_GAN_REASON` in its environment; `{status}`, `{run_dir}` and
    `{reason}` in its words are replaced. An address gets the three as JSON.

    Args:
        target: the command or the address.
        status: how the run ended: finished, collapsed, diverged, interrupted, terminated, failed.
        run_dir: its directory, or the address of it.
        reason: why, in words; empty if it finished.
        limit: seconds after which it is given up.
    """
    told = {"status": status, "run_dir": _whole(run_dir), "reason": reason}
    try:
        if _is_address(target):
            request = urllib.request.Request(  # noqa: S310 - begins with http, as was checked
                target,
                data=json.dumps(told).encode(),
                headers={"Content-Type": "application/json"},
            )
            urllib.request.urlopen(request, timeout=limit).close()  # noqa: S310
            return
        words = [_filled(word, told) for word in shlex.split(target)]
        env = {**os.environ, **{f"NAS_GAN_{name.upper()}": text for name, text in told.items()}}
        done = subprocess.run(
            words, env=env, timeout=limit, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            _warn(f"{words[0]} ended with {done.returncode}")
    except subprocess.TimeoutExpired:
        _warn(f"took over {limit:g} s and was ended")
    except (OSError, ValueError) as error:
        _warn(" ".join(str(error).split()))


def _filled(word: str, told: dict[str, str]) -> str:
    for name, text in told.items():
        word = word.replace(f"{{{name}}}", text)
    return word


def _whole(run_dir: Path) -> str:
    return address_of(run_dir) if is_remote(run_dir) else str(run_dir.absolute())


def _is_address(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def _warn(what: str) -> None:
    sys.stderr.write(f"--on-finish: {what}\n")
