"""The skin of every command line: parse, call, one line for an error, an exit code."""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO, TypeVar

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nas_gan.errors import NasGanError, UsageError
from nas_gan.interrupts import INTERRUPTED as INTERRUPTED
from nas_gan.interrupts import TERMINATED as TERMINATED
from nas_gan.interrupts import Terminated, interrupt_behind, interruptible
from nas_gan.options import check_addresses, flattened, nested_type, option_name

Config = TypeVar("Config")

DONE, ERROR, USAGE, BUDGET_MISSED = 0, 1, 2, 3
# How far back the remaining time of a progress bar looks: longer than any run.
LOOK_BACK_S = 30 * 86_400.0
# 128 + SIGPIPE, which is how the commands of a shell end if nobody reads on.
NOT_READ = 141


def run(
    main: Callable[[Config], int | None],
    config_type: type[Config],
    *,
    prog: str,
    description: str | None,
    args: Sequence[str] | None = None,
    default: Callable[[], Config] | None = None,
) -> int:
    """Parse the command line into `config_type`, call `main`, and return an exit code.

    Characters that stdout or stderr cannot encode are replaced.

    Args:
        main: what the command does; it may return an exit code of its own.
        config_type: a flat dataclass. `nas_gan.panels` says how its options get their help and
            their panels.
        prog: how the command is called.
        description: the head of its help.
        args: the command line; that of the process if None.
        default: makes the settings that the command line overrides, such as those of a preset.

    Returns:
        0 done, 1 our error (one line on stderr), 2 usage, 130 interrupted, 143 terminated, 141 if
        what reads the output closed the pipe, or what `main` returned.
    """
    _make_writable()
    logging.captureWarnings(True)
    try:
        with interruptible():
            code = _run(main, config_type, prog, description, args, default)
    except BrokenPipeError as error:
        if any(map(_is_closed, (sys.stdout, sys.stderr))):  # and not some other pipe
            _flush(sys.stdout)
            _flush(sys.stderr)
            return NOT_READ
        sys.stderr.write(f"error: {_describe(error)}\n")
        return ERROR
    lost = _flush(sys.stdout)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        sys.stderr.write(f"error: output: {_describe(lost)}\n")
        code = code or ERROR
    _flush(sys.stderr)  # nobody need watch
    return code if lost is None else code or NOT_READ


def _make_writable() -> None:
    """Both streams exist and take any text, or an error would come after an hour of work."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as in >&-
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nowhere)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _is_closed(stream: TextIO) -> bool:
    """Whether a pipe has no reader any more."""
    poll = select.poll()
    try:
        poll.register(stream, 0)
    except OSError:  # no file behind it
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush(stream: TextIO) -> OSError | None:
    """Write what is buffered; a stream that fails leads nowhere from now on.

    The interpreter would otherwise try again as it ends, and show a traceback.
    """
    try:
        stream.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return error
    return None


def _run(
    main: Callable[[Config], int | None],
    config_type: type[Config],
    prog: str,
    description: str | None,
    args: Sequence[str] | None,
    default: Callable[[], Config] | None,
) -> int:
    try:
        nested = tyro.cli(
            nested_type(config_type, None if default is None else default()),
            prog=prog,
            description=description,
            args=args,
        )
        try:
            config = config_type(**flattened(config_type, nested))
            check_addresses(config)
        except NasGanError as error:
            sys.stderr.write(f"error: {_one_line(error)}\n")
            return USAGE
        return main(config) or DONE
    except SystemExit as exit_:  # tyro's way to say usage or help
        if isinstance(exit_.__context__, BrokenPipeError):  # rich's way to say that nobody reads
            return NOT_READ
        return exit_.code if isinstance(exit_.code, int) else USAGE
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt)
    except NasGanError as error:
        behind = interrupt_behind(error)
        if behind is not None:
            return _interrupted(behind)
        sys.stderr.write(f"error: {_one_line(error)}\n")
        return USAGE if isinstance(error, UsageError) else ERROR
    except MemoryError:
        sys.stderr.write("error: out of memory; use a smaller --batch-size or fewer --samples\n")
        return ERROR
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stderr.write(f"error: {_describe(error)}\n")
        return ERROR


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    """Say which signal ended the command; the exit code.

    Of the processes that torchrun starts, the first one speaks for all.
    """
    terminated = isinstance(interrupt, Terminated)
    word = "terminated" if terminated else "interrupted"
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{word}: run the same command again to resume\n")
    return TERMINATED if terminated else INTERRUPTED


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, NasGanError) and error.setting is not None:
        text = f"{option_name(error.setting)} {error.message}"
    return " ".join(text.split())


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on device; free some, then run the same command again"
    return f"{where}{error.strerror or _one_line(error)}"


class _Watched(Console):
    """A console that falls silent when nobody watches any more; the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def say(line: str) -> None:
    """Show a remark on stderr, wrapped to the width of the terminal."""
    _Watched(stderr=True).print(line, highlight=False, markup=False)


# Two live displays would draw over each other, so a bar inside a bar becomes its second line.
_SHOWN: ContextVar[Progress | None] = ContextVar("shown", default=None)


def progress_bar(console: Console, clock: Callable[[], float] | None = None) -> Progress:
    """A bar whose remaining time follows the mean of what is done, however long an item takes.

    By default rich looks back for half a minute, in which a recovery is not even one item.

    Args:
        console: where it is drawn.
        clock: seconds; the time since boot if None.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        get_time=clock,
        speed_estimate_period=LOOK_BACK_S,
    )


@contextmanager
def progress(
    description: str, total: int, *, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """A progress bar with the remaining time on stderr; yields `advance(n)`.

    With `shown` false nothing is drawn, as in all processes of a run but the main one.
    """
    if not shown:
        yield lambda n: None
        return
    outer = _SHOWN.get()
    if outer is not None:
        inner = outer.add_task(description, total=total)
        try:
            yield lambda n: outer.advance(inner, n)
        finally:
            outer.remove_task(inner)
        return
    with progress_bar(_Watched(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        token = _SHOWN.set(bar)
        try:
            yield lambda n: bar.advance(task, n)
        finally:
            _SHOWN.reset(token)
