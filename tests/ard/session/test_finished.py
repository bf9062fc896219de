import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ard.compress import CompressConfig
from ard.session.finished import FILE, MOST, FinishedSearches
from nas_gan.errors import UnreadableError

CONFIG = CompressConfig(checkpoint=Path("net.pt"), fid_budget="5%")


def finished(run_dir: Path, n: int, steps: int = 200, **changes: Any) -> FinishedSearches:
    config = dataclasses.replace(CONFIG, max_trials=n, **changes)
    return FinishedSearches(run_dir, config, {"recover_steps": steps})


def test_a_search_with_more_rounds_goes_on_from_the_one_with_the_most(tmp_path: Path) -> None:
    for n in (3, 7):
        finished(tmp_path, n).add()
    assert finished(tmp_path, 15).earlier() == (3, 7)
    assert finished(tmp_path, 5).earlier() == (3,)
    assert finished(tmp_path, 2).earlier() == ()


def test_a_search_that_is_run_again_repeats_itself(tmp_path: Path) -> None:
    finished(tmp_path, 7).add()
    finished(tmp_path, 3).add()  # one with fewer rounds came later
    assert finished(tmp_path, 7).earlier() == ()
    before = (tmp_path / FILE).read_text()
    finished(tmp_path, 3).add()
    assert (tmp_path / FILE).read_text() == before


@pytest.mark.parametrize(
    "change",
    [{"fid_budget": "6%"}, {"objective": "macs"}, {"methods": ("cp",)}, {"steps": 7}],
)
def test_a_search_for_something_else_begins_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    finished(tmp_path, 3).add()
    assert finished(tmp_path, 7, **change).earlier() == ()


def test_where_and_how_fast_it_runs_does_not_matter(tmp_path: Path) -> None:
    finished(tmp_path, 3).add()
    assert finished(tmp_path, 7, threads=3, bundle=False, workers=2).earlier() == (3,)


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    for n in range(1, MOST + 3):
        finished(tmp_path, 3, fid_budget=f"{n}%").add()
    assert finished(tmp_path, 7, fid_budget="1%").earlier() == ()
    assert finished(tmp_path, 7, fid_budget=f"{MOST + 2}%").earlier() == (3,)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"searches": 3}',
        '{"searches": [3]}',
        '{"searches": [{"search": "a", "max_trials": []}]}',
        '{"searches": [{"search": "a", "max_trials": [true]}]}',
        '{"searches": [{"search": "a", "max_trials": ["n"]}]}',
        '{"searches": [{"search": "a", "max_trials": [0]}]}',
        '{"searches": [{"search": 1, "max_trials": [3]}]}',
    ],
)
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UnreadableError, match=FILE) as caught:
        finished(tmp_path, 7).earlier()
    assert "\n" not in str(caught.value)
