"""Time exported generators on this device; several are measured interleaved and compared.

The first bundle is what the others are compared with: give the dense one first.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from edge_bench.errors import EdgeBenchError
from edge_bench.pipeline import benchmark
from edge_bench.report import table, write_report
from edge_bench.runners import RUNNERS
from edge_bench.timing import TimingPlan

DONE, ERROR, INTERRUPTED = 0, 1, 130

# To the start of the line, and clear to its end.
WIPE = "\r\x1b[K"

EPILOG = """example:
  python -m edge_bench dense/ compressed/ --batch 1 64 --threads 4

exit codes: 0 done, 1 error, 2 usage, 130 interrupted"""


def main(args: Sequence[str] | None = None) -> int:
    """Parse, measure, print; returns the exit code."""
    options = _parser().parse_args(args)
    try:
        _check_writable(options.out)
        with progress(sys.stderr, time.monotonic) as advance:
            report = benchmark(
                options.bundles,
                options.batch,
                plan=TimingPlan(options.runs, options.warmup, options.duration),
                threads=options.threads,
                runner=options.runner,
                seed=options.seed,
                advance=advance,
            )
        path = write_report(report, options.out)
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        sys.stdout.write(f"{table(report, width)}\nwrote {path}\n")
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
        sys.stderr.write("interrupted: nothing was written; run the same command again\n")
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edge_bench",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "bundles",
        nargs="+",
        type=Path,
        metavar="BUNDLE",
        help="a folder that `python -m export` wrote, an .onnx file or a TensorRT engine",
    )
    add(
        "--batch",
        nargs="+",
        type=_positive,
        default=[1],
        metavar="N",
        help="batch sizes (default: 1)",
    )
    add(
        "--runs",
        type=_positive,
        default=200,
        metavar="N",
        help="timed runs of each bundle and batch size, at least (default: 200)",
    )
    add(
        "--warmup",
        type=_not_negative,
        default=20,
        metavar="N",
        help="untimed runs before, at least; they go on until times settle (default: 20)",
    )
    add(
        "--duration",
        type=_seconds,
        default=3.0,
        metavar="SECONDS",
        help="timed seconds of each bundle and batch size, at least, on average over the bundles; "
        "fewer where a model makes 20000 runs before; power is measured as long again where there "
        "is a sensor (default: 3)",
    )
    add(
        "--threads",
        type=_positive,
        default=1,
        metavar="N",
        help="CPU threads of ONNX Runtime (default: 1)",
    )
    add(
        "--runner",
        choices=RUNNERS,
        default="auto",
        help="auto takes TensorRT where every bundle has an engine (default: auto)",
    )
    add(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where bench.json goes (default: the current folder)",
    )
    add("--seed", type=_not_negative, default=0, metavar="N",
        help="of the latents and the bootstrap (default: 0)")  # fmt: skip
    return parser


def _positive(text: str) -> int:
    return _whole(text, 1)


def _not_negative(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} is below {least}")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 on")
    return number


def _check_writable(folder: Path) -> None:
    """Minutes of measuring must not end at a folder that takes no file."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on device; free some, then run the same command again"
    return f"{where}{error.strerror or ' '.join(str(error).split())}"


if __name__ == "__main__":
    sys.exit(main())
