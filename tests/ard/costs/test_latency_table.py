from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ard.costs.latency_table import COLUMNS, Conditions, LatencyRow, LatencyTable
from ard.errors import LatencyError, TableError
from ard.plan import Factorization
from edge_bench.layer_table import COLUMNS as WRITTEN

CONV = "conv2d 64x64x3x3 in=16x16 padding=1x1 bias"
HERE = Conditions(1, "onnxruntime 1.20", "a CPU, of a kind", 1, "fp32")


def row(choice: str | None, ms: float, conditions: Conditions = HERE) -> LatencyRow:
    parsed = None if choice is None else Factorization.parse(choice)
    return LatencyRow(CONV, parsed, ms, 0.9 * ms, 1.1 * ms, conditions)


def table(*rows: tuple[str | None, float]) -> LatencyTable:
    return LatencyTable(tuple(row(choice, ms) for choice, ms in rows))


def ms(of: LatencyTable, choice: str | None) -> float:
    return of.milliseconds(CONV, None if choice is None else Factorization.parse(choice))


TIMES = table((None, 2.0), ("spatial_svd(8)", 0.5), ("spatial_svd(16)", 0.9), ("svd(4)", 0.1))


def test_what_was_measured_is_what_is_read() -> None:
    assert ms(TIMES, None) == 2.0
    assert ms(TIMES, "spatial_svd(16)") == 0.9


def test_a_rank_between_two_measured_ones_lies_on_the_line_between_them() -> None:
    assert ms(TIMES, "spatial_svd(10)") == pytest.approx(0.6)


def test_two_ranks_count_by_the_weights_that_they_keep() -> None:
    # 64 r_in + 9 r_in r_out + 64 r_out: 1600 for (8, 8) and 4352 for (16, 16); 2688 for (8, 16).
    times = table(("tucker2(8, 8)", 1.0), ("tucker2(16, 16)", 3.0))
    between = 1.0 + 2.0 * (2688 - 1600) / (4352 - 1600)
    assert ms(times, "tucker2(8, 16)") == pytest.approx(between)
    assert ms(times, "tucker2(16, 8)") == pytest.approx(between)


@given(
    st.dictionaries(st.integers(1, 60), st.floats(0.01, 9), min_size=2, max_size=6),
    st.integers(1, 60),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_time_in_between_never_leaves_the_range_of_its_neighbours(
    measured: dict[int, float], rank: int
) -> None:
    times = table(*((f"spatial_svd({r})", t) for r, t in measured.items()))
    if not min(measured) <= rank <= max(measured):
        with pytest.raises(LatencyError, match="not extrapolated"):
            ms(times, f"spatial_svd({rank})")
        return
    below = measured[max(r for r in measured if r <= rank)]
    above = measured[min(r for r in measured if r >= rank)]
    found = ms(times, f"spatial_svd({rank})")
    assert min(below, above) - 1e-12 <= found <= max(below, above) + 1e-12


@given(st.lists(st.floats(0.01, 9), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_times_that_grow_with_rank_do_so_in_between_as_well(measured: list[float]) -> None:
    times = table(*((f"spatial_svd({8 * (i + 1)})", t) for i, t in enumerate(sorted(measured))))
    found = [ms(times, f"spatial_svd({rank})") for rank in range(8, 8 * len(measured) + 1)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("spatial_svd(7)", r"no spatial_svd\(7\) of conv2d .* only spatial_svd\(8\) to spatial"),
        ("spatial_svd(17)", r"not extrapolated; .*ard\.latency and more fractions"),
        ("tucker2(8, 8)", r"no tucker2\(8, 8\) of conv2d 64x64x3x3 in=16x16 .*ard\.latency"),
    ],
)
def test_what_was_not_measured_is_named_with_the_command_that_does_it(
    choice: str, message: str
) -> None:
    with pytest.raises(LatencyError, match=message):
        ms(TIMES, choice)
    with pytest.raises(LatencyError, match="no dense linear 4x4"):
        TIMES.milliseconds("linear 4x4", None)


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    TIMES.save(tmp_path / "latency.csv")
    assert LatencyTable.read(tmp_path / "latency.csv") == TIMES


def test_what_edge_bench_writes_is_what_is_read() -> None:
    assert WRITTEN == COLUMNS


def test_one_batch_size_is_taken_at_a_time() -> None:
    large = Conditions(64, *("onnxruntime 1.20", "a CPU, of a kind", 1, "fp32"))
    both = LatencyTable((*TIMES.rows, row(None, 70.0, large)))
    assert both.at(1) == TIMES
    assert TIMES.at() == TIMES
    assert both.at(64).milliseconds(CONV, None) == 70.0
    with pytest.raises(LatencyError, match="choose one by its batch size"):
        both.at()
    with pytest.raises(LatencyError, match=r"no times at batch 8, only at 1, 64"):
        both.at(8)


def test_times_of_two_machines_do_not_mix() -> None:
    there = Conditions(1, "tensorrt 10.3", "a Jetson", 1, "fp16")
    mixed = LatencyTable((*TIMES.rows, row(None, 0.2, there)))
    with pytest.raises(LatencyError, match=r"several conditions.*a Jetson.*keep only the rows"):
        mixed.at(1)


TEXT = TIMES.to_csv()
FIRST = TEXT.splitlines()[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("choice", "chosen", 1), "no column 'choice'"),
        (TEXT + FIRST + "\n", "line 6: conv2d .* as dense comes twice"),
        (TEXT.replace("2.0", "nan"), "line 2: milliseconds is nan, not finite"),
        (TEXT.replace("2.0", "0"), "line 2: a time is 0 ms; it must be above 0"),
        (TEXT.replace("2.0", "fast"), "line 2: milliseconds is 'fast', not a number"),
        (TEXT.replace("dense,1,", "dense,0,"), "line 2: batch is '0', not a whole number"),
        (TEXT.replace("svd(4)", "evd(4)"), "line 5: method 'evd' is not known"),
        (TEXT.replace(f"{CONV},dense", ",dense"), "line 2: signature is empty"),
        (TEXT.splitlines()[0], "the latency table is empty"),
        ("", "the table is empty; it needs signature"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=f"latency.csv: .*{message}"):
        LatencyTable.read(path)
