"""What `--help` says about every option: a sentence, in a panel by topic."""

from __future__ import annotations

import re

import pytest

from export import build_engine
from export.__main__ import Config
from nas_gan.cli import run


def test_the_engines_and_their_batch_are_in_one_panel(capsys: pytest.CaptureFixture[str]) -> None:
    done = run(lambda config: 0, Config, prog="export", description=None, args=["--help"])
    assert done == 0
    panels = re.split(r"^\W*([a-z ]+) options\W*$", capsys.readouterr().out, flags=re.MULTILINE)
    by_title = dict(zip(panels[1::2], panels[2::2], strict=True))
    assert len(by_title) == len(panels) // 2  # no title twice
    assert "--tensorrt-rtx" in by_title["engines"]
    assert "--batch" in by_title["engines"]


def test_every_option_of_the_build_script_has_a_sentence_in_a_group_by_topic() -> None:
    groups = build_engine.make_parser()._action_groups
    with_options = [group.title for group in groups if group._group_actions]
    assert with_options == ["options", "engine options", "build options"]  # the first has -h alone
    assert [action.dest for action in groups[1]._group_actions] == ["help"]
    for action in (action for group in groups for action in group._group_actions):
        if action.dest != "help":
            assert re.fullmatch(r"[A-Z].*\. \(default: .*\)|[A-Z].*\.", str(action.help))
