"""Compare two results of `python -m edge_bench`, such as those of two devices.

Rows are joined by bundle, batch size and runtime. The ratio is the time in the first over the time
in the second, with what differs between the machines and the settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edge_bench.command import Advance, check_file, make_parser, run
from edge_bench.compare import compare, read_result, to_markdown, to_text
from edge_bench.files import write_whole

EXAMPLE = "python -m edge_bench compare before/bench.json after/bench.json"


def main(args: Sequence[str]) -> int:
    """Parse, compare, print; return the exit code."""
    options = _parser().parse_args(args)

    def join(advance: Advance) -> str:
        if options.markdown is not None:
            check_file(options.markdown)
        comparison = compare(read_result(options.first), read_result(options.second))
        text = to_text(comparison)
        if options.markdown is not None:
            write_whole(options.markdown, to_markdown(comparison))
            text += f"wrote {options.markdown}\n"
        return text

    return run(join, interrupted="nothing was written; run the same command again")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m edge_bench compare", __doc__, EXAMPLE)
    what = parser.add_argument_group("what to compare")
    what.add_argument(
        "first", type=Path, metavar="FIRST", help="A bench.json, or the folder that holds it."
    )
    what.add_argument(
        "second", type=Path, metavar="SECOND", help="Another one, measured elsewhere or later."
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="Also write the table in Markdown, for a pull request.",
    )
    return parser
