from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contracts import JournalContract, scored

from ard.errors import JournalError
from ard.measuring.journal import FileJournal, MemoryJournal
from ard.measuring.measurement import Measurement
from ard.measuring.score import MOVEMENT
from ard.plan import DENSE, Factorization, RankPlan

FINGERPRINT = {"checkpoint": "abc", "samples": 1000, "seed": 0}
PLAN = RankPlan({"l1": Factorization("svd", (8,)), "c": Factorization("tucker2", (4, 2))})
MADE = [
    Measurement("single", DENSE, scored(0)),
    Measurement("single", PLAN, scored(1 / 3)),
    Measurement("final", PLAN, scored(-0.1)),
]


class TestMemoryJournal(JournalContract):
    @pytest.fixture
    def journal(self) -> MemoryJournal:
        return MemoryJournal()


class TestFileJournal(JournalContract):
    @pytest.fixture
    def journal(self, tmp_path: Path) -> FileJournal:
        return FileJournal(tmp_path / "run" / "journal.jsonl", FINGERPRINT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three measurements."""
    path = tmp_path / "run" / "journal.jsonl"
    journal = FileJournal(path, FINGERPRINT)
    for measurement in MADE:
        journal.append(measurement)
    return path


def reopened(path: Path) -> list[Measurement]:
    return list(FileJournal(path, FINGERPRINT).measurements())


def test_a_reopened_journal_replays_what_was_written(path: Path) -> None:
    assert reopened(path) == MADE


def test_reopening_does_not_change_the_file(path: Path) -> None:
    before = path.read_bytes()
    reopened(path)
    assert path.read_bytes() == before


def test_the_first_line_is_the_fingerprint_and_every_other_a_measurement(path: Path) -> None:
    first, *others = map(json.loads, path.read_text().splitlines())
    assert first.keys() == {"fingerprint", "crc32"}
    assert first["fingerprint"] == FINGERPRINT
    assert [line["stage"] for line in others] == ["single", "single", "final"]
    assert others[1]["plan"] == {"c": "tucker2(4, 2)", "l1": "svd(8)"}


def test_a_measurement_is_in_the_file_before_append_returns(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal.jsonl", FINGERPRINT)
    for count, measurement in enumerate(MADE, start=1):
        journal.append(measurement)
        content = journal.path.read_bytes()
        assert content.endswith(b"\n")
        assert content.count(b"\n") == 1 + count


@pytest.mark.parametrize("cut", [1, 2, 40, 100])
def test_a_last_line_that_was_cut_short_is_dropped_and_the_file_goes_on_cleanly(
    path: Path, cut: int
) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    journal = FileJournal(path, FINGERPRINT)
    assert list(journal.measurements()) == MADE[:-1]
    journal.append(MADE[-1])
    assert reopened(path) == MADE


@pytest.mark.parametrize("start", [b"", b'{"finger'], ids=["empty", "cut short"])
def test_a_journal_that_died_at_its_first_line_begins_anew(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(start)
    FileJournal(path, FINGERPRINT).append(MADE[0])
    assert reopened(path) == MADE[:1]


@pytest.mark.parametrize(
    "damage",
    [
        b"\0\0\0\0",
        b'{"stage": "single", "pla',
        b"[1, 2]",
        b'{"stage": "single", "plan": {}}',
        b'{"stage": "single", "plan": [], "evaluation": {}}',
        b'{"stage": "single", "plan": {"l1": "svd"}, "evaluation": {}}',
        b'{"stage": "single", "plan": {}, "evaluation": {"fid": 1}}',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(path: Path, damage: bytes) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[2] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match=r"journal\.jsonl: line 3\b.*use another run directory"):
        reopened(path)


def test_a_refused_journal_is_left_as_it_was(path: Path) -> None:
    content = b'{"fingerprint": {"seed": 5}}\n{"cut'
    path.write_bytes(content)
    with pytest.raises(JournalError):
        reopened(path)
    assert path.read_bytes() == content


def test_another_fingerprint_is_refused_naming_the_setting_that_differs(path: Path) -> None:
    with pytest.raises(JournalError, match="samples is 1000 there and 50 here"):
        FileJournal(path, {**FINGERPRINT, "samples": 50})


SWEEP = {"checkpoint": "abc", "samples": 1000}
SEARCH = {**SWEEP, "recover_steps": 300}


def test_a_search_goes_on_with_what_a_sweep_measured(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    single = Measurement("single", DENSE, scored(0))
    FileJournal(path, SWEEP).append(single)
    searched = FileJournal(path, SEARCH)
    assert list(searched.measurements()) == [single]
    searched.append(Measurement("recovered", DENSE, scored(1)))
    # From now on the setting of the search counts, for whoever has one.
    with pytest.raises(JournalError, match="recover_steps is 300 there and 100 here"):
        FileJournal(path, {**SEARCH, "recover_steps": 100})
    assert len(list(FileJournal(path, SWEEP).measurements())) == 2


WHOLE = Measurement("recovered", DENSE, scored(0))


def test_a_search_that_may_supersede_keeps_single_layers_and_forgets_whole_plans(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.jsonl"
    single = Measurement("single", RankPlan({"a": Factorization("svd", (3,))}), scored(1))
    before, after = {**SEARCH, "samples": 10}, {**SEARCH, "recover_steps": 100, "samples": 20}
    first = FileJournal(path, before)
    for made in (single, WHOLE):
        first.append(made)
    removed: list[int] = []
    raised = FileJournal(path, after, lambda: removed.append(1))
    assert list(raised.measurements()) == [single]
    assert removed == [1]
    anew = Measurement("recovered", DENSE, scored(5))
    raised.append(anew)
    # From now on it is a run with these settings, and no other.
    again = FileJournal(path, after, lambda: removed.append(2))
    assert list(again.measurements()) == [single, anew]
    assert removed == [1]
    with pytest.raises(JournalError, match="belongs to another run"):
        FileJournal(path, before)


def test_no_search_supersedes_scores_on_other_images_or_of_another_checkpoint(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.jsonl"
    settings = {**SEARCH, "sweep_samples": 10, "seed": 0}
    FileJournal(path, settings).append(WHOLE)
    content = path.read_bytes()
    for changed in ({"sweep_samples": 20}, {"seed": 8}):
        with pytest.raises(JournalError, match=next(iter(changed))):
            FileJournal(path, {**settings, "recover_steps": 100, **changed}, lambda: None)
    assert path.read_bytes() == content


def test_whole_plans_measured_under_unknown_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    FileJournal(path, SWEEP).append(Measurement("recovered", DENSE, scored(0)))
    with pytest.raises(JournalError, match="recover_steps is None there and 300 here"):
        FileJournal(path, SEARCH)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"notes": "mine"}\n')
    with pytest.raises(JournalError, match="does not begin with a fingerprint"):
        reopened(path)


def test_a_fingerprint_of_tuples_equals_the_lists_that_json_makes_of_them(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    FileJournal(path, {"methods": ("svd", "cp")})
    assert list(FileJournal(path, {"methods": ("svd", "cp")}).measurements()) == []


# -- what earlier versions wrote


def test_a_journal_that_does_not_say_its_metric_is_one_of_fid(path: Path) -> None:
    lines = [
        {"fingerprint": {"seed": 0}},
        {
            "stage": "proxy",
            "plan": {"l1": "svd(8)"},
            "evaluation": {
                "fid": 0.5, "delta_fid": 0.5, "ci_low": 0.5, "ci_high": 0.5,
                "n_samples": 32, "extractor": "movement of inception",
            },
        },
        {
            "stage": "single",
            "plan": {"l1": "svd(8)"},
            "evaluation": {
                "fid": 41.0, "delta_fid": 1.0, "ci_low": 0.5, "ci_high": 1.5,
                "n_samples": 1000, "extractor": "inception",
            },
        },
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    moved, scored_alone = FileJournal(path, {"seed": 0, "metric": "fid"}).measurements()
    assert (moved.score.metric, moved.score.features) == (MOVEMENT, "inception")
    assert moved.score.value == 0.5
    single = scored_alone.score
    assert (single.metric, single.value, single.rise, single.measured) == ("fid", 41.0, 1.0, True)
    with pytest.raises(JournalError, match="metric is fid there and kid here"):
        FileJournal(path, {"seed": 0, "metric": "kid"})


@pytest.mark.parametrize("metric", ["kid", "brightness"])
def test_scores_of_any_metric_come_back_whole(path: Path, metric: str) -> None:
    score = replace(scored(0.1 + 0.2), metric=metric)
    journal = FileJournal(path.with_name("other.jsonl"), {"metric": metric})
    journal.append(Measurement("single", DENSE, score))
    [read] = FileJournal(path.with_name("other.jsonl"), {"metric": metric}).measurements()
    assert read.score == score


# -- what nobody wrote

RECORD = {
    "fid": 41.0, "delta_fid": 1.0, "ci_low": 0.5, "ci_high": 1.5,
    "n_samples": 1000, "extractor": "inception",
}  # fmt: skip


def unsealed(path: Path, *lines: object) -> Path:
    """A journal as earlier versions wrote it, without checksums."""
    text = "".join(json.dumps(line) + "\n" for line in ({"fingerprint": FINGERPRINT}, *lines))
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_journal_of_an_earlier_version_goes_on_with_checksums(tmp_path: Path) -> None:
    line = {"stage": "single", "plan": {"l1": "svd(8)"}, "evaluation": RECORD}
    path = unsealed(tmp_path / "journal.jsonl", line)
    FileJournal(path, FINGERPRINT).append(MADE[-1])
    [earlier, later] = reopened(path)
    assert str(earlier.plan["l1"]) == "svd(8)"
    assert later == MADE[-1]
    damaged = path.read_bytes().replace(
        b'"stage": "' + MADE[-1].stage[:3].encode(), b'"stage": "xxx'
    )
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(JournalError):
        reopened(path)


@pytest.mark.parametrize(
    "change",
    [
        {"ci_low": 5, "ci_high": -1e9},
        {"ci_low": 1.2},
        {"ci_high": 0.9},
        {"fid": None},
        {"fid": True},
        {"fid": "41"},
        {"delta_fid": float("nan")},
        {"ci_high": float("inf")},
        {"fid": 10**400},
        {"n_samples": -1},
        {"n_samples": 1.5},
        {"n_samples": True},
        {"extractor": 3},
        {"more": 1},
    ],
)
def test_a_score_that_no_measurement_has_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    line = {"stage": "single", "plan": {"l1": "svd(8)"}, "evaluation": RECORD | change}
    with pytest.raises(JournalError, match="line 2"):
        reopened(unsealed(tmp_path / "journal.jsonl", line))


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "guessed"},
        {"stage": ["single"]},
        {"plan": {"l1": 8}},
        {"plan": {"l1": "svd(0)"}},
        {"plan": {"l1": "svd(" + "9" * 5000 + ")"}},
        {"plan": None},
        {"evaluation": [1]},
        {"evaluation": "fid"},
        {"note": "mine"},
    ],
)
def test_a_line_that_is_no_measurement_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    line = {"stage": "single", "plan": {"l1": "svd(8)"}, "evaluation": RECORD}
    with pytest.raises(JournalError, match="line 2"):
        reopened(unsealed(tmp_path / "journal.jsonl", line | change))
    assert len(reopened(unsealed(tmp_path / "journal.jsonl", line))) == 1


def test_a_bit_that_flipped_anywhere_is_found(path: Path) -> None:
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for place in range(first, len(whole) - 1, 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(JournalError, match="line"):
            reopened(path)


def test_a_checksum_is_not_left_out(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    record = json.loads(lines[1])
    del record["crc32"]
    lines[1] = json.dumps(record).encode()
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match="line 2 is damaged: its checksum"):
        reopened(path)


def test_a_plan_that_is_scored_twice_differently_is_an_error_and_not_the_last_one(
    path: Path,
) -> None:
    other = path.with_name("other.jsonl")
    FileJournal(other, FINGERPRINT).append(Measurement("single", PLAN, scored(9)))
    again = other.read_bytes().split(b"\n")[1]
    path.write_bytes(path.read_bytes() + again + b"\n")
    with pytest.raises(JournalError, match=r"line 5 .*scored twice"):
        reopened(path)


def test_the_same_line_twice_counts_once(path: Path) -> None:
    path.write_bytes(path.read_bytes() + path.read_bytes().split(b"\n")[2] + b"\n")
    assert reopened(path) == MADE


def test_appending_a_second_score_of_a_plan_is_refused(path: Path) -> None:
    journal, before = FileJournal(path, FINGERPRINT), path.read_bytes()
    journal.append(MADE[1])
    with pytest.raises(JournalError, match="scored twice"):
        journal.append(Measurement("single", PLAN, scored(2)))
    with pytest.raises(JournalError, match="interval"):
        journal.append(Measurement("factorized", PLAN, replace(scored(2), ci_low=3.0)))
    assert path.read_bytes() == before


def test_opening_leaves_a_line_that_another_process_is_writing(path: Path) -> None:
    half = b'{"stage": "final", "pl'
    with path.open("ab") as file:
        file.write(half)
    before = path.read_bytes()
    assert reopened(path) == MADE
    assert path.read_bytes() == before


def test_a_line_after_one_that_failed_stands_alone(path: Path) -> None:
    journal = FileJournal(path, FINGERPRINT)
    with path.open("ab") as file:  # a full disk took the first half of a line
        file.write(b'{"stage": "final", "pl')
    more = Measurement("factorized", PLAN, scored(1))
    journal.append(more)
    assert reopened(path) == [*MADE, more]


def test_a_write_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    # In a child, whose files may not become larger than the journal is.
    code = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_journal_child import more
from ard.measuring.journal import FileJournal
path = Path({str(path)!r})
journal = FileJournal(path, {FINGERPRINT!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))
try:
    journal.append(more)
except OSError:
    assert path.stat().st_size == size, path.read_bytes()
else:
    raise SystemExit("no error")
"""
    child = path.parent / "test_journal_child.py"
    child.write_text(
        "from contracts import scored\n"
        "from ard.measuring.measurement import Measurement\n"
        "from ard.plan import DENSE\n"
        "more = Measurement('factorized', DENSE, scored(1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=path.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    assert reopened(path) == MADE


@pytest.mark.parametrize("content", [b"notes of mine", b"{", b'{"note": "mine"', b"\0" * 100])
def test_a_file_of_one_line_without_its_end_is_not_emptied(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    if b'{"fingerprint"'.startswith(content):
        assert reopened(path) == []
        return
    with pytest.raises(JournalError, match="does not begin with a fingerprint"):
        reopened(path)
    assert path.read_bytes() == content


def test_a_large_journal_opens_in_the_time_of_its_json(tmp_path: Path) -> None:
    """Ten times the time in which json alone reads the lines is far above what it takes."""
    lines = [
        {"stage": "single", "plan": {"l1": f"svd({n})"}, "evaluation": RECORD}
        for n in range(1, 5001)
    ]
    path = unsealed(tmp_path / "journal.jsonl", *lines)
    start = time.process_time()
    for line in path.read_bytes().splitlines():
        json.loads(line)
    alone = time.process_time() - start
    start = time.process_time()
    assert len(reopened(path)) == 5000
    assert time.process_time() - start < 10 * alone
