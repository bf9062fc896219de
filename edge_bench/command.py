"""The skin of this package's command lines: options, errors as one line, the time left."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from edge_bench.errors import EdgeBenchError
from edge_bench.runners import RUNNERS

DONE, ERROR, INTERRUPTED = 0, 1, 130
EXIT_CODES = "exit codes: 0 done, 1 error, 2 usage, 130 interrupted"

# To the start of the line, and clear to its end.
WIPE = "\r\x1b[K"


def run(body: Callable[[], None], *, interrupted: str) -> int:
    """Call `body` and return an exit code: 0 done, 1 our error (one line on stderr), 130 Ctrl-C.

    `interrupted` says what an interrupt left behind.
    """
    try:
        body()
    except EdgeBenchError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return ERROR
    except OSError as error:
        sys.stderr.write(f"error: {_describe(error)}\n")
        return ERROR
    except MemoryError:
        sys.stderr.write("error: out of memory; use a smaller --batch\n")
        return ERROR
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: {interrupted}\n")
        return INTERRUPTED
    return DONE


@contextmanager
def progress(
    stream: TextIO, clock: Callable[[], float], every_s: float = 5.0
) -> Iterator[Callable[[float], None]]:
    """Yields a function of the finished fraction that tells it and the time left on `stream`.

    A terminal gets one line, redrawn and wiped in the end; a file gets a line every `every_s`
    seconds.
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
    """A parser whose help keeps its lines, and ends with an example and the exit codes."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_timing_options(
    parser: argparse.ArgumentParser, *, timed: str, runs: int, duration: float, auto: str
) -> None:
    """What every command that times something is asked: --batch, --runs, --duration and where.

    Each thing `timed` gets `runs` runs and `duration` seconds by default; `auto` says when
    `--runner auto` takes TensorRT.
    """
    add = parser.add_argument
    add(
        "--batch",
        nargs="+",
        type=positive,
        default=[1],
        metavar="N",
        help="batch sizes (default: 1)",
    )
    add(
        "--runs",
        type=positive,
        default=runs,
        metavar="N",
        help=f"timed runs of {timed}, at least (default: %(default)s)",
    )
    add(
        "--duration",
        type=seconds,
        default=duration,
        metavar="SECONDS",
        help=f"timed seconds of {timed}, at least, on average (default: %(default)s)",
    )
    add(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="CPU threads of ONNX Runtime (default: 1)",
    )
    add(
        "--runner",
        choices=RUNNERS,
        default="auto",
        help=f"auto takes TensorRT where {auto} (default: auto)",
    )


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
    """A number of seconds from 0 on, for argparse."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 on")
    return number


def check_writable(folder: Path) -> None:
    """Minutes of measuring must not end at a folder that takes no file.

    Raises:
        OSError: it takes none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on device; free some, then run the same command again"
    return f"{where}{error.strerror or ' '.join(str(error).split())}"
