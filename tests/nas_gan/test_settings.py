import json
from dataclasses import dataclass
from pathlib import Path

from nas_gan.settings import as_text, chosen_settings, plain_settings, settings_but


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
