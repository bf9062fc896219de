"""What the commands of this package share: options, progress, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import errno
import io
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TextIO

from edge_bench.errors import EdgeBenchError
from edge_bench.interrupts import (
    INTERRUPTED,
    TERMINATED,
    Terminated,
    interrupt_behind,
    interruptible,
)
from edge_bench.remote import Job, run_on
from edge_bench.ssh import Host

Advance = Callable[[float], None]
"""Called with the finished fraction, 0 to 1."""

DONE, ERROR, USAGE = 0, 1, 2
# 128 + SIGPIPE, which is how the commands of a shell end if nobody reads on.
NOT_READ = 141
EXIT_CODES = (
    "exit codes: 0 done, 1 error, 2 usage, 130 interrupted, 141 output not read, 143 terminated"
)

# Go to the start of the line, and clear it.
WIPE = "\r\x1b[K"


def as_process(main: Callable[[], int]) -> int:
    """Call the main function of a command that owns its process; return its exit code.

    Characters that stdout or stderr cannot encode are replaced. A pipe that its reader has closed
    is no error.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as in >&-
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nowhere)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with interruptible():
            code = main()
    except SystemExit as exit_:  # argparse's way to say usage or help
        code = exit_.code if isinstance(exit_.code, int) else USAGE
    except BrokenPipeError:  # of one of the streams: nothing else here is a pipe
        code = NOT_READ
    except KeyboardInterrupt as interrupt:  # outside of measuring
        code = _say_why(interrupt, "nothing was written; run the same command again")
    lost = _flush(sys.stdout)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        sys.stderr.write(f"error: output: {_describe(lost)}\n")
        code = code or ERROR
    _flush(sys.stderr)
    return code if lost is None else code or NOT_READ


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


def run(measure: Callable[[Advance], str], *, interrupted: str) -> int:
    """Call `measure`, print what it returns, and return an exit code.

    Args:
        measure: The work; it is given a function that takes the finished fraction, 0 to 1.
        interrupted: What an interrupt leaves behind, for the message.

    Returns:
        0 if it is done, 1 after an error (one line on stderr), 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        with progress(sys.stderr, time.monotonic) as advance:
            result = measure(advance)
        sys.stdout.write(result)
    except EdgeBenchError as error:
        behind = interrupt_behind(error)
        if behind is not None:
            return _say_why(behind, interrupted)
        sys.stderr.write(f"error: {_one_line(error)}\n")
        return ERROR
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stderr.write(f"error: {_describe(error)}\n")
        return ERROR
    except MemoryError:
        sys.stderr.write("error: out of memory; use a smaller --batch\n")
        return ERROR
    except KeyboardInterrupt as interrupt:
        return _say_why(interrupt, interrupted)
    return DONE


def _say_why(interrupt: KeyboardInterrupt, left: str) -> int:
    """Say which signal ended the command and what it leaves behind; the exit code."""
    terminated = isinstance(interrupt, Terminated)
    sys.stderr.write(f"{'terminated' if terminated else 'interrupted'}: {left}\n")
    return TERMINATED if terminated else INTERRUPTED


@contextmanager
def progress(stream: TextIO, clock: Callable[[], float], every_s: float = 5.0) -> Iterator[Advance]:
    """Yield a function that shows the finished fraction and the time left on `stream`.

    A terminal gets one line, which is redrawn and wiped in the end. A file gets a line every
    `every_s` seconds.
    """
    start = clock()
    told = -math.inf if stream.isatty() else start
    every_s = 0.2 if stream.isatty() else every_s

    def advance(fraction: float) -> None:
        nonlocal told
        now = clock()
        if now - told < every_s:
            return
        told = now
        text = "measuring: warming up"
        if fraction > 0:
            left = math.ceil((now - start) * (1 - fraction) / fraction)
            text = f"measuring: {fraction:4.0%}, {left} s left"
        stream.write(f"{WIPE}{text}" if stream.isatty() else f"{text}\n")
        stream.flush()

    try:
        yield advance
    finally:
        if stream.isatty():
            stream.write(WIPE)
            stream.flush()


def make_parser(prog: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """A parser whose help ends with an example and the exit codes."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


Group = argparse._ArgumentGroup


@dataclass(frozen=True)
class Topics:
    """The groups of a command's options, which `--help` shows in this order."""

    what: Group
    how: Group
    machine: Group
    results: Group


def add_topics(parser: argparse.ArgumentParser) -> Topics:
    """Add the groups of a command that times something, all empty."""
    return Topics(
        parser.add_argument_group("what to time"),
        parser.add_argument_group("how to time"),
        parser.add_argument_group("machine"),
        parser.add_argument_group("results"),
    )


def add_timing_options(topics: Topics, *, timed: str, runs: int, duration: float) -> None:
    """Add the options of every command that times something.

    Args:
        topics: The groups that they are added to.
        timed: What is timed, for the help.
        runs: Default number of runs of each.
        duration: Default number of seconds for each.
    """
    topics.how.add_argument(
        "--runs",
        type=positive,
        default=runs,
        metavar="N",
        help=f"Minimum number of timed runs of {timed}. (default: %(default)s)",
    )
    topics.how.add_argument(
        "--duration",
        type=seconds,
        default=duration,
        metavar="SECONDS",
        help=f"Minimum time in seconds for {timed}, on average. (default: %(default)s)",
    )
    topics.machine.add_argument(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="Number of CPU threads of the runtime. (default: 1)",
    )


def as_arguments(options: argparse.Namespace, *names: str) -> list[str]:
    """Options as they were given, for the same command on another machine; None is left out."""
    arguments: list[str] = []
    for name in names:
        value = getattr(options, name)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    return arguments


def add_host_options(topics: Topics) -> None:
    """Add the options of a command that can run on another machine."""
    topics.machine.add_argument(
        "--host",
        metavar="USER@HOST",
        help="Run on this device, by ssh: what it needs is copied there, and nothing stays there. "
        "(default: run here)",
    )
    topics.machine.add_argument(
        "--python",
        default="python3",
        metavar="FILE",
        help="Python of the device that has numpy and a runtime. (default: python3)",
    )
    topics.machine.add_argument(
        "--ssh",
        default="ssh",
        metavar="COMMAND",
        help="The OpenSSH client and its options, such as 'ssh -p 2222'. (default: ssh)",
    )


def run_on_host(
    options: argparse.Namespace, check: Callable[[], None], job_for: Callable[[Sequence[str]], Job]
) -> int:
    """Run a job on the device that the options name; print what it prints, return its exit code.

    `check` refuses what cannot be written here, before anything is copied.
    """
    code = DONE

    def work(advance: Advance) -> str:
        nonlocal code
        check()
        host = Host(options.host, options.python, options.ssh)
        code, printed = run_on(host, job_for, lambda line: print(line, file=sys.stderr, flush=True))
        return printed

    kept = "nothing was written, and nothing is left on the device; run the same command again"
    return run(work, interrupted=kept) or code


def positive(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    return _whole(text, 1)


def not_negative(text: str) -> int:
    """A whole number of 0 or more, for argparse."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} is below {least}")
    return number


def seconds(text: str) -> float:
    """A number of seconds, 0 or more, for argparse."""
    number = _number(text, "a number of seconds")
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or more")
    return number


def rate(text: str) -> float:
    """A number of queries per second above 0, for argparse."""
    number = _number(text, "a number of queries per second")
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of queries per second above 0")
    return number


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is not {what}")
    return number


class Duration(float):
    """Seconds above 0, written with their unit as in `50ms`, which `str` gives back; for argparse.

    A number alone is refused: it might be meant in either unit.
    """

    _text: str
    _UNITS: ClassVar[dict[str, float]] = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

    def __new__(cls, text: str) -> Duration:
        """Read the text."""
        found = re.fullmatch(r"([0-9.eE+-]+?)(us|ms|s)", text.strip())
        number = _number(found[1], "a time") * cls._UNITS[found[2]] if found else 0.0
        if number <= 0:
            raise argparse.ArgumentTypeError(f"{text!r} is not a time as in 50ms or 0.2s")
        made = super().__new__(cls, number)
        made._text = text.strip()
        return made

    def __str__(self) -> str:
        return self._text


def check_writable(folder: Path) -> None:
    """Create `folder`, and refuse one that cannot be written to before measuring takes minutes.

    Raises:
        OSError: The folder cannot be created or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def check_file(path: Path) -> None:
    """Refuse a path that no file can be written to, before measuring takes minutes.

    Raises:
        OSError: It is a folder, or its folder cannot be created or written to.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    check_writable(path.parent)


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, EdgeBenchError) and error.setting is not None:
        text = f"--{error.setting.replace('_', '-')} {error.message}"
    return " ".join(text.split())


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on device; free some, then run the same command again"
    return f"{where}{error.strerror or _one_line(error)}"
