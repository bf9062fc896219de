import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.settings import (
    as_text,
    check_above,
    check_at_least,
    check_fraction,
    chosen_settings,
    plain_settings,
    settings_but,
)


@dataclass(frozen=True)
class Config:
    run_dir: Path = Path("runs/a")
    seed: int = 3
    lr: float = 2e-4
    metrics: tuple[str, ...] = ("fid",)
    genotype: Path | None = None


def test_plain_settings_survive_json_but_for_tuples_which_become_lists():
    plain = plain_settings(Config())
    assert plain == {
        "run_dir": "runs/a", "seed": 3, "lr": 2e-4, "metrics": ("fid",), "genotype": None,
    }  # fmt: skip
    assert json.loads(json.dumps(plain)) == plain | {"metrics": ["fid"]}


def test_chosen_settings_keep_the_order_of_their_names():
    assert list(chosen_settings(Config(), ["seed", "run_dir"]).items()) == [
        ("seed", 3),
        ("run_dir", "runs/a"),
    ]


def test_what_is_free_is_no_part_of_a_fingerprint():
    names = settings_but(Config(), ("run_dir", "genotype"))
    assert as_text(chosen_settings(Config(), names)) == {
        "seed": "3",
        "lr": "0.0002",
        "metrics": "('fid',)",
    }


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_at_least("steps", 0, 1), "steps must be at least 1; got 0"),
        (lambda: check_at_least("g_lr", float("nan"), 0), "g_lr must be at least 0; got nan"),
        (lambda: check_above("g_lr", 0.0, 0), "g_lr must be above 0; got 0.0"),
        (lambda: check_fraction("beta1", 1.0), r"beta1 must be in \[0, 1\); got 1.0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(check, message):
    with pytest.raises(InvalidValueError, match=message) as error:
        check()
    assert error.value.setting == message.partition(" ")[0]


def test_the_ends_of_a_range_and_what_is_not_given_are_fine():
    check_at_least("steps", 1, 1)
    check_at_least("threads", None, 1)
    check_above("g_clip", None, 0)
    check_fraction("beta1", 0.0)
