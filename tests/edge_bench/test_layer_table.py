from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_bench.layer_table import LayerTime, read_times, summary, to_csv

ROW = LayerTime("linear 8x4", "dense", 1, 1.5, 1.0, 2.0, "a runtime", "a board", 1, "fp32")


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "latency.csv"
    assert read_times(path) == ()
    path.write_text(to_csv([ROW]))
    assert read_times(path) == (ROW,)


def test_times_that_a_busy_machine_blurred_are_counted() -> None:
    clear = replace(ROW, choice="svd(1)", ci_low=1.45, ci_high=1.55)
    text = summary(Path("latency.csv"), (ROW,), (ROW, clear))
    assert text.startswith("wrote latency.csv: 2 times, 1 of them new\nnote: 1 are uncertain")
