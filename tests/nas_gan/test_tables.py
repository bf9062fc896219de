from __future__ import annotations

import csv
import io

import pytest

from nas_gan.tables import csv_text, text_table

ROWS = [("a, b", 1), ('quoted "c"', 2.5)]


def test_csv_reads_back_as_what_was_written():
    read = list(csv.reader(io.StringIO(csv_text(("name", "value"), ROWS))))
    assert read == [["name", "value"], ["a, b", "1"], ['quoted "c"', "2.5"]]


def test_every_column_of_a_text_table_is_as_wide_as_its_widest_cell():
    lines = text_table(("layer", "params"), [("l1", "1,000,000"), ("a longer name", "2")]).split(
        "\n"
    )
    assert lines[0].index("params") + len("params") == len(lines[2]) == len(lines[3])
    assert lines[2].startswith("l1 ")
    assert lines[3].endswith(" 2")


@pytest.mark.parametrize("cell", ["[bold]no markup[/bold]", "x" * 500, "Δ +40.5 [+32.0, +49.0]"])
def test_a_cell_is_shown_as_it_is(cell):
    assert cell in text_table(("name", "value"), [("row", cell)])


def test_columns_of_text_are_flush_left_and_those_of_numbers_flush_right():
    rows = [("a", "b", "1"), ("long", "longer", "100")]
    lines = text_table(("one", "two", "three"), rows, n_text=2).splitlines()
    assert lines[0].index("two") == lines[2].index("b") == lines[3].index("longer")
    assert len(lines[2]) == len(lines[3])
