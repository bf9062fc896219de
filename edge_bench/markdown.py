"""The table of a benchmark in Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from edge_bench.report import BenchReport, columns_of, notes_of


def to_markdown(report: BenchReport) -> str:
    """The rows as a table, and what a reader must know to trust them as a list."""
    device = report.device
    machine = ", ".join(filter(None, [device.model, device.cpu, device.gpu, device.nvpmodel]))
    columns = columns_of(report)
    cells = list(zip(*(column.cells for column in columns), strict=True))
    table = markdown_table([column.title for column in columns], cells)
    notes = [f"machine: {machine or device.machine}", *notes_of(report)]
    return "\n".join([*table, "", *(f"- {escape(note)}" for note in notes), ""])


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first column is text and whose others are numbers."""
    lines = [
        [escape(title) for title in titles],
        [":--", *("--:" for _ in titles[1:])],
        *([escape(cell) for cell in row] for row in rows),
    ]
    return [f"| {' | '.join(line)} |" for line in lines]


def escape(text: str) -> str:
    """Text that Markdown shows as it is: names of bundles are those of folders."""
    for mark in "\\`*_|<>[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
